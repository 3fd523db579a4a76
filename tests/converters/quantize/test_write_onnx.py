"""Quantized ONNX files: integers where they pay, floats where asked for, and no surprises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.plan import QuantizationPlan, Range
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.write_onnx import write_onnx
from edgekit_runtime.errors import UnsupportedModelError
from tests.converters.quantize.examples import F, images, tokens, w
from tests.converters.quantize.measured import min_max_ranges, operators, run_onnx, sqnr_db

node = helper.make_node
STATIC = (Scheme.INT8, Scheme.INT16X8)


@pytest.fixture
def convolutions(make_model: Any) -> Any:
    """Pointwise and depthwise convolutions around a residual, as mobile networks have them."""
    nodes = [
        node("Conv", ["x", "stem", "stem_b"], ["c1"], name="stem", strides=[2, 2]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "wide", "wide_b"], ["c2"], name="expand"),
        node("Clip", ["c2", "zero", "six"], ["r2"]),
        node("Conv", ["r2", "deep", "wide_b"], ["c3"], name="depthwise", group=16, pads=[1] * 4),
        node("Clip", ["c3", "zero", "six"], ["r3"]),
        node("Conv", ["r3", "thin", "stem_b"], ["c4"], name="project"),
        node("Add", ["c4", "r1"], ["sum"], name="residual"),
        node("GlobalAveragePool", ["sum"], ["mean"]),
        node("Flatten", ["mean"], ["flat"]),
        node("Gemm", ["flat", "last", "last_b"], ["y"], name="classify", transB=1),
    ]
    constants = {
        "stem": w(8, 3, 3, 3), "stem_b": w(8, seed=2), "wide": w(16, 8, 1, 1, seed=3),
        "wide_b": w(16, seed=4), "deep": w(16, 1, 3, 3, seed=5), "thin": w(8, 16, 1, 1, seed=6),
        "last": w(5, 8, seed=7), "last_b": w(5, seed=8), "zero": F(0), "six": F(6),
    }  # fmt: skip
    return make_model(nodes, {"x": ["n", 3, 17, 17]}, ["y"], constants)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., tuple[Path, tuple[str, ...]]]:
    """Quantize a normalised model with the ranges of some batches."""

    def make(
        model: Any, scheme: Scheme, batches: Any = (), **options: Any
    ) -> tuple[Path, tuple[str, ...]]:
        ranges = min_max_ranges(model, batches) if scheme.needs_ranges else {}
        before = model.SerializeToString()
        plan = QuantizationPlan(scheme=scheme, ranges=ranges, **options)
        remarks = write_onnx(model, plan, tmp_path / "quantized.onnx", where="test")
        assert model.SerializeToString() == before
        onnx.checker.check_model(str(tmp_path / "quantized.onnx"), full_check=True)
        return tmp_path / "quantized.onnx", remarks

    return make


def optimised(path: Path) -> list[str]:
    """The operators that onnxruntime makes of a file."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
    ort.InferenceSession(str(path), options)
    return operators(path.with_name("optimised.onnx"))


def check(
    model: Any, path: Path, feeds: Mapping[str, NDArray[Any]], *, least_db: float, name: str = "y"
) -> None:
    expected, computed = run_onnx(model, feeds), run_onnx(path, feeds)
    assert list(expected) == list(computed)
    assert computed[name].dtype == expected[name].dtype
    assert sqnr_db(expected[name], computed[name]) > least_db


def test_convolutions_compute_in_integers_from_end_to_end(convolutions: Any, write: Any) -> None:
    model = normalise(convolutions, where="test")
    path, remarks = write(model, Scheme.INT8, [images()])
    assert not remarks
    check(model, path, images(), least_db=30)
    found = optimised(path)
    assert found.count("QLinearConv") == 4
    assert {"QLinearAdd", "QLinearGlobalAveragePool", "QGemm"} <= set(found)
    assert "Conv" not in found
    assert "DequantizeLinear" not in found
    # Rounding is all that the fused form may change.
    plain = run_onnx(path, images(), optimise=False)["y"]
    assert sqnr_db(plain, run_onnx(path, images())["y"]) > 40


