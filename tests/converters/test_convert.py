from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekit_converters import checking, judging, reduced
from edgekit_converters import convert as module
from edgekit_converters.convert import ConversionRequest, Precision, convert_model
from edgekit_converters.litert.layout import BorderLayout
from edgekit_converters.litert.lower import registered, registry
from edgekit_converters.ranges import RangeMethod
from edgekit_converters.sources.kind import SourceKind
from edgekit_runtime.errors import (
    EdgekitError,
    EnvironmentLackError,
    GateFailedError,
    UnsupportedModelError,
    UsageError,
)
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.session import open_session

ONNX, LITERT = ModelFormat.ONNX, ModelFormat.LITERT
FLOAT, INT8 = Precision.FLOAT32, Precision.INT8


def _request(source: Path, output: Path, **changes: Any) -> ConversionRequest:
    options: dict[str, Any] = {"targets": (LITERT,), "precisions": (FLOAT,), **changes}
    return ConversionRequest(source=source, output=output, **options)


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def evaluation_file(cnn_file: Path, tmp_path: Path) -> Path:
    """Samples labelled by the model itself: its accuracy on them is one."""
    images = np.random.default_rng(8).normal(size=(200, 1, 8, 8)).astype(np.float32)
    scores = open_session(cnn_file).run({"image": images})["scores"]
    path = tmp_path / "evaluation.npz"
    np.savez(path, image=images, labels=scores.argmax(axis=1))
    return path


