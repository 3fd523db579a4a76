"""Tensors put together, taken apart and repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F, I64 = np.float32, np.int64
TYPES = [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int16, np.int32, np.int64,
         np.bool_, np.uint16, np.uint32, np.uint64]  # fmt: skip


def _x(*shape: int, dtype: Any = F, seed: int = 3) -> Any:
    return np.random.default_rng(seed).integers(0, 9, size=shape).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("axis", [0, -1])
def test_concat_of_every_type(dtype: Any, axis: int, agree: Any) -> None:
    arrays = {"a": _x(2, 3, dtype=dtype), "b": _x(2, 3, dtype=dtype, seed=4)}
    agree(node("Concat", ["a", "b"], ["y"], axis=axis), arrays, free={"a": [0], "b": [0]})


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_concat_of_several_with_nothing_among_them(count: int, agree: Any) -> None:
    names = [f"x{at}" for at in range(count)]
    arrays = {name: _x(2, at % 3, seed=at) for at, name in enumerate(names, start=1)}
    agree(node("Concat", names, ["y"], axis=1), arrays)


@pytest.mark.parametrize("rank", [6, 7, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8, np.int64])
def test_concat_and_split_of_many_axes(rank: int, dtype: Any, agree: Any) -> None:
    shape = [2, 2, 1, 3, 1, 2, 2, 2][:rank]
    nodes = [
        node("Concat", ["a", "b"], ["c"], axis=-1),
        node("Split", ["c"], ["y", "z"], axis=-1, num_outputs=2),
    ]
    arrays = {"a": _x(*shape, dtype=dtype), "b": _x(*shape, dtype=dtype, seed=5)}
    agree(nodes, arrays, ("c", "y", "z"))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", [[2, 2], [1, 3], [0, 4]])
def test_split_of_every_type(dtype: Any, sizes: list[int], agree: Any) -> None:
    x = _x(3, 4, dtype=dtype)
    # onnxruntime lacks some of the types.
    agree(node("Split", ["x", "s"], ["y", "z"], axis=1), {"x": x}, ("y", "z"), {
        "s": np.array(sizes, dtype=I64)},
        expected=[{"y": x[:, : sizes[0]], "z": x[:, sizes[0] :]}])  # fmt: skip


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("free", [[], [0], [1]])
def test_split_into_parts_of_given_sizes(opset: int, free: list[int], agree: Any) -> None:
    sizes = [1, 3, 2]
    constants = {} if opset < 13 else {"s": np.array(sizes, dtype=I64)}
    split = (
        node("Split", ["x"], ["a", "b", "c"], axis=1, split=sizes)
        if opset < 13
        else node("Split", ["x", "s"], ["a", "b", "c"], axis=-1)
    )
    nodes = [split, node("Concat", ["c", "b", "a"], ["y"], axis=1)]
    agree(nodes, {"x": _x(3, 6)}, constants=constants, opset=opset, free={"x": free})


def test_split_into_parts_of_computed_sizes(agree: Any) -> None:
    sets = [{"x": _x(3, 6), "s": np.array(sizes, dtype=I64)} for sizes in ([1, 5], [4, 2])]
    agree(node("Split", ["x", "s"], ["y", "z"], axis=1), sets, ("y", "z"))


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("free", [[], [0], [1]])
def test_split_into_equal_parts(opset: int, free: list[int], agree: Any) -> None:
    sets = [{"x": _x(4, 6)}] + ([{"x": _x(*(4, 9)[:: 1 if free == [1] else -1])}] if free else [])
    if free == [0]:
        sets[1] = {"x": _x(9, 6)}
    more: dict[str, Any] = {"num_outputs": 3} if opset == 18 else {}
    split = node("Split", ["x"], ["y", "z", "w"], axis=1, **more)
    agree(split, sets, ("y", "z", "w"), opset=opset, free={"x": free})


@pytest.mark.parametrize(("size", "count"), [(7, 3), (5, 3), (6, 4)])
@pytest.mark.parametrize("free", [False, True])
def test_split_into_parts_that_get_smaller(size: int, count: int, free: bool, agree: Any) -> None:
    names = [f"y{at}" for at in range(count)]
    x = _x(2, size)
    part = -(-size // count)
    parts = {name: x[:, at * part : (at + 1) * part] for at, name in enumerate(names)}
    agree(node("Split", ["x"], names, axis=1, num_outputs=count), {"x": x}, names,
          free={"x": [1] if free else []}, expected=[parts])  # fmt: skip


def test_split_and_concat_behind_a_convolution_move_nothing(agree: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Split", ["c"], ["a", "b"], axis=1, num_outputs=2),
        node("Relu", ["b"], ["r"]),
        node("Concat", ["r", "a"], ["y"], axis=1),
    ]
    codes = agree(nodes, [{"x": _x(2, 3, 5, 6)}, {"x": _x(1, 3, 5, 6)}], constants={
        "w": _x(4, 3, 2, 2)}, free={"x": [0]})  # fmt: skip
    assert codes.count("TRANSPOSE") == 2


@pytest.mark.parametrize("dtype", TYPES)
def test_tile_of_every_type(dtype: Any, agree: Any) -> None:
    x = _x(2, 3, dtype=dtype)
    agree(node("Tile", ["x", "r"], ["y"]), {"x": x}, constants={"r": np.array([2, 3], dtype=I64)},
          expected=[{"y": np.tile(x, (2, 3))}], reference=False)  # fmt: skip


@pytest.mark.parametrize("repeats", [[1, 1, 1, 1], [1, 2, 1, 3], [2, 1, 3, 1]])
@pytest.mark.parametrize("computed", [False, True])
def test_tile_behind_a_convolution(repeats: list[int], computed: bool, agree: Any) -> None:
    counts = np.array(repeats, dtype=I64)
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Tile", ["c", "r"], ["y"])]
    sets = [{"x": _x(2, 3, 3, 4)}, {"x": _x(1, 3, 3, 4)}]
    if computed:
        sets = [{**arrays, "r": counts} for arrays in sets]
    constants = {"w": _x(4, 3, 2, 2), **({} if computed else {"r": counts})}
    agree(nodes, sets, constants=constants, free={"x": [0]})


def test_more_parts_than_there_is_to_split_are_refused(agree: Any) -> None:
    names = ["a", "b", "c", "d"]
    with pytest.raises(UnsupportedModelError, match="it makes 4 parts of 5"):
        agree(node("Split", ["x"], names, axis=1, num_outputs=4), {"x": _x(2, 5)}, names)