def test_only_operators_of_onnx_itself_are_written(
    convolutions: Any, encoder: Any, write: Any
) -> None:
    for model, batch in ((convolutions, images()), (encoder, tokens())):
        for scheme in Scheme:
            path, _ = write(normalise(model, where="test"), scheme, [batch])
            written = onnx.load(str(path))
            assert {entry.domain for entry in written.opset_import} == {""}
            assert not written.graph.value_info


@pytest.mark.parametrize(
    ("scheme", "least_db"),
    [
        (Scheme.FP16, 50), (Scheme.INT8, 24), (Scheme.INT8_DYNAMIC, 28), (Scheme.INT8_WEIGHTS, 30),
        (Scheme.INT16X8, 30), (Scheme.INT4_WEIGHTS, 15), (Scheme.MIXED, 24),
    ],
)  # fmt: skip
def test_every_scheme_answers_as_the_source_does(
    convolutions: Any, encoder: Any, write: Any, scheme: Scheme, least_db: float
) -> None:
    for model, batch in ((convolutions, images()), (encoder, tokens())):
        plain = normalise(model, where="test")
        path, _ = write(plain, scheme, [batch])
        check(plain, path, batch, least_db=least_db)


def test_residuals_between_norms_stay_float(encoder: Any, write: Any) -> None:
    path, _ = write(normalise(encoder, where="test"), Scheme.INT8, [tokens()])
    written = onnx.load(str(path))
    made_by = {name: n.op_type for n in written.graph.node for name in n.output}
    (norm,) = (n for n in written.graph.node if n.op_type == "LayerNormalization")
    assert made_by[norm.input[0]] == "Add"
    (table,) = (t for t in written.graph.initializer if list(t.dims) == [50, 16])
    assert table.data_type == TensorProto.INT8
    found = optimised(path)
    assert "MatMul" not in found
    assert found.count("MatMulIntegerToFloat") + found.count("QLinearMatMul") == 6


def test_the_last_steps_are_in_float_unless_integers_are_asked_for(
    make_model: Any, write: Any
) -> None:
    model = make_model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Sigmoid", ["c"], ["s"]),
            node("Mul", ["c", "s"], ["m"]),
            node("Concat", ["m", "c"], ["y"], axis=1),
        ],
        {"x": [1, 8, 6, 6]},
        ["y"],
        {"w": w(8, 8, 1, 1)},
    )
    plain = normalise(model, where="test")
    feeds = {"x": w(1, 8, 6, 6, scale=1)}
    for io, pairs in (("float", {"x", "c"}), ("int8", {"float_0", "c", "s", "m", "float_1"})):
        path, _ = write(plain, Scheme.INT8, [feeds], io=io)
        nodes = onnx.load(str(path)).graph.node
        quantized = [n for n in nodes if n.op_type == "QuantizeLinear" and n.output[0] != "y"]
        assert {n.input[0] for n in quantized} == pairs
    path, _ = write(plain, Scheme.INT8, [feeds])
    check(plain, path, feeds, least_db=30)


def test_dynamic_products_are_one_operator_for_the_engine(encoder: Any, write: Any) -> None:
    path, remarks = write(normalise(encoder, where="test"), Scheme.INT8_DYNAMIC)
    assert not remarks
    found = optimised(path)
    # What three products read is quantized once.
    assert found.count("DynamicQuantizeLinear") == 1
    assert found.count("MatMulIntegerToFloat") == 3
    assert found.count("DynamicQuantizeMatMul") == 1