def test_every_artifact_with_its_figures(
    cnn_file: Path, calibration_file: Path, evaluation_file: Path, tmp_path: Path
) -> None:
    steps: list[str] = []
    output = tmp_path / "made"
    report = convert_model(
        _request(
            cnn_file, output, targets=(ONNX, LITERT), precisions=(FLOAT, INT8),
            calibration=calibration_file, evaluation=evaluation_file,
        ),
        progress=steps.append,
    )  # fmt: skip
    assert _names(output) == {
        "cnn.onnx", "cnn-int8.onnx", "cnn.tflite", "cnn-int8.tflite", "cnn.report.json",
    }  # fmt: skip
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert json.loads((output / "cnn.report.json").read_text()) == report.to_json()
    assert len(steps) > 5
    for artifact in report.artifacts:
        path = Path(artifact.path)
        assert path.stat().st_size == artifact.size_bytes
        session = open_session(path)
        assert [(s.name, s.shape) for s in session.inputs] == [("image", (None, 1, 8, 8))]
        assert [(s.name, s.dtype) for s in session.outputs] == [("scores", "float32")]
        assert artifact.paired is not None
        assert (artifact.paired.metric, artifact.paired.before) == ("top1", 1.0)
        assert artifact.accuracy == artifact.paired.after == artifact.agreement
        if artifact.precision is FLOAT:
            assert artifact.agreement == 1.0
            assert artifact.parity[0].max_relative_error < 1e-5
        else:
            assert artifact.agreement is not None
            assert artifact.agreement > 0.9
            assert artifact.parity[0].sqnr_db is not None
            assert artifact.parity[0].sqnr_db > 20
            assert artifact.size_bytes < 0.5 * cnn_file.stat().st_size


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("name", ["out.onnx", "out.tflite"])
def test_an_int8_file_runs_with_any_batch(
    name: str, batch: int, cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / name
    target = ONNX if name.endswith("onnx") else LITERT
    convert_model(
        _request(
            cnn_file, output, targets=(target,), precisions=(INT8,), calibration=calibration_file
        )
    )
    images = np.random.default_rng(1).normal(size=(batch, 1, 8, 8)).astype(np.float32)
    expected = open_session(cnn_file).run({"image": images})["scores"]
    computed = open_session(output).run({"image": images})["scores"]
    assert computed.shape == (batch, 10)
    assert np.abs(computed - expected).max() < 0.1 * np.abs(expected).max()


def test_a_model_that_int8_makes_larger_is_made_with_a_warning(
    make_model: Any, weights: Any, tmp_path: Path
) -> None:
    model = make_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 4]}, ["y"],
        {"w": weights(4, 3)},
    )  # fmt: skip
    onnx.save_model(model, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", x=weights(64, 4))
    request = _request(
        tmp_path / "m.onnx", tmp_path / "o.onnx", targets=(ONNX,), precisions=(INT8,),
        calibration=tmp_path / "c.npz",
    )  # fmt: skip
    assert any("smaller" in warning for warning in convert_model(request).warnings)


def test_one_artifact_may_be_a_file(cnn_file: Path, tmp_path: Path) -> None:
    convert_model(_request(cnn_file, tmp_path / "sub" / "mine.tflite"))
    assert _names(tmp_path / "sub") == {"mine.tflite", "mine.tflite.report.json"}


def test_the_same_source_makes_the_same_bytes(
    cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    reports = [
        convert_model(
            _request(
                cnn_file, tmp_path / name, targets=(ONNX, LITERT), precisions=(FLOAT, INT8),
                calibration=calibration_file,
            )
        )
        for name in ("first", "second")
    ]  # fmt: skip
    first, second = ([artifact.sha256 for artifact in report.artifacts] for report in reports)
    assert first == second


def test_a_litert_source_is_quantized_as_its_onnx_source_is(
    cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    convert_model(_request(cnn_file, tmp_path / "a.tflite"))
    report = convert_model(
        _request(
            tmp_path / "a.tflite", tmp_path / "b.tflite", precisions=(INT8,),
            calibration=calibration_file,
        )
    )  # fmt: skip
    (artifact,) = report.artifacts
    assert artifact.size_bytes < 0.5 * (tmp_path / "a.tflite").stat().st_size
    assert open_session(tmp_path / "b.tflite").inputs[0].dtype == "float32"


@pytest.mark.parametrize("name", ["a.tflite", "a.onnx"])
def test_what_is_quantized_already_is_refused(
    name: str, cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    target = LITERT if name.endswith("tflite") else ONNX
    options = {"targets": (target,), "precisions": (INT8,), "calibration": calibration_file}
    convert_model(_request(cnn_file, tmp_path / name, **options))
    with pytest.raises(UnsupportedModelError, match="quantized already"):
        convert_model(_request(tmp_path / name, tmp_path / f"again-{name}", **options))


@pytest.mark.parametrize("target", [ONNX, LITERT])
def test_a_quantization_that_changes_nothing_is_an_error(
    target: ModelFormat, make_model: Any, tmp_path: Path
) -> None:
    model = make_model([helper.make_node("Elu", ["x"], ["y"])], {"x": ["n", 4]}, ["y"])
    onnx.save_model(model, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", x=np.ones((40, 4), dtype=np.float32))
    request = _request(
        tmp_path / "m.onnx", tmp_path / "out", targets=(target,), precisions=(INT8,),
        calibration=tmp_path / "c.npz",
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="changed nothing"):
        convert_model(request)
    assert not (tmp_path / "out").exists()


def test_a_wrong_kernel_is_caught_and_its_node_named(
    cnn_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relu = registered()["Relu"]

    def wrong(build: Any, node: Any) -> None:
        build.emit("TANH" if node.name == "relu2" else "RELU", [build.input(node)], node)

    broken = registry.Lowering(function=wrong, layout=relu.layout, dtypes=relu.dtypes)
    monkeypatch.setitem(registry._REGISTRY, "Relu", broken)
    with pytest.raises(GateFailedError, match=r"first at relu2 \(Relu\)") as caught:
        convert_model(_request(cnn_file, tmp_path / "out", targets=(ONNX, LITERT)))
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_unsupported_operators_are_named_before_anything_is_written(
    make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["a"], name="first"),
        helper.make_node("Tanh", ["a"], ["y"], name="second"),
    ]
    onnx.save_model(make_model(nodes, {"x": ["n", 4]}, ["y"]), str(tmp_path / "m.onnx"))
    before = _names(tmp_path)
    for operator in ("Sigmoid", "Tanh"):
        monkeypatch.delitem(registry._REGISTRY, operator)
    with pytest.raises(UnsupportedModelError, match=r"first \(Sigmoid\).*second \(Tanh") as caught:
        convert_model(_request(tmp_path / "m.onnx", tmp_path / "out", targets=(ONNX, LITERT)))
    assert caught.value.exit_code == 3
    assert _names(tmp_path) == before
    # To ONNX they go all the same.
    convert_model(_request(tmp_path / "m.onnx", tmp_path / "out", targets=(ONNX,)))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", ["write_litert", "compare", "publish", "compare_answers"])
def test_an_interruption_leaves_everything_as_it_was(
    *, error: type[BaseException], where: str, cnn_file: Path, calibration_file: Path,
    evaluation_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    output = tmp_path / "made"
    output.mkdir()
    (output / "cnn.tflite").write_text("precious")
    before = _names(tmp_path)

    def interrupted(*_: object, **__: object) -> None:
        raise error

    owner = {"write_litert": reduced, "compare": checking, "publish": module}
    monkeypatch.setattr(owner.get(where, judging), where, interrupted)
    with pytest.raises(error):
        convert_model(
            _request(
                cnn_file, output, precisions=(FLOAT, INT8), calibration=calibration_file,
                evaluation=evaluation_file,
            )
        )  # fmt: skip
    assert _names(tmp_path) == before
    assert (output / "cnn.tflite").read_text() == "precious"


def test_answers_that_change_are_a_warning(make_model: Any, weights: Any, tmp_path: Path) -> None:
    # One feature is ten thousand times the others: an integer input has nothing left for them.
    matrix = weights(64, 10)
    matrix[0] = 0.0
    model = make_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 64]}, ["y"], {"w": matrix}
    )
    onnx.save_model(model, str(tmp_path / "m.onnx"))
    samples = weights(64, 64, seed=2)
    samples[:, 0] *= 1e4
    np.savez(tmp_path / "c.npz", x=samples)
    request = _request(
        tmp_path / "m.onnx", tmp_path / "o.tflite", precisions=(INT8,),
        calibration=tmp_path / "c.npz", io="int8", range_method=RangeMethod.MIN_MAX,
    )  # fmt: skip
    report = convert_model(request)
    assert any("o.tflite: only" in warning for warning in report.warnings)
    np.savez(tmp_path / "e.npz", x=samples, labels=(samples @ matrix).argmax(axis=1))
    report = convert_model(dataclasses.replace(request, evaluation=tmp_path / "e.npz"))
    assert any("top1 went from 1 to" in warning for warning in report.warnings)


# What cannot work.


def test_outputs_that_are_no_arrays(tmp_path: Path) -> None:
    from onnx import TensorProto

    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])]
    outputs = [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])], "g", values, outputs
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(tmp_path / "m.onnx"))
    with pytest.raises(UnsupportedModelError, match="no arrays of numbers"):
        convert_model(_request(tmp_path / "m.onnx", tmp_path / "out", targets=(ONNX,)))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", UsageError),
        (b"this is a text, not a model, and longer than a header", UnsupportedModelError),
        (b"PK\x03\x04" + bytes(60), UnsupportedModelError),
        (b"\x08\x08" + bytes(60), UnsupportedModelError),
    ],
)
def test_files_that_are_no_models(
    content: bytes, error: type[EdgekitError], tmp_path: Path
) -> None:
    source = tmp_path / "bad.onnx"
    source.write_bytes(content)
    with pytest.raises(error) as caught:
        convert_model(_request(source, tmp_path / "out"))
    assert caught.value.where == str(source)
    assert caught.value.fix
    assert _names(tmp_path) == {"bad.onnx"}


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.999])
def test_truncated_onnx(share: float, cnn_file: Path, tmp_path: Path) -> None:
    whole = cnn_file.read_bytes()
    cnn_file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UnsupportedModelError) as caught:
        convert_model(_request(cnn_file, tmp_path / "out"))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.999])
