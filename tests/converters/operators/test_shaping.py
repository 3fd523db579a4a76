"""Shapes: of constants, of free sizes, and computed by the model itself."""

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


def _x(*shape: int, dtype: Any = F) -> Any:
    return np.random.default_rng(3).integers(0, 9, size=shape).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_reshape_of_every_type(dtype: Any, agree: Any) -> None:
    agree(node("Reshape", ["x", "s"], ["y"]), {"x": _x(2, 6, dtype=dtype)}, constants={
        "s": np.array([3, -1], dtype=I64)})  # fmt: skip


@pytest.mark.parametrize("sizes", [[0, -1, 2], [0, 0, -1], [-1, 6], [2, 3, 2, -1]])
@pytest.mark.parametrize("computed", [False, True])
def test_reshape_of_free_sizes(sizes: list[int], computed: bool, agree: Any) -> None:
    sets = [{"x": _x(4, 2, 6)}, {"x": _x(4, 6, 2)}]
    wanted = np.array(sizes, dtype=I64)
    shape = {} if computed else {"s": wanted}
    if computed:
        sets = [{**arrays, "s": wanted} for arrays in sets]
    y = helper.make_node("Reshape", ["x", "s"], ["y0"])
    # The shape that is computed is known only by its length.
    agree([y, node("Reshape", ["y0", "flat"], ["y"])], sets, constants={
        **shape, "flat": np.array([-1], dtype=I64)}, free={"x": [1, 2]})  # fmt: skip


def test_reshape_of_a_free_size_that_must_divide(agree: Any) -> None:
    sets = [{"x": _x(4, 3)}, {"x": _x(2, 3)}]
    agree(node("Reshape", ["x", "s"], ["y"]), sets, constants={
        "s": np.array([-1, 2, 3], dtype=I64)}, free={"x": [0]})  # fmt: skip


def test_reshape_may_ask_for_nothing(agree: Any) -> None:
    x = np.zeros((0, 4), dtype=F)
    agree(
        [
            node("Reshape", ["x", "s"], ["e"], allowzero=1),
            node("Concat", ["e", "z"], ["y"], axis=0),
        ],
        {"x": x, "z": _x(2, 3)},
        constants={"s": np.array([0, 3], dtype=I64)},
    )


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
@pytest.mark.parametrize("free", [[], [0], [0, 1, 2]])
def test_flatten(axis: int, free: list[int], agree: Any) -> None:
    sets = [{"x": _x(4, 2, 6)}] + ([{"x": _x(3, 2, 6)}] if free else [])
    agree(node("Flatten", ["x"], ["y"], axis=axis), sets, free={"x": free})


@pytest.mark.parametrize("free", [[], [0], [0, 2, 3]])
@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_and_unsqueeze(free: list[int], opset: int, agree: Any) -> None:
    sets = [{"x": _x(2, 1, 3, 4, 1)}] + ([{"x": _x(5, 1, 3, 4, 1)}] if free else [])
    if opset < 13:
        nodes = [
            node("Squeeze", ["x"], ["s"], axes=[1, -1]),
            node("Unsqueeze", ["s"], ["y"], axes=[0, 2, -1]),
        ]
        agree(nodes, sets, opset=opset, free={"x": free})
        return
    nodes = [node("Squeeze", ["x", "a"], ["s"]), node("Unsqueeze", ["s", "b"], ["y"])]
    axes = {"a": np.array([1, -1], dtype=I64), "b": np.array([0, 2, -1], dtype=I64)}
    agree(nodes, sets, constants=axes, free={"x": free})


@pytest.mark.parametrize("free", [[], [0], [0, 2, 3]])
def test_squeeze_and_unsqueeze_of_computed_axes(free: list[int], agree: Any) -> None:
    axes = {"a": np.array([1, -1], dtype=I64), "b": np.array([0, 2, -1], dtype=I64)}
    sets = [{"x": _x(2, 1, 3, 4, 1), **axes}] + ([{"x": _x(5, 1, 3, 4, 1), **axes}] if free else [])
    nodes = [node("Squeeze", ["x", "a"], ["s"]), node("Unsqueeze", ["s", "b"], ["y"])]
    agree(nodes, sets, free={"x": free})