def test_dynamic_convolutions_are_not_made(convolutions: Any, make_model: Any, write: Any) -> None:
    path, _ = write(normalise(convolutions, where="test"), Scheme.INT8_DYNAMIC)
    assert "ConvInteger" not in operators(path)
    assert operators(path).count("Conv") == 4
    alone = make_model(
        [node("Conv", ["x", "w"], ["y"])], {"x": [1, 3, 17, 17]}, ["y"], {"w": w(32, 3, 3, 3)}
    )
    _, remarks = write(normalise(alone, where="test"), Scheme.INT8_DYNAMIC)
    assert "no matrix product" in remarks[0]


def test_short_weights_without_matrix_products_are_said_to_be_none(
    make_model: Any, write: Any
) -> None:
    alone = make_model(
        [node("Conv", ["x", "w"], ["y"])], {"x": [1, 3, 17, 17]}, ["y"], {"w": w(32, 3, 3, 3)}
    )
    path, remarks = write(normalise(alone, where="test"), Scheme.INT4_WEIGHTS)
    assert "no more than int8-weights" in remarks[0]
    assert operators(path) == ["DequantizeLinear", "Conv"]


@pytest.mark.parametrize(
    ("scheme", "share"),
    [
        (Scheme.FP16, 0.52), (Scheme.INT8, 0.27), (Scheme.INT8_DYNAMIC, 0.27),
        (Scheme.INT8_WEIGHTS, 0.27), (Scheme.INT16X8, 0.27), (Scheme.INT4_WEIGHTS, 0.17),
    ],
)  # fmt: skip
@pytest.mark.parametrize("turned", [0, 1])
def test_files_shrink_by_what_they_should(
    make_model: Any, write: Any, scheme: Scheme, share: float, turned: int
) -> None:
    size = 256
    model = make_model(
        [
            node("Gemm", ["x", "a", "b"], ["h"], transB=turned),
            node("Relu", ["h"], ["r"]),
            node("MatMul", ["r", "c"], ["y"]),
        ],
        {"x": ["n", size]},
        ["y"],
        {"a": w(size, size), "b": w(size), "c": w(size, size, seed=3)},
    )
    plain = normalise(model, where="test")
    feeds = {"x": w(32, size, scale=1)}
    path, _ = write(plain, scheme, [feeds])
    assert path.stat().st_size < share * plain.ByteSize()
    check(plain, path, feeds, least_db=15)
    if scheme is Scheme.INT4_WEIGHTS:
        # Not a silent no-op: the engine finds the products that it has kernels for.
        assert "MatMulNBits" in optimised(path)


def test_nodes_can_be_kept_in_float(convolutions: Any, write: Any) -> None:
    model = normalise(convolutions, where="test")
    names = frozenset({"depthwise", "classify"})
    for scheme in Scheme:
        path, _ = write(model, scheme, [images()], keep_float=names)
        written = onnx.load(str(path))
        kinds = {tensor.name: tensor.data_type for tensor in written.graph.initializer}
        for kept in (n for n in written.graph.node if n.name in names):
            assert kinds[kept.input[1]] == TensorProto.FLOAT, scheme
        assert {n.name for n in written.graph.node} >= names
        check(model, path, images(), least_db=10)


def test_a_node_that_stays_float_gives_its_noise_back(convolutions: Any, write: Any) -> None:
    model = normalise(convolutions, where="test")
    everything = frozenset(n.name or n.output[0] for n in model.graph.node) - {"classify"}
    path, _ = write(model, Scheme.INT8, [images()], keep_float=everything)
    check(model, path, images(), least_db=38)


