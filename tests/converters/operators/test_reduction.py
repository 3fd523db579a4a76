"""Reductions: over every kind of axes, of every type, in every layout, over nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F, I64 = np.float32, np.int64
OPERATORS = [
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
]  # fmt: skip


def _x(*shape: int, dtype: Any = F, seed: int = 3) -> Any:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.uniform(0.5, 2.0, size=shape).astype(dtype)
    return rng.integers(0, 5, size=shape).astype(dtype)


def _reduce(operator: str, axes: list[int] | None, opset: int, **attributes: Any) -> Any:
    if operator != "ReduceSum" and opset < 18:
        named: Any = {"axes": axes} if axes else {}
        return node(operator, ["x"], ["y"], **named, **attributes)
    return node(operator, ["x", "a"] if axes is not None else ["x"], ["y"], **attributes)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("axes", [[1], [-1], [0, 2], [2, -2], None])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("opset", [13, 21])
def test_axes(operator: str, axes: Any, keep: int, opset: int, agree: Any) -> None:
    constants = {"a": np.array(axes, dtype=I64)} if axes else {}
    sets = [{"x": _x(2, 3, 4)}, {"x": _x(5, 3, 4)}]
    agree(_reduce(operator, axes, opset, keepdims=keep), sets, constants=constants, opset=opset,
          free={"x": [0]}, tolerance=1e-5)  # fmt: skip


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("keep", [0, 1])
def test_computed_axes(operator: str, keep: int, agree: Any) -> None:
    sets = [
        {"x": _x(2, 3, 4), "a": np.array(axes, dtype=I64)} for axes in ([0, 1], [2, -2], [-1, 0])
    ]
    agree(_reduce(operator, [0], 21, keepdims=keep), sets, tolerance=1e-5)


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_axes_at_all_leave_the_elements_apart(operator: str, agree: Any) -> None:
    x = _x(2, 3)
    elementwise = {
        "ReduceL1": np.abs, "ReduceL2": np.abs, "ReduceSumSquare": np.square, "ReduceLogSum": np.log
    }.get(operator, lambda values: values)  # fmt: skip
    # onnxruntime leaves out what ONNX still asks for.
    agree(_reduce(operator, None, 21, noop_with_empty_axes=1), {"x": x}, tolerance=1e-5, expected=[
        {"y": elementwise(x)}])  # fmt: skip


@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax",
                                      "ReduceMin", "ReduceL1", "ReduceSumSquare"])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers(operator: str, dtype: Any, agree: Any) -> None:
    x = _x(3, 4, dtype=dtype) - dtype(2)
    expected = None
    if (operator, dtype) == ("ReduceMean", np.int64):
        expected = [{"y": np.trunc(x.mean(axis=1, keepdims=True)).astype(dtype)}]
    agree(_reduce(operator, [1], 21), {"x": x}, constants={"a": np.array([1], dtype=I64)},
          expected=expected)  # fmt: skip


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.bool_, np.float16])
def test_extremes_of_narrow_types(operator: str, dtype: Any, agree: Any) -> None:
    x = _x(3, 4, 2, dtype=dtype)
    reduced = np.max if operator == "ReduceMax" else np.min
    agree(_reduce(operator, [1], 20), {"x": x}, constants={"a": np.array([1], dtype=I64)},
          opset=20, expected=[{"y": reduced(x, axis=1, keepdims=True)}])  # fmt: skip


@pytest.mark.parametrize("operator", OPERATORS)
def test_over_nothing(operator: str, agree: Any) -> None:
    neutral = {
        "ReduceProd": 1.0, "ReduceMean": np.nan, "ReduceLogSum": -np.inf,
        "ReduceLogSumExp": -np.inf, "ReduceMax": -np.inf, "ReduceMin": np.inf,
    }.get(operator, 0.0)  # fmt: skip
    x = np.zeros((2, 0, 4), dtype=F)
    agree(_reduce(operator, [1], 21), {"x": x}, constants={"a": np.array([1], dtype=I64)},
          expected=[{"y": np.full((2, 1, 4), neutral, dtype=F)}])  # fmt: skip


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[1], [2, 3], [0, 1]])
def test_behind_a_convolution(keep: int, axes: list[int], agree: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("ReduceMax", ["c", "a"], ["y"], keepdims=keep),
    ]
    codes = agree(nodes, [{"x": _x(2, 3, 5, 6)}, {"x": _x(1, 3, 5, 6)}], constants={
        "w": _x(4, 3, 2, 2), "a": np.array(axes, dtype=I64)}, opset=18, free={"x": [0]},
        tolerance=1e-5)  # fmt: skip
    assert codes.count("TRANSPOSE") <= 2


@pytest.mark.parametrize("axes", [[0], [3, 4, 5], [1, 2, 6], [6], None])
@pytest.mark.parametrize("keep", [0, 1])
def test_more_axes_than_the_delegate_takes(axes: Any, keep: int, agree: Any) -> None:
    constants = {"a": np.array(axes, dtype=I64)} if axes else {}
    agree(_reduce("ReduceSum", axes, 21, keepdims=keep), {"x": _x(2, 3, 1, 2, 3, 2, 2)},
          constants=constants, tolerance=1e-5)  # fmt: skip


def test_log_sum_exp_does_not_overflow(agree: Any) -> None:
    x = np.array([[1000.0, 1000.0], [-1000.0, -1001.0], [np.inf, 0.0], [-np.inf, -np.inf]], F)
    with np.errstate(all="ignore"):
        expected = np.logaddexp(x[:, 0], x[:, 1]).astype(F)
    agree(_reduce("ReduceLogSumExp", [1], 21, keepdims=0), {"x": x}, constants={
        "a": np.array([1], dtype=I64)}, expected=[{"y": expected}], reference=False)  # fmt: skip


def test_axes_of_unknown_number_are_refused(agree: Any) -> None:
    arrays = {"x": _x(2, 3), "a": np.array([1], dtype=I64)}
    with pytest.raises(UnsupportedModelError, match="the number of its axes is free"):
        agree(node("ReduceSum", ["x", "a"], ["y"]), arrays, free={"a": [0]})
