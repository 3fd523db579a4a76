"""Slices with every kind of bounds, and sequences turned around."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

node = helper.make_node
F, I64 = np.float32, np.int64
LAST, FIRST = np.iinfo(np.int64).max, np.iinfo(np.int64).min
TYPES = [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int16, np.int32, np.int64,
         np.bool_, np.uint16, np.uint32, np.uint64]  # fmt: skip
BOUNDS = [
    ([1], [4], [1], [1]),
    ([-3], [-1], [1], [1]),
    ([0], [LAST], [0], [2]),
    ([LAST], [FIRST], [1], [-1]),
    ([-1], [-100], [0], [-2]),
    ([5], [1], [1], [-1]),
    ([-100], [100], [1], [1]),
    ([1, 2], [3, 5], [0, 1], [1, 1]),
    ([1, -2], [LAST, FIRST], [-1, 0], [3, -1]),
    ([2**31], [2**33], [1], [1]),
    ([2, 0], [2**31 - 1, 2**32], [1, 0], [1, 1]),
]


def _x(*shape: int, dtype: Any = F) -> Any:
    return np.random.default_rng(3).integers(0, 99, size=shape).astype(dtype)


def _slice(x: Any, starts: Any, ends: Any, axes: Any, steps: Any) -> Any:
    parts = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        parts[axis] = slice(start, None if step < 0 and end == FIRST else end, step)
    return x[tuple(parts)]


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("free", [[], [0, 1]])
@pytest.mark.parametrize("computed", ["", "se", "seat"])
def test_bounds(bounds: Any, free: list[int], computed: str, agree: Any) -> None:
    inputs = {
        name: np.array(values, dtype=I64) for name, values in zip("seat", bounds, strict=True)
    }
    given = {name: array for name, array in inputs.items() if name in computed}
    constants = {name: array for name, array in inputs.items() if name not in computed}
    sets = [{"x": _x(4, 6), **given}] + ([{"x": _x(5, 6), **given}] if free else [])
    expected = [{"y": _slice(arrays["x"], *bounds)} for arrays in sets]
    agree(node("Slice", ["x", *"seat"], ["y"]), sets, constants=constants, free={"x": free},
          expected=expected)  # fmt: skip


@pytest.mark.parametrize("computed", ["", "s", "seat"])
@pytest.mark.parametrize("free", [False, True])
def test_backwards_from_before_the_beginning(computed: str, free: bool, agree: Any) -> None:
    bounds = {"s": [-9, -2], "e": [FIRST, FIRST], "a": [0, 1], "t": [-1, -2]}
    inputs = {name: np.array(values, dtype=I64) for name, values in bounds.items()}
    given = {name: array for name, array in inputs.items() if name in computed}
    constants = {name: array for name, array in inputs.items() if name not in computed}
    # In ONNX, the first element is there, unlike in numpy.
    agree(node("Slice", ["x", *"seat"], ["y"]), {"x": _x(4, 6), **given}, constants=constants,
          free={"x": [0, 1]} if free else {})  # fmt: skip


def test_bounds_of_all_axes_in_their_order(agree: Any) -> None:
    sets = [{"x": _x(4, 6), "s": np.array([1, 2], dtype=np.int32)}]
    agree(node("Slice", ["x", "s", "e"], ["y"]), sets, constants={"e": np.array([3, 9], np.int32)})


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("step", [1, 2, -1])
def test_types(dtype: Any, step: int, agree: Any) -> None:
    x = _x(3, 5, dtype=dtype)
    bounds = ([1], [LAST], [1], [step]) if step > 0 else ([LAST], [FIRST], [1], [step])
    constants = {
        name: np.array(values, dtype=I64) for name, values in zip("seat", bounds, strict=True)
    }
    agree(node("Slice", ["x", *"seat"], ["y"]), {"x": x}, constants=constants,
          expected=[{"y": _slice(x, *bounds)}], reference=False)  # fmt: skip


@pytest.mark.parametrize("computed", ["", "se"])
def test_behind_a_convolution(computed: str, agree: Any) -> None:
    inputs = {"s": [1, 2], "e": [3, 6], "a": [1, 3], "t": [1, 2]}
    arrays = {name: np.array(values, dtype=I64) for name, values in inputs.items()}
    given = {name: array for name, array in arrays.items() if name in computed}
    constants = {name: array for name, array in arrays.items() if name not in computed}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Slice", ["c", *"seat"], ["y"])]
    codes = agree(nodes, [{"x": _x(2, 3, 5, 7), **given}, {"x": _x(1, 3, 5, 7), **given}],
        constants={"w": _x(4, 3, 2, 2), **constants}, free={"x": [0]})  # fmt: skip
    assert codes.count("TRANSPOSE") == 2


@pytest.mark.parametrize("rank", [5, 6, 7, 8])
def test_many_axes(rank: int, agree: Any) -> None:
    shape = [2, 3, 1, 3, 1, 2, 2, 3][:rank]
    constants = {"s": np.array([1, 0], dtype=I64), "e": np.array([2, LAST], dtype=I64),
                 "a": np.array([1, -1], dtype=I64), "t": np.array([1, 2], dtype=I64)}  # fmt: skip
    agree(node("Slice", ["x", *"seat"], ["y"]), {"x": _x(*shape)}, constants=constants)


def test_a_slice_of_nothing(agree: Any) -> None:
    nodes = [node("Slice", ["x", "s", "e"], ["n"]), node("Concat", ["n", "x"], ["y"], axis=0)]
    constants = {"s": np.array([3], dtype=I64), "e": np.array([1], dtype=I64)}
    agree(nodes, {"x": _x(4, 2)}, constants=constants)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("time", "batch"), [(0, 1), (1, 0)])
def test_reverse_sequence(dtype: Any, time: int, batch: int, agree: Any) -> None:
    x = _x(4, 4, 2, dtype=dtype)
    lengths = np.array([1, 3, 4, 2], dtype=I64)
    expected = np.moveaxis(x, (batch, time), (0, 1)).copy()
    for row, length in zip(expected, lengths, strict=True):
        row[:length] = row[:length][::-1].copy()
    reverse = node("ReverseSequence", ["x", "l"], ["y"], time_axis=time, batch_axis=batch)
    agree(reverse, {"x": x, "l": lengths},
          expected=[{"y": np.moveaxis(expected, (0, 1), (batch, time))}])  # fmt: skip
