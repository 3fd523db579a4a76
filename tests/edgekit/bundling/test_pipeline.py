"""Pre- and postprocessing in a bundle: written, checked, and the same here as on a device."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.bundling.create import BundleRequest, create_bundle, prove_bundle
from edgekit.bundling.pipeline import PARAMETERS, Pipeline, pipeline_of_options, read_pipeline
from edgekit.bundling.pipeline_fit import fit_pipeline
from edgekit.cli import edgekit
from edgekit_runtime import processing
from edgekit_runtime.bundle.archive import BundleArchive
from edgekit_runtime.bundle.golden import load_arrays
from edgekit_runtime.bundle.manifest import Manifest, Step
from edgekit_runtime.errors import UsageError
from edgekit_runtime.processing import apply_steps
from edgekit_runtime.tensors import TensorSpec

CLASSES = ("daisy", "rose", "tulip")
DOCUMENT = Path(__file__).parents[3] / "docs" / "bundles.md"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The mean of each channel decides: pictures of 3 x 6 x 6, channels first."""
    onnx = pytest.importorskip("onnx", reason="makes the model")
    helper = onnx.helper
    floats = onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("x", floats, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("logits", floats, ["n", 3])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, tmp_path / "flowers.onnx")
    return tmp_path / "flowers.onnx"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures of each class, whose channel shines; the first is in a wrong folder."""
    image = pytest.importorskip("PIL.Image", reason="writes pictures")
    rng = np.random.default_rng(7)
    for number, name in enumerate(CLASSES):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for position in range(4):
            pixels = rng.integers(0, 120, (9, 12, 3), dtype=np.uint8)
            shining = (number + (number + position == 0)) % 3
            pixels[:, :, shining] += 100
            image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{position}.png")
    return tmp_path / "pictures"


@pytest.fixture
def make(model: Path, tmp_path: Path) -> Callable[..., Manifest]:
    def create(data: Path, pipeline: Pipeline | None = None, **others: object) -> Manifest:
        request = BundleRequest(
            name="flowers",
            version="1.0.0",
            models=(model,),
            data=data,
            output=tmp_path / "flowers.ekb",
            pipeline=pipeline,
        )
        return create_bundle(replace(request, **others))

    return create


def read(path: Path, name: str) -> Mapping[str, np.ndarray]:
    with BundleArchive(path) as archive:
        return load_arrays(archive.read(name), where=name)


def test_pictures_go_through_the_steps(make, pictures: Path, tmp_path: Path) -> None:
    chosen = pipeline_of_options(image="rgb,crop", scale=[0.01], offset=[-1.0], then=["softmax"])
    manifest = make(pictures, chosen, labels=CLASSES, golden_samples=5)
    (given,), (answered,) = manifest.inputs, manifest.outputs
    assert (given.dtype, given.shape) == ("uint8", (None, 3, 6, 6))
    assert (answered.dtype, answered.shape) == ("float32", (None, 3))
    golden = read(tmp_path / "flowers.ekb", "golden/inputs.npz")["x"]
    assert golden.dtype == np.float32
    assert -1 <= golden.min() < 0 < golden.max() <= 1.55
    assert manifest.variants[0].accuracy is not None
    assert manifest.variants[0].accuracy.value == pytest.approx(11 / 12)
    with BundleArchive(tmp_path / "flowers.ekb") as archive:
        seen = json.loads(archive.read("reference/statistics.json"))
    # What applications give and get: pixels, and probabilities.
    assert 0 <= seen["inputs"]["x"]["quantiles"][0] < 120 < seen["inputs"]["x"]["quantiles"][-1]
    assert 0 < seen["outputs"]["logits"]["quantiles"][-1] <= 1
    assert seen["largest"]["logits"] == [3, 5, 4]
    (tmp_path / "proof").mkdir()
    (proven,) = prove_bundle(tmp_path / "flowers.ekb", tmp_path / "proof")
    assert proven.results[0].samples == 5


def test_a_device_makes_the_same_of_a_picture(make, pictures: Path, tmp_path: Path) -> None:
    from edgekit_agent.hosted import HostedModel
    from edgekit_agent.plain_bodies import read_media
    from edgekit_agent.plans import ModelPlan

    scale = [0.01, 0.02, 0.03]
    make(pictures, pipeline_of_options(image="bgr", scale=scale, then=["softmax"]))
    folder = tmp_path / "slot"
    with BundleArchive(tmp_path / "flowers.ekb") as archive:
        folder.mkdir()
        archive.extract(folder)
        golden = load_arrays(archive.read("golden/onnx-float32.npz"), where="")["logits"]
    plan = ModelPlan(
        bundle="flowers", version="1.0.0", digest="0" * 64, variant="onnx-float32",
        folder=str(folder), threads=1, runtime="onnxruntime",
    )  # fmt: skip
    model = HostedModel(plan)
    first = sorted(pictures.rglob("*.png"))[0]
    answer = model.infer(read_media(model, "image/png", first.read_bytes()))["logits"]
    model.close()
    expected = apply_steps([Step(op="softmax", tensor="logits")], {"logits": golden[:1]})
    np.testing.assert_allclose(answer, expected["logits"], rtol=1e-6)


def test_the_file_beside_the_pictures_is_enough(make, pictures: Path) -> None:
    steps = [{"op": "affine", "tensor": "x", "parameters": {"scale": 0.5}}]
    document = {"colour": "bgr", "fit": "pad", "size": [6, 6], "preprocessing": steps}
    (pictures / "preprocessing.json").write_text(json.dumps(document))
    manifest = make(pictures)
    assert [step.op for step in manifest.preprocessing] == ["image", "affine"]
    assert manifest.preprocessing[0].parameters == {"colour": "bgr", "fit": "pad"}
    assert manifest.lineage["pipeline"]["file"] == "preprocessing.json"


def test_the_documented_file_works(make, pictures: Path, tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "pipeline.toml").write_text(text)
    manifest = make(pictures, read_pipeline(tmp_path / "pipeline.toml"), labels=CLASSES)
    assert manifest.inputs[0].meaning == "a flower from above"
    # The channels are the second axis of this input.
    assert manifest.preprocessing[1].parameters["axis"] == 1


def test_the_documented_commands_work(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    commands = [line for line in blocks[0].replace("\\\n", " ").splitlines() if line]
    assert len(commands) == 2
    for command in commands:
        name, *arguments = shlex.split(command)
        done = CliRunner().invoke(edgekit, arguments)
        assert (name, done.exit_code) == ("edgekit", 0), done.output
    assert "12 golden samples match" in done.output


def test_every_step_of_devices_is_known_and_documented() -> None:
    documented = DOCUMENT.read_text(encoding="utf-8")
    assert set(PARAMETERS) == set(processing._STEPS)
    for name, parameters in PARAMETERS.items():
        (row,) = [line for line in documented.splitlines() if re.match(rf"\|.*`{name}`.*\|", line)]
        assert all(f"`{parameter}`" in row for parameter in parameters)


def test_sound_is_decoded_and_resampled(tmp_path: Path) -> None:
    import wave

    from runtime.models import linear_model

    (tmp_path / "sounds").mkdir()
    for number in range(3):
        with wave.open(str(tmp_path / "sounds" / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8_000)
            file.writeframes(np.full(9, 8_000 * number, "<i2").tobytes())
    request = BundleRequest(
        name="noise",
        version="1.0.0",
        models=(linear_model(tmp_path / "linear.onnx"),),
        data=tmp_path / "sounds",
        output=tmp_path / "noise.ekb",
        pipeline=pipeline_of_options(sound_hz=4_000),
    )
    manifest = create_bundle(request)
    assert manifest.inputs[0].dtype == "float32"
    assert read(request.output, "golden/inputs.npz")["x"][1].max() == pytest.approx(0.25, rel=0.2)
    with pytest.raises(UsageError, match="how sound becomes the input"):
        create_bundle(replace(request, pipeline=None))


def test_arrays_are_what_applications_give(make, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (8, 3, 6, 6), dtype=np.uint8)
    labels = pixels.mean(axis=(2, 3)).argmax(axis=1)
    np.savez(tmp_path / "pixels.npz", x=pixels, labels=labels)
    manifest = make(tmp_path / "pixels.npz", pipeline_of_options(scale=[0.5], then=["argmax"]))
    assert manifest.inputs[0].dtype == "uint8"
    assert (manifest.outputs[0].dtype, manifest.outputs[0].shape) == ("int64", (None,))
    np.testing.assert_array_equal(
        read(tmp_path / "flowers.ekb", "golden/inputs.npz")["x"], pixels * np.float32(0.5)
    )
    assert manifest.variants[0].accuracy is not None
    assert manifest.variants[0].accuracy.value == 1.0
    np.savez(tmp_path / "doubles.npz", x=pixels.astype(np.float64))
    manifest = make(tmp_path / "doubles.npz", pipeline_of_options(scale=[0.5]))
    assert manifest.inputs[0].dtype == "float32"


@pytest.mark.parametrize(
    ("document", "places"),
    [
        ('[[preprocessing]]\nop = "norm"', ["preprocessing[0].op: 'norm' is no step"]),
        (
            '[[preprocessing]]\nop = "image"\nfitt = 1\n[[postprocessing]]\nop = 3',
            ["preprocessing[0].fitt: the step image has no", "postprocessing[0].op: must be a str"],
        ),
        ('[[preprocessing]]\nop = "affine"\nscale = nan', ["preprocessing[0].scale: must be"]),
        ("prepro = 1", ["prepro: is unknown"]),
        ('[inputs.x]\ndtype = "text"', ["inputs.x.dtype: 'text' does not match"]),
        ("colour = 'red'", ["colour: 'red' does not match"]),
    ],
)
def test_a_wrong_file_is_said_with_its_places(
    document: str, places: list[str], tmp_path: Path
) -> None:
    (tmp_path / "wrong.toml").write_text(document)
    with pytest.raises(UsageError) as caught:
        read_pipeline(tmp_path / "wrong.toml")
    for place in places:
        assert place in caught.value.what


def test_no_file_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_pipeline(tmp_path / "none.toml")
    for name in ("x.toml", "x.json"):
        (tmp_path / name).write_text("[[")
        with pytest.raises(UsageError, match="the pipeline cannot be read"):
            read_pipeline(tmp_path / name)


INPUTS = (TensorSpec(name="x", dtype="float32", shape=(None, 3, 6, 6)),)
OUTPUTS = (TensorSpec(name="y", dtype="uint8", shape=(None, 4)),)


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ([Step(op="affine", tensor="z")], [], "preprocessing[0] affine.tensor: 'z' is no input"),
        ([Step(op="cast", tensor="x", parameters={"dtype": "int4"})], [], "preprocessing[0] cast:"),
        ([Step(op="cast", tensor="x", parameters={"dtype": "int8"})], [], "the steps make int8"),
        ([Step(op="argmax", tensor="x")], [], "the steps make int64 with 3 axes"),
        ([Step(op="clip", tensor="x", parameters={"low": 1})], [], "clip: the step's parameter"),
        ([Step(op="affine", tensor="x", parameters={"scale": [1, 2]})], [], "has 2 numbers"),
        ([Step(op="affine", tensor="x"), Step(op="image", tensor="x")], [], "must be the first"),
        ([Step(op="sound", tensor="x", parameters={"sample_rate_hz": 8000})], [], "takes no sound"),
        ([Step(op="image", tensor="x", parameters={"fit": "cut"})], [], "image: the step `image`"),
        ([], [Step(op="softmax", tensor="y")], "postprocessing[0] softmax: needs floats"),
        ([], [Step(op="image", tensor="y")], "postprocessing[0] image: is of inputs"),
    ],
)
def test_what_does_not_fit_the_model_is_said_before_it_runs(
    before: list[Step], after: list[Step], place: str
) -> None:
    pipeline = Pipeline(preprocessing=tuple(before), postprocessing=tuple(after))
    with pytest.raises(UsageError) as caught:
        fit_pipeline(pipeline, INPUTS, OUTPUTS, given={})
    assert place in caught.value.what


def test_all_faults_are_said_at_once() -> None:
    steps = (Step(op="clip", tensor=""), Step(op="cast", tensor=""))
    pipeline = Pipeline(preprocessing=steps, postprocessing=(Step(op="sigmoid", tensor=""),))
    with pytest.raises(UsageError) as caught:
        fit_pipeline(pipeline, INPUTS, OUTPUTS, given={}, labels=("a", "b"))
    for place in ("[0] clip", "[1] cast", "[0] sigmoid", "2 labels for 4 classes"):
        assert place in caught.value.what


def test_of_several_inputs_a_step_names_one() -> None:
    other = TensorSpec(name="z", dtype="float32", shape=(None, 2))
    with pytest.raises(UsageError, match="must name one of the inputs x, z"):
        fit_pipeline(
            Pipeline(preprocessing=(Step(op="affine", tensor=""),)),
            (*INPUTS, other),
            OUTPUTS,
            given={},
        )


@pytest.mark.parametrize(
    "options", [{"image": "red"}, {"image": "rgb,cut"}, {"image": "rgb", "sound_hz": 8000}]
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        pipeline_of_options(**options)
    assert pipeline_of_options() is None


def test_a_wrong_version_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    request = BundleRequest(
        name="Flowers", version="1", models=(missing,), data=missing, output=missing, task="A"
    )
    with pytest.raises(UsageError) as caught:
        create_bundle(request)
    assert "'1': write it like 1.4.0" in caught.value.what
    assert "'Flowers'" in caught.value.what
    assert "'A'" in caught.value.what
