"""Where extremes are, orders, running sums and products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F, I64 = np.float32, np.int64
ORDERED = [np.float32, np.float16, np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint16,
           np.uint32, np.uint64]  # fmt: skip


def _x(*shape: int, dtype: Any = F, seed: int = 3) -> Any:
    """Numbers with many ties, and the extremes of their type."""
    x = np.random.default_rng(seed).integers(0, 4, size=shape).astype(dtype)
    if np.dtype(dtype).kind in "iu":
        x.reshape(-1)[[0, -1]] = np.iinfo(dtype).min, np.iinfo(dtype).max
    else:
        x = x - dtype(1.5)
    return x


def _arg(x: Any, axis: int, *, largest: bool, last: bool) -> Any:
    found = np.argmax if largest else np.argmin
    if not last:
        return found(x, axis=axis)
    return x.shape[axis] - 1 - found(np.flip(x, axis), axis=axis)


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("free", [[], [0, 1]])
def test_arg(operator: str, axis: int, keep: int, last: int, free: list[int], agree: Any) -> None:
    sets = [{"x": _x(4, 3, 5)}] + ([{"x": _x(6, 2, 5)}] if free else [])
    agree(node(operator, ["x"], ["y"], axis=axis, keepdims=keep, select_last_index=last), sets,
          opset=13, free={"x": free})  # fmt: skip


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("dtype", ORDERED)
@pytest.mark.parametrize("last", [0, 1])
def test_arg_of_every_type(operator: str, dtype: Any, last: int, agree: Any) -> None:
    x = _x(5, 6, dtype=dtype)
    expected = _arg(x, 1, largest=operator == "ArgMax", last=bool(last))
    agree(node(operator, ["x"], ["y"], axis=1, keepdims=0, select_last_index=last), {"x": x},
          expected=[{"y": expected}])  # fmt: skip


@pytest.mark.parametrize("operator", ["ArgMin", "TopK", "Unique", "ReduceMax"])
def test_bfloat16_is_compared_exactly(operator: str, agree: Any) -> None:
    x = np.array([1.0078125, 1.0, 300.0, 1.0078125, 298.0], F)
    nodes = [
        node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
        node(operator, ["b", "k"] if operator in {"TopK", "ReduceMax"} else ["b"], ["z"] + (
            ["i"] if operator == "TopK" else [])),
        node("Cast", ["z"], ["y"], to=TensorProto.FLOAT),
    ]  # fmt: skip
    expected = {
        "ArgMin": [1.0], "TopK": [300.0, 298.0], "Unique": [1.0, 1.0078125, 298.0, 300.0],
        "ReduceMax": [300.0],
    }[operator]  # fmt: skip
    constants = {"k": np.array([2 if operator == "TopK" else 0])}
    agree(nodes, {"x": x}, constants=constants, expected=[{"y": np.array(expected, F)}])


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axis", [1, 3])
def test_arg_behind_a_convolution(keep: int, axis: int, agree: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("ArgMax", ["c"], ["y"], axis=axis, keepdims=keep),
    ]
    codes = agree(nodes, [{"x": _x(2, 3, 5, 6)}, {"x": _x(1, 3, 5, 6)}], constants={
        "w": _x(4, 3, 2, 2)}, free={"x": [0]})  # fmt: skip
    assert codes.count("TRANSPOSE") <= 1 + (axis != 1)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("free", [[], [0, 2]])
def test_top_k(largest: int, axis: int, computed: bool, free: list[int], agree: Any) -> None:
    count = np.array([3], dtype=I64)
    sets = [{"x": _x(4, 3, 5)}] + ([{"x": _x(6, 3, 7)}] if free else [])
    if computed:
        sets = [{**arrays, "k": count} for arrays in sets]
    agree(node("TopK", ["x", "k"], ["y", "i"], axis=axis, largest=largest), sets, ("y", "i"),
          {} if computed else {"k": count}, free={"x": free})  # fmt: skip


@pytest.mark.parametrize("dtype", ORDERED)
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_of_every_type(dtype: Any, largest: int, agree: Any) -> None:
    x = _x(3, 6, dtype=dtype)
    places = np.argsort(x, axis=1, kind="stable")
    if largest:
        places = 5 - np.argsort(x[:, ::-1], axis=1, kind="stable")[:, ::-1]
    places = places[:, :4]
    agree(node("TopK", ["x", "k"], ["y", "i"], largest=largest), {"x": x}, ("y", "i"), {
        "k": np.array([4], dtype=I64)},
        expected=[{"y": np.take_along_axis(x, places, 1), "i": places}])  # fmt: skip


def test_more_than_a_free_axis_has_at_first(agree: Any) -> None:
    sets = [{"x": _x(2, 40)}, {"x": _x(2, 25)}]
    agree(node("TopK", ["x", "k"], ["y", "i"]), sets, ("y", "i"), {"k": np.array([20])},
          free={"x": [1]})  # fmt: skip


def test_top_k_behind_a_convolution(agree: Any) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("TopK", ["c", "k"], ["y", "i"], axis=1)]
    codes = agree(nodes, {"x": _x(2, 3, 5, 6)}, ("y", "i"), {
        "w": _x(4, 3, 2, 2), "k": np.array([2], dtype=I64)})  # fmt: skip
    assert codes.count("TRANSPOSE") == 3


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("operator", ["CumSum", "CumProd"])
def test_running(
    operator: str, exclusive: int, reverse: int, axis: int, computed: bool, agree: Any
) -> None:
    place = np.array(axis, dtype=I64)
    sets = [{"x": _x(4, 3, 5)}, {"x": _x(6, 3, 5)}]
    expected = [{"y": _running(arrays["x"], operator, axis, exclusive, reverse)} for arrays in sets]
    if computed:
        sets = [{**arrays, "a": place} for arrays in sets]
    free = {"x": [0]} if operator == "CumSum" or (axis != 0 and not computed) else {}
    count = len(sets) if free else 1
    agree(node(operator, ["x", "a"], ["y"], exclusive=exclusive, reverse=reverse), sets[:count],
          constants={} if computed else {"a": place}, opset=26, free=free,
          expected=expected[:count], tolerance=1e-5)  # fmt: skip


def _running(x: Any, operator: str, axis: int, exclusive: int, reverse: int) -> Any:
    rows = np.flip(x, axis) if reverse else x
    if exclusive:
        neutral = np.full_like(np.take(rows, [0], axis), operator == "CumProd")
        rest = np.take(rows, range(rows.shape[axis] - 1), axis)
        rows = np.concatenate([neutral, rest], axis)
    made = (np.cumsum if operator == "CumSum" else np.cumprod)(rows, axis=axis, dtype=x.dtype)
    return np.flip(made, axis) if reverse else made


@pytest.mark.parametrize("operator", ["CumSum", "CumProd"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64, np.float16])
def test_running_of_every_type(operator: str, dtype: Any, agree: Any) -> None:
    if (operator, dtype) == ("CumProd", np.uint64):
        pytest.skip("LiteRT has no product of this type")
    x = np.array([[3, 1, 2, 2], [1, 5, 0, 7]], dtype=dtype)
    agree(node(operator, ["x", "a"], ["y"]), {"x": x}, constants={"a": np.array(1)}, opset=26,
          expected=[{"y": _running(x, operator, 1, 0, 0)}])  # fmt: skip


def test_running_behind_a_convolution(agree: Any) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("CumSum", ["c", "a"], ["y"])]
    agree(nodes, [{"x": _x(2, 3, 5, 6)}, {"x": _x(1, 3, 5, 6)}], constants={
        "w": _x(4, 3, 2, 2), "a": np.array(1)}, free={"x": [0]}, tolerance=1e-5)  # fmt: skip


def test_float64_is_refused_and_not_rounded(agree: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="float64"):
        agree(node("CumSum", ["x", "a"], ["y"]), {"x": np.ones((2, 2))}, constants={
            "a": np.array(1)})  # fmt: skip
