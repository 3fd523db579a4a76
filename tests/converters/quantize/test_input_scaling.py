"""Tables whose columns differ in size are quantized as if they had been standardised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.plan import QuantizationPlan
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.source import float_source
from edgekit_converters.quantize.write_litert import write_litert
from edgekit_converters.quantize.write_onnx import write_onnx
from tests.converters.quantize.flat_files import operators_of, run_flat
from tests.converters.quantize.measured import min_max_ranges, operators, run_onnx, sqnr_db

node = helper.make_node
F = np.float32
SIZES = np.array([2000, 700, 15, 1.0, 0.1, 0.004], F)
MIDDLES = np.array([9000, 0, 100, 3.0, 0.9, -0.02], F)


def w(*shape: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=0.5, size=shape).astype(F)


def rows(count: int = 64, seed: int = 3) -> NDArray[np.float32]:
    uniform = np.random.default_rng(seed).uniform(-1, 1, (count, len(SIZES)))
    return (uniform * SIZES + MIDDLES).astype(F)


@pytest.fixture
def table(make_model: Any) -> Any:
    """A standardisation and two layers, as scikit-learn's pipelines are exported."""
    nodes = [
        node("Sub", ["x", "middles"], ["c"]),
        node("Div", ["c", "sizes"], ["s"]),
        node("Gemm", ["s", "a", "b"], ["h"], name="first", transB=1),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "d"], ["y"], name="second", transB=1),
    ]
    constants = {"middles": MIDDLES, "sizes": SIZES, "a": w(64, 6), "b": w(64), "d": w(32, 64)}
    return make_model(nodes, {"x": ["n", 6]}, ["y"], constants)


@pytest.fixture
def sensors(make_model: Any) -> Any:
    """A convolution with padding over channels of different units."""
    nodes = [
        node("Conv", ["x", "a", "b"], ["h"], name="first", pads=[1, 1]),
        node("Relu", ["h"], ["r"]),
        node("Conv", ["r", "d"], ["y"], name="second"),
    ]
    weights = w(16, 6, 3) / SIZES[:, None]
    constants = {"a": weights, "b": w(16), "d": w(4, 16, 1)}
    return make_model(nodes, {"x": ["n", 6, 20]}, ["y"], constants)


def sqnr_of_both(model: Any, feeds: dict[str, Any], folder: Path) -> tuple[float, float]:
    expected = run_onnx(model, feeds)["y"]
    plan = QuantizationPlan(scheme=Scheme.INT8, ranges=min_max_ranges(model, [feeds]))
    write_onnx(model, plan, folder / "m.onnx", where="test")
    compiled = compile_to_litert(model, where="test")
    write_litert(compiled, plan, folder / "m.tflite", where="test", normalised=model)
    return (
        sqnr_db(expected, run_onnx(folder / "m.onnx", feeds)["y"]),
        sqnr_db(expected, run_flat(folder / "m.tflite", feeds)["y"]),
    )


@pytest.mark.parametrize("kind", ["table", "sensors"])
def test_columns_of_different_sizes_survive(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = normalise(request.getfixturevalue(kind), where="test")
    shape = (64, 6) if kind == "table" else (8, 6, 20)
    uniform = np.random.default_rng(3).uniform(-1, 1, shape)
    if kind == "table":
        x = (uniform * SIZES + MIDDLES).astype(F)
    else:
        x = (uniform * SIZES[:, None]).astype(F)
    feeds = {"x": x}
    before = model.SerializeToString()
    scaled, remarks = float_source(model, where="test", samples=feeds)
    assert model.SerializeToString() == before
    assert remarks[0].startswith("the columns of x differ in size")
    assert sqnr_db(run_onnx(model, feeds)["y"], run_onnx(scaled, feeds)["y"]) > 80
    plain = sqnr_of_both(model, feeds, tmp_path)
    mended = sqnr_of_both(scaled, feeds, tmp_path)
    assert max(plain) < 15
    assert min(mended) > 30
    written = operators(tmp_path / "m.onnx")
    assert written.index("Mul") < written.index("QuantizeLinear")
    assert ("Sub" in written) == (kind == "table")
    # The steps in front are floats in LiteRT too.
    first = operators_of(tmp_path / "m.tflite")[:2]
    assert {op.outputs for op in first if op.code in {"SUB", "MUL"}} == {("float32",)}


def test_columns_of_about_one_size_are_left_alone(table: Any) -> None:
    model = normalise(table, where="test")
    x = np.random.default_rng(4).normal(size=(64, 6)).astype(F)
    assert float_source(model, where="test", samples={"x": x}) == (model, ())


@pytest.mark.parametrize(
    "samples", [None, {"x": np.full((8, 6), np.nan, F)}, {"x": np.zeros((0, 6), F)}]
)
def test_nothing_is_done_without_samples_that_tell(table: Any, samples: Any) -> None:
    model = normalise(table, where="test")
    assert float_source(model, where="test", samples=samples) == (model, ())


def test_weights_alone_tell_of_columns_that_would_be_lost(table: Any, tmp_path: Path) -> None:
    model = normalise(table, where="test")
    feeds = {"x": rows()}
    expected = run_onnx(model, feeds)["y"]
    for samples, least_db, most_db in ((None, -20, 15), ({}, 28, 90)):
        scaled, remarks = float_source(model, where="test", samples=samples)
        assert bool(remarks) == (samples is not None)
        assert sqnr_db(expected, run_onnx(scaled, feeds)["y"]) > 80
        plan = QuantizationPlan(scheme=Scheme.INT8_WEIGHTS)
        write_onnx(scaled, plan, tmp_path / "m.onnx", where="test")
        found = sqnr_db(expected, run_onnx(tmp_path / "m.onnx", feeds)["y"])
        assert least_db < found < most_db


def test_weights_of_about_one_size_tell_nothing(make_model: Any) -> None:
    gemm = node("Gemm", ["x", "a"], ["y"], transB=1)
    model = normalise(make_model([gemm], {"x": ["n", 6]}, ["y"], {"a": w(4, 6)}), where="test")
    assert float_source(model, where="test", samples={}) == (model, ())


def test_columns_that_never_change_keep_what_they_say(table: Any) -> None:
    model = normalise(table, where="test")
    x = rows()
    x[:, 1] = 5.0
    scaled, remarks = float_source(model, where="test", samples={"x": x})
    assert remarks
    assert sqnr_db(run_onnx(model, {"x": x})["y"], run_onnx(scaled, {"x": x})["y"]) > 80


def test_all_layers_that_read_an_input_are_changed(make_model: Any) -> None:
    model = normalise(
        make_model(
            [
                node("Gemm", ["x", "a"], ["p"], transB=1),
                node("MatMul", ["x", "b"], ["q"]),
                node("Exp", ["x"], ["e"]),
            ],
            {"x": ["n", 6]},
            ["p", "q", "e"],
            {"a": w(4, 6) / SIZES, "b": w(6, 5) / SIZES[:, None]},
        ),
        where="test",
    )
    feeds = {"x": (np.random.default_rng(5).uniform(-1, 1, (32, 6)) * SIZES / 100).astype(F)}
    scaled, remarks = float_source(model, where="test", samples=feeds)
    assert remarks
    expected, computed = run_onnx(model, feeds), run_onnx(scaled, feeds)
    for name in ("p", "q"):
        assert sqnr_db(expected[name], computed[name]) > 80
    (untouched,) = (n for n in scaled.graph.node if n.op_type == "Exp")
    assert untouched.input[0] == "x"
