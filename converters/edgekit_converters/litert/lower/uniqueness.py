"""Unique: equal elements or slices once, with where they stood and how often."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import NUMBERS

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

# Every slice is compared with every other one.
_MAX_COMPARISONS: Final = 1 << 24


@lowers("Unique", dtypes={"T": NUMBERS | {"bfloat16"}})
def lower_unique(build: Builder, node: Node) -> None:
    """In rising order, or in that of their first appearance.

    LiteRT's UNIQUE knows only rows of numbers, and loses some behind one that is no number.
    """
    steps = Steps(build, node)
    tensor = steps.in_onnx_order(0)
    if tensor.dtype == "bfloat16":
        # Every one is a float32, and none is computed with.
        tensor = steps.cast(tensor, "float32")
    axis = node.attributes.get("axis")
    if axis is None:
        tensor, axis = steps.flatten(tensor), 0
    at = int(axis) % len(tensor.shape)
    rows = _rows(steps, tensor, at)
    count = rows.shape[0]
    known = [size for size in (count, *rows.shape) if size is not None]
    if math.prod(known) > _MAX_COMPARISONS:
        raise RefusedNodeError(f"it compares {count} slices with each other")
    # Of each slice, the first one that equals it.
    firsts = steps.arg_max(steps.cast(_equal(steps, rows), "int32"), 1)
    is_first = steps.equal(firsts, steps.iota(steps.extent(rows, 0)))
    places = steps.cast(steps.reshape(steps.where(is_first), (None,)), "int32")
    found = steps.vector([steps.extent(places, 0)])
    if node.integer("sorted", 1):
        below = steps.logical_and(_less(steps, rows), steps.expand_dims(is_first, 1))
        numbers = steps.sum(steps.cast(below, "int32"), 0)
        order = steps.expand_dims(steps.gather(numbers, places, 0), 1)
        chosen = steps.step("SCATTER_ND", [order, places, found], (None,), "int32")
    else:
        appearance = steps.cumsum(steps.cast(is_first, "int32"), 0, exclusive=True)
        numbers = steps.gather(appearance, firsts, 0)
        chosen = places
    steps.finish(steps.gather(tensor, chosen, at), 0)
    steps.finish(chosen, 1)
    steps.finish(numbers, 2)
    ones = steps.like(numbers, 1)
    inputs = [steps.expand_dims(numbers, 1), ones, found]
    steps.finish(steps.step("SCATTER_ND", inputs, (None,), "int32"), 3)


def _rows(steps: Steps, tensor: Tensor, axis: int) -> Tensor:
    """The slices as rows."""
    moved = steps.move_axis(tensor, axis, 0)
    first, *others = steps.extents(moved)
    return steps.reshaped(moved, [first, steps.times(*others)])


def _both(steps: Steps, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows against rows: (one, other, element)."""
    return steps.expand_dims(rows, 1), steps.expand_dims(rows, 0)


def _elements_equal(steps: Steps, rows: Tensor) -> Tensor:
    one, other = _both(steps, rows)
    equal = steps.equal(one, other)
    if rows.dtype != "float32":
        return equal
    nothing, no_other = _both(steps, steps.not_equal(rows, rows))
    return steps.logical_or(equal, steps.logical_and(nothing, no_other))


def _equal(steps: Steps, rows: Tensor) -> Tensor:
    """Which rows are equal; what is no number equals its like."""
    return steps.reduce("REDUCE_ALL", _elements_equal(steps, rows), 2)


def _less(steps: Steps, rows: Tensor) -> Tensor:
    """Which rows come before which others: the first element that differs decides."""
    one, other = _both(steps, rows)
    less = steps.less(one, other)
    if rows.dtype == "float32":
        # What is no number comes last.
        nothing, no_other = _both(steps, steps.not_equal(rows, rows))
        less = steps.logical_or(less, steps.logical_and(steps.logical_not(nothing), no_other))
    if rows.shape[1] == 1:
        return steps.squeeze(less, 2)
    differs = steps.cast(steps.logical_not(_elements_equal(steps, rows)), "int32")
    place = steps.expand_dims(steps.arg_max(differs, 2), 2)
    return steps.squeeze(steps.gather(less, place, 2, batch_dims=2), 2)
