"""Quantized LiteRT files: the plan of the ONNX graph, names kept, old engines not misled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.plan import QuantizationPlan, Range, matching_nodes
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.write_litert import write_litert
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.session import open_session
from tests.converters.quantize.examples import F, images, tokens, w
from tests.converters.quantize.flat_files import operators_of, run_flat, tree_of, types_of
from tests.converters.quantize.measured import min_max_ranges, run_onnx, sqnr_db

node = helper.make_node
INTEGERS = {"int8", "int16"}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., tuple[Path, tuple[str, ...]]]:
    """Compile and quantize a model with the ranges of some batches."""

    def make(
        model: Any, scheme: Scheme, batches: Any = (), **options: Any
    ) -> tuple[Path, tuple[str, ...]]:
        plain = normalise(model, where="test")
        compiled = compile_to_litert(plain, where="test")
        before = compiled.content
        ranges = min_max_ranges(plain, batches) if scheme.needs_ranges else {}
        for key in ("keep_float", "wide"):
            options[key] = matching_nodes(plain, options.get(key, ()))
        plan = QuantizationPlan(scheme=scheme, ranges=ranges, **options)
        path = tmp_path / "quantized.tflite"
        remarks = write_litert(compiled, plan, path, where="test", normalised=plain)
        assert compiled.content == before
        return path, remarks

    return make


@pytest.fixture
def mobile(make_model: Any) -> Any:
    """Pointwise and depthwise convolutions around a residual, and a squeeze-and-excitation."""
    nodes = [
        node("Conv", ["x", "stem", "stem_b"], ["c1"], name="stem", strides=[2, 2]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "wide", "wide_b"], ["c2"], name="expand"),
        node("HardSwish", ["c2"], ["r2"], name="swish"),
        node("Conv", ["r2", "deep", "wide_b"], ["c3"], name="depthwise", group=16, pads=[1] * 4),
        node("Clip", ["c3", "zero", "six"], ["r3"]),
        node("GlobalAveragePool", ["r3"], ["s1"]),
        node("Conv", ["s1", "gate"], ["s2"], name="gate"),
        node("HardSigmoid", ["s2"], ["s3"], alpha=1 / 6, beta=0.5),
        node("Mul", ["r3", "s3"], ["e"], name="excite"),
        node("Conv", ["e", "thin", "stem_b"], ["c4"], name="project"),
        node("Add", ["c4", "r1"], ["sum"], name="residual"),
        node("GlobalAveragePool", ["sum"], ["mean"]),
        node("Flatten", ["mean"], ["flat"]),
        node("Gemm", ["flat", "last", "last_b"], ["logits"], name="classify", transB=1),
        node("Softmax", ["logits"], ["y"], name="soften"),
    ]
    constants = {
        "stem": w(8, 3, 3, 3), "stem_b": w(8, seed=2), "wide": w(16, 8, 1, 1, seed=3),
        "wide_b": w(16, seed=4), "deep": w(16, 1, 3, 3, seed=5), "thin": w(8, 16, 1, 1, seed=6),
        "last": w(5, 8, seed=7, scale=2), "last_b": w(5, seed=8), "zero": F(0), "six": F(6),
        "gate": w(16, 16, 1, 1, seed=9),
    }  # fmt: skip
    return make_model(nodes, {"x": ["n", 3, 17, 17]}, ["y"], constants)


@pytest.mark.parametrize(
    ("scheme", "least_db"),
    [
        (Scheme.FP16, 50), (Scheme.INT8, 24), (Scheme.INT8_DYNAMIC, 28), (Scheme.INT8_WEIGHTS, 30),
        (Scheme.INT16X8, 30), (Scheme.INT4_WEIGHTS, 14), (Scheme.MIXED, 24),
    ],
)  # fmt: skip
def test_every_scheme_answers_as_the_source_does(
    mobile: Any, encoder: Any, write: Any, scheme: Scheme, least_db: float
) -> None:
    for model, batch in ((mobile, images()), (encoder, tokens())):
        path, _ = write(model, scheme, [batch])
        session = open_session(path)
        assert [spec.name for spec in session.inputs] == list(batch)
        assert [(spec.name, spec.dtype) for spec in session.outputs] == [("y", "float32")]
        expected = run_onnx(model, batch)["y"]
        for plain in (False, True):
            assert sqnr_db(expected, run_flat(path, batch, plain=plain)["y"]) > least_db


def test_a_mobile_network_computes_in_integers_but_for_its_last_step(
    mobile: Any, write: Any
) -> None:
    path, remarks = write(mobile, Scheme.INT8, [images()])
    assert not remarks
    operators = operators_of(path)
    border = [op for op in operators if op.code in {"QUANTIZE", "DEQUANTIZE"}]
    # The gate's hard sigmoid is three operators, of which onnx knows the last value alone.
    in_float = {op.code for op in operators if "float32" in op.outputs and op not in border}
    assert in_float <= {"SOFTMAX", "TRANSPOSE", "RELU_0_TO_1", "ADD", "MUL"}
    assert {"SOFTMAX"} <= in_float
    assert [op.code for op in operators].count("CONV_2D") == 4
    for op in operators:
        if op.code in {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}:
            assert op.inputs == ("int8", "int8", "int32")
    # People find their layers again.
    types = types_of(path)
    assert {types[name] for name in ("r1", "r2", "r3", "e", "sum")} == {"int8"}


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT16X8])
def test_an_integer_border_is_integer_to_the_end(mobile: Any, write: Any, scheme: Scheme) -> None:
    path, _ = write(mobile, scheme, [images()], io="int8")
    kind = "int8" if scheme is Scheme.INT8 else "int16"
    (given,), (made,) = open_session(path).inputs, open_session(path).outputs
    assert (given.name, given.dtype) == ("x", kind)
    assert (made.name, made.dtype) == ("y", kind)
    (soften,) = (op for op in operators_of(path) if op.code == "SOFTMAX")
    assert soften.outputs == (kind,)
    assert given.quantization
    assert made.quantization
    info = np.iinfo(kind)
    scale, zero = given.quantization.scale, given.quantization.zero_point
    feeds = {"x": np.clip(np.rint(images()["x"] / scale) + zero, info.min, info.max).astype(kind)}
    scale, zero = made.quantization.scale, made.quantization.zero_point
    computed = (run_flat(path, feeds)["y"].astype(F) - zero) * scale
    assert sqnr_db(run_onnx(mobile, images())["y"], computed) > 22


def test_an_integer_border_needs_ranges(mobile: Any, tmp_path: Path) -> None:
    plain = normalise(mobile, where="test")
    compiled = compile_to_litert(plain, where="test")
    plan = QuantizationPlan(scheme=Scheme.INT8, ranges={"x": Range(low=0, high=1)}, io="int8")
    with pytest.raises(UnsupportedModelError, match="range of y is not known"):
        write_litert(compiled, plan, tmp_path / "a.tflite", where="test", normalised=plain)


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        (["depthwise"], {"DEPTHWISE_CONV_2D"}),
        # What became part of the convolution in front is kept with it.
        (["r3"], {"DEPTHWISE_CONV_2D"}),
        (["HardSwish"], {"HARD_SWISH"}),
        (["classify", "project"], {"FULLY_CONNECTED", "CONV_2D"}),
    ],
)
def test_nodes_can_be_kept_in_float(
    mobile: Any, write: Any, kept: list[str], left: set[str]
) -> None:
    for scheme in Scheme:
        path, _ = write(mobile, scheme, [images()], keep_float=kept)
        floats = {
            op.code
            for op in operators_of(path)
            if op.code in left and set(op.inputs) == {"float32"}
        }
        assert floats == left, scheme
        expected = run_onnx(mobile, images())["y"]
        assert sqnr_db(expected, run_flat(path, images())["y"]) > 14
    if kept == ["depthwise"]:
        held = [t for t in tree_of(path).subgraphs[0].tensors if list(t.shape) == [1, 3, 3, 16]]
        assert {t.type for t in held} == {0}


def test_wide_nodes_have_sixteen_bits_around_them(mobile: Any, write: Any) -> None:
    path, _ = write(mobile, Scheme.MIXED, [images()], wide=["depthwise", "GlobalAveragePool"])
    types = types_of(path)
    assert types["r3"] == "int16"
    assert types["r1"] == types["sum"] == "int8"
    (deep,) = (op for op in operators_of(path) if op.code == "DEPTHWISE_CONV_2D")
    assert deep.inputs == ("int16", "int8", "int64")
    assert deep.version == 5
    expected = run_onnx(mobile, images())["y"]
    assert sqnr_db(expected, run_flat(path, images())["y"]) > 24


def test_products_of_an_encoder_are_integers_and_its_norms_are_not(
    encoder: Any, write: Any
) -> None:
    path, _ = write(encoder, Scheme.INT8, [tokens()])
    operators = operators_of(path)
    assert {op.outputs for op in operators if op.code == "FULLY_CONNECTED"} == {("int8",)}
    assert {op.outputs for op in operators if op.code == "BATCH_MATMUL"} == {("int8",)}
    assert {op.outputs for op in operators if op.code in {"RSQRT", "MEAN"}} == {("float32",)}
    assert {op.names: op.outputs for op in operators}["sum",] == ("float32",)
    (gather,) = (op for op in operators if op.code == "GATHER")
    assert gather.inputs[0] == "int8"


def test_old_engines_refuse_what_they_would_compute_wrongly(encoder: Any, write: Any) -> None:
    # Release 2.14 takes scales a channel for a single one in dynamic products, knows no integers
    # of 4 bits, and computes the rows of 16-bit products wrongly.
    for scheme, code, least in (
        (Scheme.INT8_DYNAMIC, "FULLY_CONNECTED", 12),
        (Scheme.INT4_WEIGHTS, "DEQUANTIZE", 6),
        (Scheme.INT16X8, "FULLY_CONNECTED", 11),
    ):
        path, _ = write(encoder, scheme, [tokens()])
        versions = {op.version for op in operators_of(path) if op.code == code}
        assert max(versions) == least
        buffers = {m.name: m.buffer for m in tree_of(path).metadata}
        data = tree_of(path).buffers[buffers[b"min_runtime_version"]].data
        newest = bytes(bytearray(data)).split(b"\0")[0].decode().split(".")
        assert tuple(map(int, newest)) >= (2, 15)


def test_dynamic_convolutions_are_not_made(mobile: Any, make_model: Any, write: Any) -> None:
    alone = make_model(
        [node("Conv", ["x", "w"], ["y"])], {"x": [1, 3, 17, 17]}, ["y"], {"w": w(32, 3, 3, 3)}
    )
    path, remarks = write(alone, Scheme.INT8_DYNAMIC)
    (conv,) = (op for op in operators_of(path) if op.code == "CONV_2D")
    assert set(conv.inputs) == {"float32"}
    assert "no operator multiplies" in remarks[0]


def test_short_weights_without_matrix_products_are_said_to_be_none(
    make_model: Any, write: Any
) -> None:
    alone = make_model(
        [node("Conv", ["x", "w"], ["y"])], {"x": [1, 3, 17, 17]}, ["y"], {"w": w(32, 3, 3, 3)}
    )
    path, remarks = write(alone, Scheme.INT4_WEIGHTS)
    assert "no more than int8-weights" in remarks[0]
    assert "int4" not in types_of(path).values()


@pytest.mark.parametrize(
    ("scheme", "share"),
    [
        (Scheme.FP16, 0.52), (Scheme.INT8, 0.28), (Scheme.INT8_DYNAMIC, 0.28),
        (Scheme.INT8_WEIGHTS, 0.28), (Scheme.INT16X8, 0.29), (Scheme.INT4_WEIGHTS, 0.16),
    ],
)  # fmt: skip
def test_files_shrink_by_what_they_should(
    make_model: Any, write: Any, scheme: Scheme, share: float
) -> None:
    size = 256
    model = make_model(
        [
            node("Gemm", ["x", "a", "b"], ["h"], transB=1),
            node("Relu", ["h"], ["r"]),
            node("MatMul", ["r", "c"], ["y"]),
        ],
        {"x": ["n", size]},
        ["y"],
        {"a": w(size, size), "b": w(size), "c": w(size, size, seed=3)},
    )
    feeds = {"x": w(32, size, scale=1)}
    before = len(compile_to_litert(normalise(model, where="test"), where="test").content)
    path, _ = write(model, scheme, [feeds])
    assert path.stat().st_size < share * before
    assert sqnr_db(run_onnx(model, feeds)["y"], run_flat(path, feeds)["y"]) > 14


def test_weights_that_float16_cannot_hold_stay_and_are_named(make_model: Any, write: Any) -> None:
    weights = w(64, 64)
    weights[3, 3] = 1e6
    model = make_model(
        [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])],
        {"x": ["n", 64]},
        ["y"],
        {"a": weights, "b": w(64, 64, seed=2)},
    )
    path, remarks = write(model, Scheme.FP16)
    assert "beyond float16" in remarks[0]
    assert sorted(types_of(path).values()).count("float16") == 1


def test_a_large_bias_beside_small_weights_does_not_wrap_around(
    make_model: Any, write: Any
) -> None:
    weights = w(4, 8, 1, 1)
    weights[1] *= 1e-7
    weights[2] = 0
    model = make_model(
        [node("Conv", ["x", "w", "b"], ["y"])],
        {"x": [1, 8, 5, 5]},
        ["y"],
        {"w": weights, "b": np.array([1, 100, 100, 1], F)},
    )
    feeds = {"x": w(1, 8, 5, 5, scale=1)}
    for scheme in (Scheme.INT8, Scheme.INT16X8):
        path, _ = write(model, scheme, [feeds])
        assert sqnr_db(run_onnx(model, feeds)["y"], run_flat(path, feeds)["y"]) > 40


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT16X8])
def test_outputs_far_smaller_than_what_they_are_made_of_do_not_stop_the_engine(
    make_model: Any, tmp_path: Path, scheme: Scheme
) -> None:
    """The delegate refuses such products, and LiteRT's own sums abort the process."""
    cases = [
        ([node("Gemm", ["x", "w", "b"], ["y"])], [1, 16]),
        ([node("Add", ["x", "x"], ["y"])], [1, 16]),
        ([node("Sub", ["x", "c"], ["y"])], [1, 16]),
        ([node("HardSwish", ["x"], ["y"])], [1, 16]),
        ([node("Conv", ["x", "f"], ["y"])], [1, 8, 4, 4]),
        ([node("Conv", ["x", "d"], ["y"], group=8)], [1, 8, 4, 4]),
        ([node("ConvTranspose", ["x", "f"], ["y"])], [1, 8, 4, 4]),
    ]
    constants = {
        "w": w(16, 8), "b": w(8), "c": w(16), "f": w(8, 8, 3, 3), "d": w(8, 1, 3, 3),
    }  # fmt: skip
    for nodes, shape in cases:
        model = make_model(nodes, {"x": shape}, ["y"], constants)
        plain = normalise(model, where="test")
        compiled = compile_to_litert(plain, where="test")
        for out in (1e-9, 1e-3, 1e9):
            ranges = {"x": Range(low=-1e3, high=1e3), "y": Range(low=-out, high=out)}
            plan = QuantizationPlan(scheme=scheme, ranges=ranges, io="int8")
            path = tmp_path / "a.tflite"
            if nodes[0].op_type == "HardSwish" and scheme is Scheme.INT16X8:
                continue  # computed in float
            write_litert(compiled, plan, path, where="test", normalised=plain)
            kind = np.int8 if scheme is Scheme.INT8 else np.int16
            feeds = {"x": np.random.default_rng(1).integers(-99, 99, shape).astype(kind)}
            computed = [
                run_flat(path, feeds, plain=mode)["y"].astype(int) for mode in (False, True)
            ]
            assert np.abs(computed[0] - computed[1]).max() <= 1