def test_wide_nodes_have_sixteen_bits_around_them(convolutions: Any, write: Any) -> None:
    model = normalise(convolutions, where="test")
    wide = frozenset({"expand", "r2", "depthwise", "r3", "project"})
    path, remarks = write(model, Scheme.MIXED, [images()], wide=wide)
    assert any("16 bits" in remark for remark in remarks)
    written = onnx.load(str(path))
    kinds = {tensor.name: tensor.data_type for tensor in written.graph.initializer}
    of_value = {
        n.input[0]: kinds[n.input[2]] for n in written.graph.node if n.op_type == "QuantizeLinear"
    }
    assert of_value["r2"] == of_value["r3"] == of_value["c4"] == TensorProto.INT16
    assert of_value["x"] == of_value["r1"] == of_value["sum"] == TensorProto.UINT8
    # The residual adds bytes: what comes with 16 bits is rounded once more for it.
    assert len([n for n in written.graph.node if n.op_type == "QuantizeLinear"]) == len(of_value)
    narrow, _ = write(model, Scheme.INT8, [images()])
    check(model, narrow, images(), least_db=30)


@pytest.mark.parametrize("scheme", STATIC)
def test_inputs_and_outputs_can_be_integers(convolutions: Any, write: Any, scheme: Scheme) -> None:
    model = normalise(convolutions, where="test")
    path, _ = write(model, scheme, [images()], io="int8")
    written = onnx.load(str(path))
    kind = TensorProto.INT8 if scheme is Scheme.INT8 else TensorProto.INT16
    for value in (written.graph.input[0], written.graph.output[0]):
        assert value.type.tensor_type.elem_type == kind
    constants = {t.name: numpy_helper.to_array(t) for t in written.graph.initializer}
    (enter,) = (n for n in written.graph.node if n.input[0] == "x")
    (leave,) = (n for n in written.graph.node if n.output[0] == "y")
    step, zero = (constants[name] for name in enter.input[1:])
    info = np.iinfo(zero.dtype)
    given = np.clip(np.rint(images()["x"] / step) + zero, info.min, info.max).astype(zero.dtype)
    step, zero = (constants[name] for name in leave.input[1:])
    computed = (run_onnx(path, {"x": given})["y"].astype(F) - zero) * step
    expected = run_onnx(model, images())["y"]
    assert sqnr_db(expected, computed) > 28


def test_an_integer_border_needs_ranges(encoder: Any, tmp_path: Path) -> None:
    plan = QuantizationPlan(scheme=Scheme.INT8, ranges={"x": Range(low=0, high=1)}, io="int8")
    with pytest.raises(UnsupportedModelError, match="range of y is not known"):
        write_onnx(normalise(encoder, where="test"), plan, tmp_path / "a.onnx", where="test")


def test_an_input_that_is_an_output_too_becomes_an_integer_once(
    make_model: Any, write: Any
) -> None:
    model = make_model(
        [node("Conv", ["x", "w"], ["y"])], {"x": [1, 8, 5, 5]}, ["y"], {"w": w(8, 8, 1, 1)}
    )
    model.graph.output.append(model.graph.input[0])
    plain = normalise(model, where="test")
    feeds = {"x": w(1, 8, 5, 5, scale=1)}
    path, _ = write(plain, Scheme.INT8, [feeds], io="int8")
    given = {"x": np.random.default_rng(1).integers(-128, 128, (1, 8, 5, 5)).astype(np.int8)}
    found = run_onnx(path, given)
    assert (found["x"] == given["x"]).all()
    assert found["y"].dtype == np.int8


