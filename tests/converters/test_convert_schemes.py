"""Every scheme in both formats, from one calibration, with what a user may fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit_converters import intake
from edgekit_converters.convert import ConversionReport, ConversionRequest, Precision, convert_model
from edgekit_converters.goal import AccuracyGoal
from edgekit_converters.ranges import RangeMethod
from edgekit_converters.reduced import ReducedForms
from edgekit_converters.request import parse_schemes
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph.read import read_graph
from edgekit_runtime.session import open_session

ONNX, LITERT = ModelFormat.ONNX, ModelFormat.LITERT
REDUCED = tuple(precision for precision in Precision if precision.scheme)
# Of the float file; small models keep names and scales.
LARGEST_SHARE = {
    Precision.FLOAT16: 0.55, Precision.INT8: 0.4, Precision.INT8_DYNAMIC: 0.4,
    Precision.INT8_WEIGHTS: 0.4, Precision.INT16X8: 0.4, Precision.INT4_WEIGHTS: 0.3,
    Precision.MIXED: 0.4,
}  # fmt: skip


def _convert(source: Path, output: Path, **changes: Any) -> ConversionReport:
    options: dict[str, Any] = {"targets": (ONNX, LITERT), "precisions": REDUCED, **changes}
    return convert_model(ConversionRequest(source=source, output=output, **options))


def _operators(path: str) -> list[str]:
    return [operator.type for operator in read_graph(Path(path)).operators]


def test_every_scheme_in_both_formats_from_one_calibration(
    cnn_file: Path, calibration_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit_converters import reduced

    calls: list[int] = []
    collect = reduced.collect_ranges

    def counting(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return collect(*arguments, **options)

    monkeypatch.setattr(reduced, "collect_ranges", counting)
    report = _convert(cnn_file, tmp_path / "out", calibration=calibration_file)
    assert len(calls) == 1
    whole = cnn_file.stat().st_size
    assert {(a.format, a.precision) for a in report.artifacts} == {
        (target, precision) for target in (ONNX, LITERT) for precision in REDUCED
    }
    for artifact in report.artifacts:
        scheme = artifact.precision.scheme
        assert scheme is not None
        assert Path(artifact.path).name == f"cnn-{scheme}{artifact.format.suffix}"
        assert artifact.size_bytes < LARGEST_SHARE[artifact.precision] * whole, artifact.path
        assert artifact.agreement is not None
        assert artifact.agreement >= (0.8 if artifact.precision is Precision.INT4_WEIGHTS else 0.95)


def test_schemes_without_fixed_ranges_need_no_calibration(cnn_file: Path, tmp_path: Path) -> None:
    precisions = tuple(p for p in REDUCED if p.scheme and not p.scheme.needs_ranges)
    assert len(precisions) == 4
    report = _convert(cnn_file, tmp_path / "out", precisions=precisions)
    assert len(report.artifacts) == 8
    for precision in set(REDUCED) - set(precisions):
        with pytest.raises(UsageError, match=f"{precision.scheme} needs calibration"):
            _convert(cnn_file, tmp_path / "more", precisions=(precision,))


def test_remarks_of_the_writers_are_warnings_with_the_file_that_they_are_about(
    cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    report = _convert(
        cnn_file, tmp_path / "out", targets=(ONNX,), precisions=(Precision.INT16X8,),
        calibration=calibration_file,
    )  # fmt: skip
    assert any(w.startswith("cnn-int16x8.onnx: onnxruntime has no") for w in report.warnings)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT16X8, Precision.MIXED])
def test_integers_at_the_border(
    precision: Precision, cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"precisions": (precision,), "calibration": calibration_file}
    kind = "int16" if precision is Precision.INT16X8 else "int8"
    plain = _convert(cnn_file, tmp_path / "float", **options)
    report = _convert(cnn_file, tmp_path / "int8", io="int8", **options)
    for floats, integers in zip(plain.artifacts, report.artifacts, strict=True):
        session = open_session(Path(integers.path))
        assert [s.dtype for s in (*session.inputs, *session.outputs)] == [kind, kind]
        # It is judged in the numbers that the integers stand for.
        assert integers.agreement is not None
        assert integers.agreement > 0.95
        assert integers.parity[0].sqnr_db == pytest.approx(floats.parity[0].sqnr_db, abs=3)


@pytest.mark.parametrize("word", ["gemm", "dense1"])
def test_what_is_to_stay_float_does(
    word: str, cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"precisions": (Precision.INT8,), "calibration": calibration_file}
    plain = _convert(cnn_file, tmp_path / "plain", **options)
    kept = _convert(cnn_file, tmp_path / "kept", keep_float=(word,), **options)
    large = 128 * 160 * 2
    for less, more in zip(plain.artifacts, kept.artifacts, strict=True):
        assert more.size_bytes > less.size_bytes + large


def test_another_range_method_makes_another_model(
    cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    made = {
        method: [
            artifact.sha256
            for artifact in _convert(
                cnn_file, tmp_path / method.value, precisions=(Precision.INT8,),
                calibration=calibration_file, range_method=method,
            ).artifacts
        ]
        for method in (RangeMethod.MIN_MAX, RangeMethod.MSE)
    }  # fmt: skip
    assert not set(made[RangeMethod.MIN_MAX]) & set(made[RangeMethod.MSE])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precisions": (Precision.FLOAT16,), "io": "int8"}, "integer inputs and outputs"),
        (
            {"precisions": (Precision.FLOAT16,), "range_method": RangeMethod.ENTROPY},
            "ranges to choose",
        ),
        ({"precisions": (Precision.FLOAT32,), "keep_float": ("Conv",)}, "nothing is quantized"),
        ({"precisions": (Precision.FLOAT16,), "keep_float": ("Cov", "x")}, "the model: Cov, x"),
    ],
)  # fmt: skip
def test_options_that_nothing_would_heed(
    changes: dict[str, Any], reason: str, cnn_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        _convert(cnn_file, tmp_path / "out", **changes)
    assert caught.value.fix
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("none", ()),
        ("int8", (Precision.INT8,)),
        (" FP16, int8,int8 ", (Precision.FLOAT16, Precision.INT8)),
        ("int4-weights,int8-dynamic", (Precision.INT4_WEIGHTS, Precision.INT8_DYNAMIC)),
    ],
)
def test_schemes_are_read(text: str, found: tuple[Precision, ...]) -> None:
    assert parse_schemes(text) == found


@pytest.mark.parametrize("text", ["", ",", "int9", "int8,none", "int8;fp16"])
def test_words_that_are_no_schemes(text: str) -> None:
    with pytest.raises(UsageError, match="no quantization scheme") as caught:
        parse_schemes(text)
    assert "int8-dynamic" in caught.value.fix


# Files that ONNX cannot say.


def _refuse(*_: object) -> None:
    raise UnsupportedModelError("it has an operator that ONNX lacks")


@pytest.fixture
def litert_file(cnn_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "plain.tflite"
    _convert(cnn_file, path, targets=(LITERT,), precisions=(Precision.FLOAT32,))

    monkeypatch.setattr(intake, "import_source", _refuse)
    return path


def test_a_file_without_an_onnx_form_is_quantized_as_it_is(
    litert_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    report = _convert(
        litert_file, tmp_path / "out", targets=(LITERT,), calibration=calibration_file
    )
    assert any("ONNX cannot express it (it has an operator" in w for w in report.warnings)
    whole = litert_file.stat().st_size
    for artifact in report.artifacts:
        assert artifact.size_bytes < LARGEST_SHARE[artifact.precision] * whole
        assert artifact.agreement is not None
        assert artifact.agreement >= 0.8


def test_a_file_as_it_is_with_what_a_user_fixes(
    litert_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "targets": (LITERT,), "precisions": (Precision.INT8,), "calibration": calibration_file,
    }  # fmt: skip
    (kept,) = _convert(
        litert_file, tmp_path / "kept", keep_float=("fully_connected",), io="int8", **options
    ).artifacts
    assert "FULLY_CONNECTED" in _operators(kept.path)
    assert kept.size_bytes > 128 * 160 * 4
    assert open_session(Path(kept.path)).inputs[0].dtype == "int8"
    with pytest.raises(UsageError, match="type of the model: Softmax"):
        _convert(litert_file, tmp_path / "out", keep_float=("Softmax",), **options)
    extremes = RangeMethod.MIN_MAX
    (wide,) = _convert(litert_file, tmp_path / "w", range_method=extremes, **options).artifacts
    (narrow,) = _convert(litert_file, tmp_path / "n", **options).artifacts
    assert wide.sha256 != narrow.sha256
    with pytest.raises(UnsupportedModelError, match="an operator that ONNX lacks"):
        _convert(litert_file, tmp_path / "out", **{**options, "targets": (ONNX,)})


@pytest.mark.parametrize("as_it_is", [True, False])
def test_a_file_from_before_2021_without_a_signature(
    *, as_it_is: bool, cnn_file: Path, calibration_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Others return a file as large as the float one, or refuse it."""
    from ai_edge_litert import schema_py_generated as schema

    from edgekit_converters.litert.emit import pack

    source = tmp_path / "old.tflite"
    _convert(cnn_file, source, targets=(LITERT,), precisions=(Precision.FLOAT32,))
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(source.read_bytes(), 0))
    model.signatureDefs = None
    for code in model.operatorCodes:
        code.builtinCode = 0
    source.write_bytes(pack(model))
    if as_it_is:
        monkeypatch.setattr(intake, "import_source", _refuse)
    report = _convert(source, tmp_path / "out", targets=(LITERT,), calibration=calibration_file)
    whole = source.stat().st_size
    for artifact in report.artifacts:
        assert artifact.size_bytes < LARGEST_SHARE[artifact.precision] * whole, artifact.path
        assert artifact.agreement is not None
        assert artifact.agreement >= 0.8