def test_inputs_of_a_concatenation_have_its_scale_from_the_start(
    make_model: Any, write: Any
) -> None:
    model = make_model(
        [
            node("Conv", ["x", "a"], ["p"]),
            node("Conv", ["x", "b"], ["q"]),
            node("Concat", ["p", "q"], ["j"], axis=1),
            node("Conv", ["j", "c"], ["y"]),
        ],
        {"x": [1, 8, 6, 6]},
        ["y"],
        {"a": w(4, 8, 1, 1), "b": w(4, 8, 1, 1, scale=3), "c": w(4, 8, 1, 1)},
    )
    feeds = {"x": w(1, 8, 6, 6, scale=1)}
    path, _ = write(model, Scheme.INT8, [feeds])
    codes = [op.code for op in operators_of(path)]
    assert codes.count("QUANTIZE") == 1
    assert sqnr_db(run_onnx(model, feeds)["y"], run_flat(path, feeds)["y"]) > 28


def test_loops_keep_their_weights_in_eight_bits(make_model: Any, write: Any) -> None:
    # More steps than are written out.
    model = make_model(
        [
            node("LSTM", ["x", "w", "r"], ["", "h"], name="memory", hidden_size=24),
            node("Squeeze", ["h", "axis"], ["s"]),
            node("Gemm", ["s", "g", "b"], ["y"], transB=1),
        ],
        {"x": [200, 1, 12]},
        ["y"],
        {
            "w": w(1, 96, 12), "r": w(1, 96, 24, seed=2), "axis": np.array([0]),
            "g": w(10, 24, seed=3), "b": w(10, seed=4),
        },
    )  # fmt: skip
    feeds = {"x": w(200, 1, 12, scale=1)}
    for scheme in (Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHTS):
        path, _ = write(model, scheme, [feeds])
        held = [
            t
            for graph in tree_of(path).subgraphs
            for t in graph.tensors
            if list(t.shape) in ([96, 12], [96, 24])
            and tree_of(path).buffers[t.buffer].data is not None
        ]
        assert {t.type for t in held} == {9}
        assert sqnr_db(run_onnx(model, feeds)["y"], run_flat(path, feeds)["y"]) > 28


def test_a_model_with_nothing_to_quantize_is_refused(make_model: Any, write: Any) -> None:
    model = make_model([node("Exp", ["x"], ["y"])], {"x": [1, 4]}, ["y"])
    for scheme in Scheme:
        with pytest.raises(UnsupportedModelError, match=f"{scheme} changed nothing"):
            write(model, scheme, [{"x": w(1, 4)}])
