"""Two files are compared layer by layer, whatever wrote the quantized one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from PIL import Image

from edgekit_converters.diagnosis import QuantizationDiagnosis
from edgekit_converters.diagnosis.causes import Cause
from edgekit_converters.diagnosis.files import diagnose_files
from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.litert.emit import pack
from edgekit_converters.litert.layout import BorderLayout
from edgekit_converters.litert.model_file import read_model
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.source import float_source
from edgekit_converters.quantize.write_litert import write_litert
from edgekit_converters.ranges import collect_ranges
from edgekit_converters.repair.attempts import Candidate
from edgekit_converters.repair.bias_correction import correct_biases
from edgekit_converters.repair.equalize import equalize
from edgekit_converters.repair.written import write_candidate
from edgekit_runtime.bundle.archive import write_bundle
from edgekit_runtime.bundle.manifest import MANIFEST_NAME, Step, parse_manifest
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.formats import ModelFormat
from tests.converters.repair.chain_models import chain_model, images, plan_of
from tests.converters.repair.small_networks import Trained, broken, trained
from tests.simulators.tiny_bundles import affine_bundle

FORMATS = tuple(ModelFormat)
NETWORK, PAIRS = broken(outlier=1.0)
CULPRITS = {second for _, second in PAIRS}


@pytest.fixture
def floats(tmp_path: Path) -> Path:
    path = tmp_path / "float.onnx"
    onnx.save(NETWORK.model, path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.npz"
    np.savez(path, x=np.concatenate([batch["x"] for batch in NETWORK.calibration]))
    return path


def candidate(network: Trained = NETWORK, **plan: Any) -> Candidate:
    found = plan_of(collect_ranges(network.model, network.calibration))
    return Candidate(model=network.model, plan=dataclasses.replace(found, **plan))


def written(tmp_path: Path, what: Candidate, target: ModelFormat) -> Path:
    path = tmp_path / f"quantized{target.suffix}"
    write_candidate(what, target, path)
    return path


def compared(model: Path, quantized: Path, data: Path) -> QuantizationDiagnosis:
    return diagnose_files(model, quantized, data, samples=32, progress=lambda _: None)


def named(found: QuantizationDiagnosis) -> set[str]:
    return {layer.noise.node for layer in found.culprits}


@pytest.mark.parametrize("io", ["float", "int8"])
@pytest.mark.parametrize("target", FORMATS)
def test_the_culprits_are_read_from_the_file(
    tmp_path: Path, floats: Path, data: Path, target: ModelFormat, io: str
) -> None:
    found = compared(floats, written(tmp_path, candidate(io=io), target), data)
    assert named(found) == CULPRITS
    assert {layer.findings[0].cause for layer in found.culprits} == {Cause.CHANNELS}
    assert (found.scheme, found.samples) == ("int8", 32)
    assert found.agreement is not None
    assert found.agreement < 0.8
    assert len(found.layers) == len(NETWORK.model.graph.node)
    assert all(layer.noise.sqnr_db is not None for layer in found.layers)
    spreads = [layer.spread for layer in found.layers if layer.spread]
    assert len(spreads) == 8
    assert ("LiteRT" in found.judged) == (target is ModelFormat.LITERT)


@pytest.mark.parametrize("target", FORMATS)
def test_repaired_files_are_compared_with_channels_scaled_alike(
    tmp_path: Path, floats: Path, data: Path, target: ModelFormat
) -> None:
    statistics = collect_ranges(NETWORK.model, NETWORK.calibration)
    scaled = equalize(NETWORK.model, statistics).model
    plan = plan_of(collect_ranges(scaled, NETWORK.calibration))
    what = Candidate(model=correct_biases(scaled, plan, NETWORK.calibration), plan=plan)
    found = compared(floats, written(tmp_path, what, target), data)
    assert (named(found), found.first_parting) == (set(), None)
    assert found.agreement == 1.0
    assert all((layer.noise.sqnr_db or 0) > 25 for layer in found.layers)


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize(
    ("scheme", "quantized_layers"),
    [(Scheme.INT16X8, 8), (Scheme.INT8_WEIGHTS, 7), (Scheme.FP16, 0)],
)
def test_other_schemes_are_compared_too(
    tmp_path: Path,
    floats: Path,
    data: Path,
    target: ModelFormat,
    scheme: Scheme,
    quantized_layers: int,
) -> None:
    path = written(tmp_path, candidate(scheme=scheme), target)
    found = compared(floats, path, data)
    assert found.first_parting is None
    own = [layer for layer in found.layers if layer.noise.own_sqnr_db is not None]
    assert len(own) >= quantized_layers
    assert bool(own) == bool(quantized_layers)


def test_images_get_a_bundles_preprocessing(tmp_path: Path, floats: Path, data: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, image in enumerate(NETWORK.calibration[0]["x"][:16]):
        pixels = (255 * image[0]).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    files = affine_bundle("digits", "1.0.0", 2.0)
    manifest = parse_manifest(files.pop(MANIFEST_NAME), where="test")
    step = Step(op="affine", tensor="x", parameters={"scale": 1 / 255})
    bundle = tmp_path / "digits.ekb"
    write_bundle(bundle, dataclasses.replace(manifest, preprocessing=(step,)), files)
    path = written(tmp_path, candidate(), ModelFormat.ONNX)

    def found(calibration: Path) -> QuantizationDiagnosis:
        return diagnose_files(
            floats, path, calibration, preprocessing=bundle, progress=lambda _: None
        )

    diagnosis = found(tmp_path / "images")
    assert diagnosis.samples == 16
    assert named(diagnosis) == CULPRITS
    with pytest.raises(UsageError, match="folders of images or sound"):
        found(data)


def test_what_stays_float_in_the_file_has_no_noise_of_its_own(
    tmp_path: Path, floats: Path, data: Path
) -> None:
    kept = frozenset(name for pair in PAIRS for name in pair)
    what = candidate(scheme=Scheme.MIXED, keep_float=kept)
    for target in FORMATS:
        found = compared(floats, written(tmp_path, what, target), data)
        assert named(found) == set()
        of_float = {lay.noise.node for lay in found.layers if lay.noise.own_sqnr_db is None}
        # The layers in front of them still read 8 bits.
        assert of_float >= CULPRITS


def test_channels_last_inputs_are_fed_as_they_want(
    tmp_path: Path, floats: Path, data: Path
) -> None:
    what, path = candidate(), tmp_path / "last.tflite"
    compiled = compile_to_litert(what.model, where="", layout=BorderLayout.NHWC)
    write_litert(compiled, what.plan, path, where="", normalised=what.model)
    assert named(compared(floats, path, data)) == CULPRITS


@pytest.mark.parametrize("per_channel", [True, False])
def test_files_of_another_quantizer_are_read(
    tmp_path: Path, floats: Path, data: Path, per_channel: bool
) -> None:
    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(NETWORK.calibration)

        def get_next(self) -> Any:
            return next(self._left, None)

    path = tmp_path / "theirs.onnx"
    quantize_static(floats, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel)
    found = compared(floats, path, data)
    # They leave a Relu to the range, which is no fault of the layer in front of it.
    assert found.first_parting is not None
    assert found.first_parting.noise.node in CULPRITS
    assert named(found) >= CULPRITS


def test_tensors_without_names_are_told_by_their_place(tmp_path: Path, data: Path) -> None:
    model = tmp_path / "float.tflite"
    model.write_bytes(compile_to_litert(NETWORK.model, where="").content)
    path = written(tmp_path, candidate(), ModelFormat.LITERT)
    changed = read_model(schema, path.read_bytes())
    for number, tensor in enumerate(changed.subgraphs[0].tensors):
        tensor.name = f"tensor_{number}"
    path.write_bytes(pack(changed))
    found = compared(model, path, data)
    assert len(found.culprits) == len(CULPRITS)
    assert {layer.findings[0].cause for layer in found.culprits} == {Cause.CHANNELS}
    assert all(layer.noise.sqnr_db is not None for layer in found.layers)


def test_wrong_files_are_told(tmp_path: Path, floats: Path, data: Path) -> None:
    quantized = written(tmp_path, candidate(), ModelFormat.ONNX)
    with pytest.raises(UsageError, match="second model is not quantized"):
        compared(floats, floats, data)
    with pytest.raises(UnsupportedModelError, match="quantized already"):
        compared(quantized, quantized, data)
    table = tmp_path / "model.skops"
    table.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises((UsageError, UnsupportedModelError)):
        compared(table, quantized, data)


def test_models_that_have_nothing_in_common_are_told(tmp_path: Path, data: Path) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(trained(spread=0.0).model)
    for node in other.graph.node:
        node.name = f"other{node.name}"
        for side in (node.input, node.output):
            for at, name in enumerate(side):
                side[at] = name if name == "x" else f"other{name}"
    for tensor in (*other.graph.initializer, *other.graph.output, *other.graph.value_info):
        tensor.name = f"other{tensor.name}"
    path = tmp_path / "other.onnx"
    onnx.save(other, path)
    with pytest.raises(UsageError, match="no node or value"):
        compared(path, written(tmp_path, candidate(), ModelFormat.ONNX), data)


def test_the_output_that_is_read_is_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(1, 32, 4)),
        "r": rng.normal(size=(1, 32, 8)) * 0.3,
        "d": rng.normal(size=(8, 1)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("LSTM", ["x", "w", "r"], ["", "last"], name="lstm", hidden_size=8),
            helper.make_node("Squeeze", ["last", "axis"], ["moved"], name="squeezed"),
            helper.make_node("Gemm", ["moved", "d"], ["y"], name="dense; last"),
        ],
        "recurrent",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [5, 1, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1])],
        [
            *(
                onnx.numpy_helper.from_array(array.astype(np.float32), name)
                for name, array in weights.items()
            ),
            onnx.numpy_helper.from_array(np.array([0]), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    normal = normalise(onnx.shape_inference.infer_shapes(model), where="m")
    x = rng.normal(size=(5, 1, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    plan = plan_of(collect_ranges(normal, [{"x": x}]))
    path = written(tmp_path, Candidate(model=normal, plan=plan), ModelFormat.ONNX)
    found = compared(tmp_path / "m.onnx", path, tmp_path / "d.npz")
    layers = {layer.noise.node: layer.noise for layer in found.layers}
    assert layers["lstm"].value == "last"
    # One column of numbers names no class.
    assert found.agreement is None


def test_models_of_other_inputs_are_told(tmp_path: Path, floats: Path) -> None:
    other = tmp_path / "other.onnx"
    onnx.save(chain_model(()), other)
    batches = images()
    plan = plan_of(collect_ranges(chain_model(()), batches))
    path = written(tmp_path, Candidate(model=chain_model(()), plan=plan), ModelFormat.LITERT)
    np.savez(tmp_path / "data.npz", x=batches[0]["x"])
    assert compared(other, path, tmp_path / "data.npz").layers
    with pytest.raises(UsageError, match=r"takes \['.*6x6.*'\], and float.onnx takes"):
        compared(floats, path, tmp_path / "data.npz")


@pytest.mark.parametrize("target", FORMATS)
def test_columns_that_were_scaled_are_scaled_here_too(tmp_path: Path, target: ModelFormat) -> None:
    rng = np.random.default_rng(0)
    sizes = np.geomspace(0.01, 1000, 12).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("Gemm", ["r", "w1"], ["y"], name="second"),
        ],
        "table",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])],
        [
            onnx.numpy_helper.from_array(array.astype(np.float32), name)
            for name, array in {
                "w0": rng.normal(size=(12, 16)) / sizes[:, None],
                "b0": rng.normal(size=16),
                "w1": rng.normal(size=(16, 3)),
            }.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "table.onnx")
    x = (rng.normal(size=(64, 12)) * sizes).astype(np.float32)
    np.savez(tmp_path / "table.npz", x=x)
    normal = normalise(onnx.shape_inference.infer_shapes(model), where="table")
    scaled, remarks = float_source(normal, where="table", samples={"x": x})
    assert remarks
    plan = plan_of(collect_ranges(scaled, [{"x": x}]))
    path = written(tmp_path, Candidate(model=scaled, plan=plan), target)
    found = compared(tmp_path / "table.onnx", path, tmp_path / "table.npz")
    assert found.culprits == ()
    own = {layer.noise.node: layer.noise.own_sqnr_db for layer in found.layers}
    assert (own["second"] or 0) > 30
    assert own["first"] is None or own["first"] > 30


def test_layers_with_other_weights_have_no_noise_of_their_own(
    tmp_path: Path, floats: Path, data: Path
) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(NETWORK.model)
    last = next(t for t in changed.graph.initializer if t.name == changed.graph.node[-1].input[1])
    array = onnx.numpy_helper.to_array(last)
    last.CopyFrom(onnx.numpy_helper.from_array(-array, last.name))
    what = dataclasses.replace(candidate(), model=changed)
    found = compared(floats, written(tmp_path, what, ModelFormat.ONNX), data)
    assert found.layers[-1].noise.own_sqnr_db is None
    assert (found.layers[-1].noise.sqnr_db or 0) < 0


def test_a_model_of_one_sample_takes_them_one_by_one(tmp_path: Path) -> None:
    weights = np.ones((2, 3, 1, 1), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="only")],
        "one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 6, 6])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2, 6, 6])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "one.onnx")
    x = np.concatenate([batch["x"] for batch in images(2)])
    np.savez(tmp_path / "data.npz", x=x)
    plan = plan_of(collect_ranges(model, [{"x": one[None]} for one in x]))
    path = written(tmp_path, Candidate(model=model, plan=plan), ModelFormat.LITERT)
    found = compared(tmp_path / "one.onnx", path, tmp_path / "data.npz")
    assert (found.samples, found.agreement) == (len(x), None)