def test_branches_read_the_floats_that_an_integer_border_stands_for(
    make_model: Any, write: Any
) -> None:
    value = helper.make_tensor_value_info

    def branch(name: str, op: str) -> Any:
        read = [node(op, ["x", "m"], [f"{name}_y"])]
        return helper.make_graph(read, name, [], [value(f"{name}_y", TensorProto.FLOAT, None)])

    model = make_model(
        [
            node("Conv", ["x", "w"], ["m"]),
            node("ReduceSum", ["m"], ["total"], keepdims=0),
            node("Greater", ["total", "zero"], ["is"]),
            node("If", ["is"], ["y"], then_branch=branch("a", "Add"),
                 else_branch=branch("b", "Sub")),
        ],
        {"x": [1, 8, 5, 5]},
        ["m", "y"],
        {"w": w(8, 8, 1, 1), "zero": F(0)},
    )  # fmt: skip
    plain = normalise(model, where="test")
    feeds = {"x": w(1, 8, 5, 5, scale=1)}
    path, _ = write(plain, Scheme.INT8, [feeds], io="int8")
    (entry,) = (n for n in onnx.load(str(path)).graph.node if "x" in n.input)
    scale, zero = (
        numpy_helper.to_array(t)
        for name in entry.input[1:]
        for t in onnx.load(str(path)).graph.initializer
        if t.name == name
    )
    given = np.clip(np.rint(feeds["x"] / scale) + zero, -128, 127).astype(np.int8)
    floats = (given.astype(F) - zero) * scale
    found = run_onnx(path, {"x": given})
    expected = run_onnx(plain, {"x": floats})
    for name, values in found.items():
        assert values.dtype == np.int8
        # One step of 255, for the middle and for the sum.
        steps = expected[name] / (np.ptp(expected[name]) / 255)
        shifted = values - np.rint(steps).astype(int)
        assert np.ptp(shifted) <= 4


def test_integer_inputs_of_the_source_stay_what_they_are(encoder: Any, write: Any) -> None:
    path, _ = write(normalise(encoder, where="test"), Scheme.INT8, [tokens()], io="int8")
    (ids,) = onnx.load(str(path)).graph.input
    assert ids.type.tensor_type.elem_type == TensorProto.INT64


def test_an_output_that_is_read_inside_keeps_its_name(make_model: Any, write: Any) -> None:
    model = make_model(
        [node("Conv", ["x", "w"], ["middle"]), node("Conv", ["middle", "w"], ["y"])],
        {"x": [1, 8, 5, 5]},
        ["middle", "y"],
        {"w": w(8, 8, 1, 1)},
    )
    plain = normalise(model, where="test")
    feeds = {"x": w(1, 8, 5, 5, scale=1)}
    for io in ("float", "int8"):
        path, _ = write(plain, Scheme.INT8, [feeds], io=io)
        names = [value.name for value in onnx.load(str(path)).graph.output]
        assert names == ["middle", "y"]
        if io == "float":
            for name in names:
                check(plain, path, feeds, least_db=28, name=name)
        # The weights that two convolutions share are there once.
        stored = [t for t in onnx.load(str(path)).graph.initializer if list(t.dims) == [8, 8, 1, 1]]
        assert len(stored) == 1


def test_factors_of_products_are_part_of_their_weights(make_model: Any, write: Any) -> None:
    model = make_model(
        [node("Gemm", ["x", "a", "b"], ["y"], alpha=0.25, beta=3.0, transB=1)],
        {"x": ["n", 64]},
        ["y"],
        {"a": w(32, 64), "b": w(32)},
    )
    plain = normalise(model, where="test")
    feeds = {"x": w(16, 64, scale=1)}
    for scheme in (Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHTS):
        path, _ = write(plain, scheme, [feeds])
        check(plain, path, feeds, least_db=33)


def test_a_large_bias_beside_small_weights_does_not_wrap_around(
    make_model: Any, write: Any
) -> None:
    weights = w(4, 8, 1, 1)
    weights[1] *= 1e-7
    weights[2] = 0
    bias = np.array([1, 100, 100, 1], F)
    model = make_model(
        [node("Conv", ["x", "w", "b"], ["y"])],
        {"x": [1, 8, 5, 5]},
        ["y"],
        {"w": weights, "b": bias},
    )
    plain = normalise(model, where="test")
    feeds = {"x": w(1, 8, 5, 5, scale=1)}
    path, _ = write(plain, Scheme.INT8, [feeds])
    check(plain, path, feeds, least_db=45)