@pytest.mark.parametrize("target", [ONNX, LITERT])
def test_weights_that_a_file_stores_as_integers_are_opened(
    target: ModelFormat, cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    source = tmp_path / f"stored{target.suffix}"
    _convert(cnn_file, source, targets=(target,), precisions=(Precision.INT8_WEIGHTS,))
    (floats,) = _convert(
        source, tmp_path / "float", targets=(ONNX,), precisions=(Precision.FLOAT32,)
    ).artifacts
    assert floats.precision is Precision.FLOAT32
    half = _convert(source, tmp_path / "half", precisions=(Precision.FLOAT16,))
    assert not any("three digits" in warning for warning in half.warnings)
    report = _convert(
        source, tmp_path / "out", precisions=(Precision.INT8,), calibration=calibration_file
    )
    assert sum("keeps" in warning for warning in report.warnings) == 1
    for artifact in report.artifacts:
        assert artifact.agreement is not None
        assert artifact.agreement > 0.95


def test_a_model_inside_an_if(
    make_model: Any, weights: Any, calibration_file: Path, tmp_path: Path
) -> None:
    """A quantizer that looks at the outermost graph alone does nothing, and says nothing."""
    from onnx import TensorProto, helper, numpy_helper

    def branch(name: str, scale: float) -> Any:
        matrix = numpy_helper.from_array(scale * weights(64, 400), "w")
        output = helper.make_tensor_value_info(f"y{name}", TensorProto.FLOAT, None)
        nodes = [
            helper.make_node("Flatten", ["image"], [f"f{name}"]),
            helper.make_node("MatMul", [f"f{name}", "w"], [f"y{name}"]),
        ]
        return helper.make_graph(nodes, name, [], [output], [matrix])

    nodes = [
        helper.make_node("ReduceMax", ["image"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        helper.make_node(
            "If", ["c"], ["y"], then_branch=branch("a", 1.0), else_branch=branch("b", 2.0)
        ),
    ]
    model = make_model(nodes, {"image": ["n", 1, 8, 8]}, ["y"], {"zero": np.float32(0)})
    onnx.save_model(model, str(tmp_path / "if.onnx"))
    report = _convert(
        tmp_path / "if.onnx", tmp_path / "out", targets=(ONNX,), precisions=(Precision.INT8,),
        calibration=calibration_file,
    )  # fmt: skip
    (artifact,) = report.artifacts
    assert artifact.size_bytes < 0.4 * (tmp_path / "if.onnx").stat().st_size
    assert any("inside of" in warning for warning in report.warnings)


def test_four_bits_without_a_matrix_product(make_model: Any, weights: Any, tmp_path: Path) -> None:
    node = onnx.helper.make_node("Conv", ["image", "w"], ["y"])
    model = make_model([node], {"image": ["n", 16, 8, 8]}, ["y"], {"w": weights(128, 16, 3, 3)})
    onnx.save_model(model, str(tmp_path / "m.onnx"))
    precisions = (Precision.INT4_WEIGHTS,)
    report = _convert(tmp_path / "m.onnx", tmp_path / "out", precisions=precisions)
    told = [w.split(":")[0] for w in report.warnings if "no more than int8-weights here" in w]
    assert told == ["m-int4-weights.onnx", "m-int4-weights.tflite"]


def test_mixed_alone_decides_nothing(
    cnn_file: Path, calibration_file: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"precisions": (Precision.MIXED,), "calibration": calibration_file}
    report = _convert(cnn_file, tmp_path / "out", **options)
    assert any("mixed is int8 here" in warning for warning in report.warnings)
    report = _convert(cnn_file, tmp_path / "kept", keep_float=("dense2",), **options)
    assert not any("mixed is int8 here" in warning for warning in report.warnings)


def test_outputs_that_have_no_entry_for_each_sample(
    make_model: Any, weights: Any, tmp_path: Path
) -> None:
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["m"]),
        onnx.helper.make_node("Transpose", ["m"], ["y"], perm=[1, 0]),
    ]
    model = make_model(nodes, {"x": ["n", 64]}, ["y"], {"w": weights(64, 100)})
    onnx.save_model(model, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", x=weights(60, 64))
    options: dict[str, Any] = {
        "precisions": (Precision.INT8,), "calibration": tmp_path / "c.npz",
    }  # fmt: skip
    report = _convert(tmp_path / "m.onnx", tmp_path / "out", **options)
    assert [artifact.paired for artifact in report.artifacts] == [None, None]
    assert sum("not compared sample by sample" in w for w in report.warnings) == 1
    goal = AccuracyGoal(metric="agreement")
    with pytest.raises(UsageError, match="it has no entry for each"):
        _convert(tmp_path / "m.onnx", tmp_path / "more", goal=goal, **options)


def test_a_source_without_an_onnx_form_has_no_model_to_calibrate(tmp_path: Path) -> None:
    from edgekit_converters.litert.layout import BorderLayout

    forms = ReducedForms(
        normalised=None, source=tmp_path / "m.tflite", compiled=None, calibration=None,
        scratch=tmp_path, layout=BorderLayout.KEEP, progress=lambda _: None,
    )  # fmt: skip
    with pytest.raises(ValueError, match="no ONNX form"):
        forms.float_model()