@pytest.mark.parametrize("target", [[3, 4], [2, 3, 1], [1], [5, 1, 3, 4], [1, 1, 1]])
@pytest.mark.parametrize("free", [[], [0], [1]])
@pytest.mark.parametrize("computed", [False, True])
def test_expand(target: list[int], free: list[int], computed: bool, agree: Any) -> None:
    sizes = np.array(target, dtype=I64)
    x = _x(3, 1)
    if free == [1] and not computed:
        x = _x(3, 4)
    sets = {"x": x, **({"s": sizes} if computed else {})}
    constants = {} if computed else {"s": sizes}
    agree(node("Expand", ["x", "s"], ["y"]), sets, constants=constants, free={"x": free})


@pytest.mark.parametrize("dtype", TYPES)
def test_expand_of_every_type(dtype: Any, agree: Any) -> None:
    if dtype in {np.int16, np.uint16}:
        pytest.skip("onnxruntime has no Expand of this type")
    agree(node("Expand", ["x", "s"], ["y"]), {"x": _x(3, 1, dtype=dtype)}, constants={
        "s": np.array([2, 3, 4], dtype=I64)})  # fmt: skip


@pytest.mark.parametrize("bounds", [{}, {"start": 1}, {"end": -1}, {"start": -2, "end": 9},
                                    {"start": 2, "end": 1}])  # fmt: skip
@pytest.mark.parametrize("free", [[], [0, 2]])
def test_shape(bounds: Any, free: list[int], agree: Any) -> None:
    nodes = [
        node("Shape", ["x"], ["s"], **bounds),
        node("Concat", ["s", "one"], ["y"], axis=0),
    ]
    sets = [{"x": _x(3, 4, 5)}] + ([{"x": _x(2, 4, 7)}] if free else [])
    agree(nodes, sets, constants={"one": np.array([1], dtype=I64)}, free={"x": free})


def test_shape_behind_a_convolution_costs_no_transpose(agree: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Shape", ["c"], ["y"]),
        node("Shape", ["c"], ["z"], start=1, end=3),
    ]
    codes = agree(nodes, [{"x": _x(2, 3, 6, 8)}, {"x": _x(1, 3, 5, 9)}], ("y", "z"), {
        "w": _x(4, 3, 2, 2)}, free={"x": [0, 2, 3]})  # fmt: skip
    assert codes.count("TRANSPOSE") == 1


@pytest.mark.parametrize("free", [[], [0, 1]])
def test_size(free: list[int], agree: Any) -> None:
    sets = [{"x": _x(3, 4, 5)}] + ([{"x": _x(2, 6, 5)}] if free else [])
    agree(node("Size", ["x"], ["y"]), sets, free={"x": free})


@pytest.mark.parametrize("dtype", TYPES)
def test_transpose_of_every_type(dtype: Any, agree: Any) -> None:
    agree(node("Transpose", ["x"], ["y"], perm=[2, 0, 1]), {"x": _x(2, 3, 4, dtype=dtype)})


@pytest.mark.parametrize("rank", [5, 6, 7, 8])
def test_transpose_of_many_axes(rank: int, agree: Any) -> None:
    shape = [2, 3, 1, 2, 1, 2, 1, 2][:rank]
    order = list(np.random.default_rng(rank).permutation(rank))
    agree(node("Transpose", ["x"], ["y"], perm=order), {"x": _x(*shape)})


@pytest.mark.parametrize(
    "operator",
    [node("Transpose", ["x"], ["y"], perm=[1, 0, *range(2, 9)]), node("Flatten", ["x"], ["y"])],
)
def test_more_axes_than_the_kernels_take_are_refused(operator: Any, agree: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="supported: 8"):
        agree(operator, {"x": _x(*[2, 3, 1, 2, 1, 2, 1, 2, 2])})