@pytest.mark.parametrize("scheme", STATIC)
def test_values_are_moved_with_the_scale_that_they_have(
    make_model: Any, write: Any, scheme: Scheme
) -> None:
    model = make_model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("MaxPool", ["c"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Pad", ["m", "pads"], ["p"]),
            node("Resize", ["p", "", "", "sizes"], ["r"], mode="nearest"),
            node("Split", ["r"], ["s", "t"], axis=1),
            node("Concat", ["t", "s"], ["j"], axis=1),
            node("Transpose", ["j"], ["u"], perm=[0, 1, 3, 2]),
            node("Conv", ["u", "w"], ["y"]),
        ],
        {"x": [1, 8, 6, 6]},
        ["y"],
        {
            "w": w(8, 8, 1, 1),
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            "sizes": np.array([1, 8, 10, 10]),
        },
    )
    plain = normalise(model, where="test")
    feeds = {"x": w(1, 8, 6, 6, scale=1)}
    path, _ = write(plain, scheme, [feeds])
    check(plain, path, feeds, least_db=28)
    written = onnx.load(str(path))
    pairs = [n for n in written.graph.node if n.op_type == "QuantizeLinear"]
    scale_of = {n.input[0]: n.input[1] for n in pairs}
    assert scale_of["c"] == scale_of["m"] == scale_of["r"] == scale_of["s"] == scale_of["t"]
    if scheme is Scheme.INT8:
        assert "QLinearConcat" in optimised(path)


def test_products_with_the_constant_on_the_left(make_model: Any, write: Any) -> None:
    model = make_model(
        [node("MatMul", ["a", "x"], ["m"]), node("MatMul", ["m", "b"], ["y"])],
        {"x": [2, 24, 16]},
        ["y"],
        {"a": w(40, 24), "b": w(2, 16, 48)},
    )
    plain = normalise(model, where="test")
    feeds = {"x": w(2, 24, 16, scale=1)}
    for scheme in (Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHTS, Scheme.INT4_WEIGHTS):
        path, _ = write(plain, scheme, [feeds])
        check(plain, path, feeds, least_db=28)
        kinds = {t.data_type for t in onnx.load(str(path)).graph.initializer if len(t.dims) > 1}
        assert kinds <= {TensorProto.INT8, TensorProto.UINT8}


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHTS])
def test_recurrent_layers_keep_their_weights_as_integers(
    make_model: Any, write: Any, scheme: Scheme
) -> None:
    model = make_model(
        [
            node("LSTM", ["x", "w", "r"], ["", "h"], name="memory", hidden_size=24),
            node("Squeeze", ["h", "axis"], ["s"]),
            node("Gemm", ["s", "g", "b"], ["y"], transB=1),
        ],
        {"x": [9, 2, 12]},
        ["y"],
        {
            "w": w(1, 96, 12), "r": w(1, 96, 24, seed=2), "axis": np.array([0]),
            "g": w(10, 24, seed=3), "b": w(10, seed=4),
        },
    )  # fmt: skip
    plain = normalise(model, where="test")
    feeds = {"x": w(9, 2, 12, scale=1)}
    path, remarks = write(plain, scheme, [feeds])
    check(plain, path, feeds, least_db=30)
    kinds = {t.data_type for t in onnx.load(str(path)).graph.initializer if len(t.dims) == 3}
    assert kinds == {TensorProto.INT8}
    if scheme is Scheme.INT8:
        assert any("memory" in remark for remark in remarks)


def test_models_from_old_opsets_load_with_channels_of_their_own(
    make_model: Any, write: Any
) -> None:
    model = make_model(
        [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])],
        {"x": [1, 8, 5, 5]},
        ["y"],
        {"w": w(8, 8, 1, 1)},
        opset=11,
    )
    feeds = {"x": w(1, 8, 5, 5, scale=1)}
    for scheme in STATIC:
        path, _ = write(normalise(model, where="test"), scheme, [feeds])
        check(model, path, feeds, least_db=28)