def test_truncated_tflite(
    share: float, cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    source = tmp_path / "a.tflite"
    convert_model(_request(cnn_file, source))
    whole = source.read_bytes()
    source.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UnsupportedModelError):
        convert_model(
            _request(source, tmp_path / "out", precisions=(INT8,), calibration=calibration_file)
        )


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for source in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(UsageError):
            convert_model(_request(source, tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precisions": (INT8,)}, "needs calibration"),
        ({"targets": ()}, "nothing to make"),
        ({"max_error": 2.0}, "between 0 and 1"),
        ({"output": Path("x.tflite"), "targets": (ONNX, LITERT)}, "names one"),
        ({"output": Path("x.onnx")}, "the target is tflite"),
        ({"calibration": Path("absent.npz")}, "no such file"),
        ({"evaluation": Path("absent.npz")}, "no such file"),
    ],
)
def test_requests_that_contradict_themselves(
    changes: Any, reason: str, cnn_file: Path, tmp_path: Path
) -> None:
    options = {"output": tmp_path / "out", **changes}
    with pytest.raises(UsageError, match=reason) as caught:
        convert_model(_request(cnn_file, options.pop("output"), **options))
    assert caught.value.fix


def test_wrong_shapes_in_the_calibration_data(cnn_file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", image=np.zeros((4, 8, 8, 1), dtype=np.float32))
    with pytest.raises(UsageError, match=r"\[4, 8, 8, 1\]"):
        convert_model(
            _request(cnn_file, tmp_path / "out", precisions=(INT8,), calibration=tmp_path / "c.npz")
        )


def test_the_source_is_never_replaced(cnn_file: Path) -> None:
    for output in (cnn_file.parent, cnn_file):
        with pytest.raises(UsageError, match="replace the source"):
            convert_model(_request(cnn_file, output, targets=(ONNX,)))


def test_an_output_that_is_a_file(cnn_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(UsageError, match="must be a folder"):
        convert_model(_request(cnn_file, tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "precious"


def test_litert_to_onnx_and_back_is_the_same(cnn_file: Path, tmp_path: Path) -> None:
    convert_model(_request(cnn_file, tmp_path / "a.tflite"))
    report = convert_model(_request(tmp_path / "a.tflite", tmp_path / "b.onnx", targets=(ONNX,)))
    assert report.source_kind is SourceKind.TFLITE
    assert report.reference.startswith("litert ")
    assert report.artifacts[0].parity[0].max_relative_error < 1e-5
    images = np.random.default_rng(1).normal(size=(3, 1, 8, 8)).astype(np.float32)
    expected = open_session(cnn_file).run({"image": images})["scores"]
    computed = open_session(tmp_path / "b.onnx").run({"image": images})["scores"]
    assert np.abs(computed - expected).max() < 1e-5 * np.abs(expected).max()


def test_quantized_litert_to_onnx_stays_quantized(
    cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    int8 = {"precisions": (INT8,), "calibration": calibration_file}
    convert_model(_request(cnn_file, tmp_path / "a.tflite", **int8))
    report = convert_model(_request(tmp_path / "a.tflite", tmp_path / "b.onnx", targets=(ONNX,)))
    (artifact,) = report.artifacts
    assert artifact.precision is INT8
    assert artifact.size_bytes < 0.6 * cnn_file.stat().st_size
    assert artifact.parity[0].max_relative_error < 0.02


def test_litert_to_litert_needs_a_quantization(cnn_file: Path, tmp_path: Path) -> None:
    convert_model(_request(cnn_file, tmp_path / "a.tflite"))
    with pytest.raises(UsageError, match="already"):
        convert_model(_request(tmp_path / "a.tflite", tmp_path / "out"))


@pytest.mark.parametrize("target", [ONNX, LITERT])
def test_half_precision(target: ModelFormat, cnn_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    report = convert_model(
        _request(cnn_file, output, targets=(target,), precisions=(FLOAT, Precision.FLOAT16))
    )
    whole, half = report.artifacts
    assert Path(half.path).name == f"cnn-fp16{target.suffix}"
    assert half.precision is Precision.FLOAT16
    assert half.size_bytes < 0.6 * whole.size_bytes
    assert 0 < half.parity[0].max_relative_error < 0.01
    assert half.probes >= 3
    assert open_session(Path(half.path)).inputs[0].dtype == "float32"


def test_a_litert_source_in_half_precision(cnn_file: Path, tmp_path: Path) -> None:
    convert_model(_request(cnn_file, tmp_path / "a.tflite"))
    request = _request(
        tmp_path / "a.tflite", tmp_path / "b.tflite", precisions=(Precision.FLOAT16,)
    )
    (artifact,) = convert_model(request).artifacts
    assert artifact.size_bytes < 0.6 * (tmp_path / "a.tflite").stat().st_size


def test_images_with_channels_last(
    cnn_file: Path, calibration_file: Path, evaluation_file: Path, tmp_path: Path
) -> None:
    report = convert_model(
        _request(
            cnn_file, tmp_path / "out", targets=(ONNX, LITERT), precisions=(FLOAT, INT8),
            calibration=calibration_file, evaluation=evaluation_file, layout=BorderLayout.NHWC,
        )
    )  # fmt: skip
    axes = {artifact.path: artifact.axes for artifact in report.artifacts}
    made = {Path(path).name: dict(order) for path, order in axes.items()}
    assert made["cnn.onnx"] == made["cnn-int8.onnx"] == {}
    assert made["cnn.tflite"] == made["cnn-int8.tflite"] == {"image": (0, 2, 3, 1)}
    assert report.to_json()["layout"] == "nhwc"
    # The user's data is in the source's order; what was measured on it holds for both.
    assert {a.agreement for a in report.artifacts if a.precision is FLOAT} == {1.0}
    assert all(a.agreement is not None and a.agreement > 0.9 for a in report.artifacts)
    session = open_session(tmp_path / "out" / "cnn.tflite")
    assert session.inputs[0].shape == (None, 8, 8, 1)


@pytest.mark.parametrize("name", ["a.tflite", "b.onnx"])
def test_a_layout_that_nothing_can_have_is_refused(
    name: str, cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    convert_model(_request(cnn_file, tmp_path / "a.tflite"))
    target = ONNX if name.endswith("onnx") else LITERT
    source = cnn_file if target is ONNX else tmp_path / "a.tflite"
    request = _request(
        source, tmp_path / "out", targets=(target,), precisions=(INT8,),
        calibration=calibration_file, layout=BorderLayout.NHWC,
    )  # fmt: skip
    with pytest.raises(UsageError, match="layout"):
        convert_model(request)


def test_a_missing_package_is_named_with_its_installation(
    cnn_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    original = builtins.__import__

    def without_onnx(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "onnx" or name.startswith("onnx."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *arguments, **options)

    import importlib

    def import_module(name: str, package: str | None = None) -> Any:
        return without_onnx(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(EnvironmentLackError) as caught:
        convert_model(_request(cnn_file, tmp_path / "out"))
    assert caught.value.fix == 'pip install "edgekit[convert]"'
    assert caught.value.exit_code == 4


# Models that others trained.


def test_mnist(shared_data: Path, tmp_path: Path) -> None:
    import gzip

    raw = gzip.decompress((shared_data / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((shared_data / "mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    classes = np.frombuffer(labels, np.uint8, offset=8)
    np.savez(tmp_path / "c.npz", x=images[::100])
    np.savez(tmp_path / "e.npz", x=images[1::10], labels=classes[1::10])
    report = convert_model(
        _request(
            shared_data / "mnist" / "mnist.onnx", tmp_path / "out", precisions=(FLOAT, INT8),
            targets=(ONNX, LITERT), calibration=tmp_path / "c.npz",
            evaluation=tmp_path / "e.npz",
        )
    )  # fmt: skip
    for artifact in report.artifacts:
        assert artifact.paired is not None
        assert artifact.paired.drop <= (0.0 if artifact.precision is FLOAT else 0.002)
        assert artifact.agreement is not None
        assert artifact.agreement >= 0.995


def test_a_litert_file_with_old_operator_codes_and_no_signature(
    cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    from ai_edge_litert import schema_py_generated as schema

    from edgekit_converters.litert.emit import pack

    convert_model(_request(cnn_file, tmp_path / "new.tflite"))
    content = (tmp_path / "new.tflite").read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    model.signatureDefs = None
    for code in model.operatorCodes:
        code.builtinCode = 0
    (tmp_path / "old.tflite").write_bytes(pack(model))
    int8 = {"precisions": (INT8,), "calibration": calibration_file}
    new = convert_model(_request(tmp_path / "new.tflite", tmp_path / "new8.tflite", **int8))
    old = convert_model(_request(tmp_path / "old.tflite", tmp_path / "old8.tflite", **int8))
    assert old.artifacts[0].parity == new.artifacts[0].parity
    assert old.artifacts[0].size_bytes == pytest.approx(new.artifacts[0].size_bytes, abs=512)


@pytest.mark.parametrize("name", ["kws-dscnn/kws_ref_model", "bad-person-detect/person_detect"])
def test_published_int8_files_are_refused(name: str, shared_data: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.zeros((4, 49, 10, 1), dtype=np.float32))
    request = _request(
        shared_data / f"{name}.tflite", tmp_path / "out", precisions=(INT8,),
        calibration=tmp_path / "c.npz",
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError):
        convert_model(request)


@pytest.mark.parametrize("name", ["kws-dscnn/model_kws.onnx", "tabular-breast-cancer/bc_mlp.onnx"])
def test_others_convert_within_a_hundred_thousandth(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    report = convert_model(_request(shared_data / name, tmp_path / "out.tflite", max_error=1e-5))
    assert report.artifacts[0].probes >= 7