def test_a_model_that_is_quantized_already_is_refused(
    convolutions: Any, write: Any, tmp_path: Path
) -> None:
    path, _ = write(normalise(convolutions, where="test"), Scheme.INT8, [images()])
    again = normalise(onnx.load(str(path)), where="test")
    for scheme in Scheme:
        plan = QuantizationPlan(scheme=scheme)
        with pytest.raises(UnsupportedModelError, match="quantized already"):
            write_onnx(again, plan, tmp_path / "again.onnx", where="test")
    assert not (tmp_path / "again.onnx").exists()


def test_a_model_in_half_precision_is_refused(
    convolutions: Any, write: Any, tmp_path: Path
) -> None:
    path, _ = write(normalise(convolutions, where="test"), Scheme.FP16)
    again = normalise(onnx.load(str(path)), where="test")
    for scheme in Scheme:
        plan = QuantizationPlan(scheme=scheme)
        with pytest.raises(UnsupportedModelError, match="float16 already: stem"):
            write_onnx(again, plan, tmp_path / "again.onnx", where="test")


def test_weights_inside_of_branches_are_stored_and_said_to_compute_in_float(
    make_model: Any, write: Any
) -> None:
    def branch(name: str) -> Any:
        return helper.make_graph(
            [node("MatMul", ["x", name], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [1, 64])],
            [numpy_helper.from_array(w(64, 64), name)],
        )

    model = make_model(
        [
            node("ReduceSum", ["x"], ["total"], keepdims=0),
            node("Greater", ["total", "zero"], ["is"]),
            node(
                "If", ["is"], ["y"], name="choose",
                then_branch=branch("a"), else_branch=branch("b"),
            ),
        ],
        {"x": [1, 64]},
        ["y"],
        {"zero": F(0)},
    )  # fmt: skip
    plain = normalise(model, where="test")
    for scheme in (Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHTS, Scheme.INT4_WEIGHTS):
        for seed in (1, 2):
            feeds = {"x": w(1, 64, scale=1, seed=seed)}
            path, remarks = write(plain, scheme, [feeds])
            check(plain, path, feeds, least_db=15)
        assert path.stat().st_size < 0.4 * plain.ByteSize()
        if scheme in {Scheme.INT8, Scheme.INT8_DYNAMIC}:
            assert any("inside of choose" in remark for remark in remarks)
            assert any("only stores the weights" in remark for remark in remarks)


def test_weights_of_a_loop_are_made_floats_once_a_run(make_model: Any, write: Any) -> None:
    body = helper.make_graph(
        [
            node("MatMul", ["state", "w"], ["product"]),
            node("Add", ["product", "row"], ["sum"]),
            node("Tanh", ["sum"], ["next"]),
            node("Identity", ["next"], ["out"]),
        ],
        "step",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64]) for n in ("state", "row")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64]) for n in ("next", "out")],
    )
    model = make_model(
        [node("Scan", ["zero", "x"], ["last", "y"], name="loop", body=body, num_scan_inputs=1)],
        {"x": [7, 1, 64]},
        ["last", "y"],
        {"zero": np.zeros((1, 64), F), "w": w(64, 64, scale=0.1)},
    )
    plain = normalise(model, where="test")
    feeds = {"x": w(7, 1, 64, scale=1)}
    path, _ = write(plain, Scheme.INT8_WEIGHTS)
    check(plain, path, feeds, least_db=30)
    assert path.stat().st_size < 0.4 * plain.ByteSize()
    assert operators(path) == ["DequantizeLinear", "Scan"]


def test_a_model_with_nothing_to_quantize_is_refused(make_model: Any, tmp_path: Path) -> None:
    model = make_model([node("Exp", ["x"], ["y"])], {"x": [1, 4]}, ["y"])
    for scheme in set(Scheme) - {Scheme.FP16}:
        plan = QuantizationPlan(scheme=scheme, ranges={"x": Range(low=0, high=1)})
        with pytest.raises(UnsupportedModelError, match=f"{scheme} changed nothing"):
            write_onnx(normalise(model, where="test"), plan, tmp_path / "a.onnx", where="test")
    assert not (tmp_path / "a.onnx").exists()
