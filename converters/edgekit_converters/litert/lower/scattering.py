"""Copies of a tensor with some of its elements replaced, added to, multiplied or compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.gathering import indices_of, tuples_from_the_front
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.size_steps import Extent
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import ANYTHING, carrier_of

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

# What SCATTER_ND sums, and what the reductions over segments take.
_SUMMED: Final = frozenset({"float32", "int32", "int64"})
_SEGMENTED: Final = frozenset({"float32", "int32"})
_SEGMENTS: Final = {
    "mul": ("UNSORTED_SEGMENT_PROD", "MUL"),
    "max": ("UNSORTED_SEGMENT_MAX", "MAXIMUM"),
    "min": ("UNSORTED_SEGMENT_MIN", "MINIMUM"),
}


@lowers("ScatterND", dtypes=ANYTHING)
def lower_scatter_nd(build: Builder, node: Node) -> None:
    """Updates of slices, at tuples of indices."""
    steps = Steps(build, node)
    tensor, indices = steps.in_onnx_order(0), indices_of(steps, 1)
    updates = steps.in_onnx_order(2)
    depth = indices.shape[-1]
    if not depth:
        raise RefusedNodeError("the number of indices a slice is free or zero")
    extents = steps.extents(tensor)
    indices = tuples_from_the_front(steps, indices, extents[:depth])
    places = steps.cast(indices, "int32")
    steps.finish(_scatter(steps, tensor, extents, places, updates))


@lowers("ScatterElements", "Scatter", dtypes=ANYTHING)
def lower_scatter_elements(build: Builder, node: Node) -> None:
    """Updates of single elements, at indices along one axis."""
    steps = Steps(build, node)
    tensor, indices = steps.in_onnx_order(0), indices_of(steps, 1)
    updates = steps.in_onnx_order(2)
    axis = node.integer("axis", 0) % len(tensor.shape)
    indices = steps.from_the_front(indices, steps.extent(tensor, axis))
    steps.finish(_scatter_along(steps, tensor, axis, indices, updates))


@lowers("TensorScatter", dtypes=ANYTHING)
def lower_tensor_scatter(build: Builder, node: Node) -> None:
    """Blocks written into a cache, for every sample at a place of its own."""
    steps = Steps(build, node)
    cache, updates = steps.in_onnx_order(0), steps.in_onnx_order(1)
    mode = node.text("mode", "linear")
    if mode not in {"linear", "circular"}:
        raise RefusedNodeError(f"its mode is {mode!r}, supported: 'linear', 'circular'")
    rank = len(cache.shape)
    axis = node.integer("axis", -2) % rank
    if axis == 0:
        raise RefusedNodeError("it writes along the axis of the samples")
    sizes = steps.extents(updates)
    places = steps.coordinates(sizes[axis], axis, rank)
    if node.input(2):
        starts = steps.cast(indices_of(steps, 2), "int32")
        places = steps.add(steps.reshape(starts, (cache.shape[0], *[1] * (rank - 1))), places)
    if mode == "circular":
        places = steps.floor_mod(places, steps.scalar(steps.extent(cache, axis)))
    steps.finish(_scatter_along(steps, cache, axis, steps.widened(places, sizes), updates))


def _scatter_along(
    steps: Steps, tensor: Tensor, axis: int, indices: Tensor, updates: Tensor
) -> Tensor:
    """At each index along an axis, as if all elements were in one row."""
    rank = len(tensor.shape)
    extents = steps.extents(tensor)
    grid = steps.extents(indices)
    strides: list[Extent] = [steps.times(*extents[at + 1 :]) for at in range(rank)]
    places = _scaled(steps, steps.cast(indices, "int32"), strides[axis])
    for at in range(rank):
        if at != axis and grid[at] != 1:
            offsets = _scaled(steps, steps.coordinates(grid[at], at, rank), strides[at])
            places = steps.add(places, offsets)
    row = steps.flatten(tensor)
    places = steps.reshape(steps.flatten(places), (_count(places), 1))
    total = steps.times(*extents)
    changed = _scatter(steps, row, [total], places, steps.flatten(updates))
    return steps.reshaped(changed, extents)


def _count(tensor: Tensor) -> int | None:
    total = 1
    for size in tensor.shape:
        if size is None:
            return None
        total *= size
    return total


def _scaled(steps: Steps, tensor: Tensor, stride: Extent) -> Tensor:
    if stride == 1:
        return tensor
    if tensor.data is not None and isinstance(stride, int):
        return steps.constant(tensor.data * stride, "offsets")
    return steps.mul(tensor, steps.scalar(stride))


def _scatter(
    steps: Steps, tensor: Tensor, extents: list[Extent], places: Tensor, updates: Tensor
) -> Tensor:
    """Updates at tuples of int32 indices, which are the last axis of `places`."""
    reduction = steps.node.text("reduction", "none")
    dtype = tensor.dtype
    if reduction == "none":
        return _put(steps, tensor, extents, places, updates)
    inner = carrier_of(dtype, _SUMMED if reduction == "add" else _SEGMENTED)
    if inner is None:
        raise RefusedNodeError(f"its reduction {reduction!r} is of type {dtype}")
    target, given = steps.cast(tensor, inner), steps.cast(updates, inner)
    if reduction == "add":
        inputs = [places, given, steps.vector(extents)]
        added = steps.step("SCATTER_ND", inputs, _shape_of(extents), inner)
        return steps.cast(steps.add(target, added), dtype)
    if reduction not in _SEGMENTS:
        raise RefusedNodeError(f"its reduction is {reduction!r}")
    code, combine = _SEGMENTS[reduction]
    depth = places.shape[-1] or 0
    rest = extents[depth:]
    ids = _numbers(steps, extents[:depth], places)
    rows = steps.reshaped(given, [steps.extent(ids, 0), *rest])
    segments = _segments(steps, code, rows, ids, steps.times(*extents[:depth]))
    return steps.cast(steps.binary(combine, target, steps.reshaped(segments, extents)), dtype)


def _put(
    steps: Steps, tensor: Tensor, extents: list[Extent], places: Tensor, updates: Tensor
) -> Tensor:
    """Replaced, by the last of several updates of one place."""
    depth = places.shape[-1] or 0
    rest = extents[depth:]
    ids = _numbers(steps, extents[:depth], places)
    count = steps.extent(ids, 0)
    winners = _segments(
        steps, "UNSORTED_SEGMENT_MAX", steps.iota(count), ids, steps.times(*extents[:depth])
    )
    rows = steps.reshaped(updates, [count, *rest])
    taken = steps.reshaped(steps.gather(rows, steps.maximum(winners, 0), 0), extents)
    changed = steps.reshaped(steps.greater_equal(winners, 0), [*extents[:depth], *[1] * len(rest)])
    return steps.select(changed, taken, tensor)


def _numbers(steps: Steps, extents: list[Extent], places: Tensor) -> Tensor:
    """Tuples of indices as the numbers of the slices, in one row."""
    if len(extents) == 1:
        return steps.flatten(places)
    strides = [steps.times(*extents[at + 1 :]) for at in range(len(extents))]
    return steps.flatten(steps.sum(steps.mul(places, steps.vector(strides)), -1))


def _segments(steps: Steps, code: str, rows: Tensor, ids: Tensor, count: Extent) -> Tensor:
    """Rows of the same number reduced to one; where there is none, the reduction's own neutral."""
    shape = (count if isinstance(count, int) else None, *rows.shape[1:])
    return steps.step(code, [rows, ids, steps.scalar(count)], shape, rows.dtype)


def _shape_of(extents: list[Extent]) -> tuple[int | None, ...]:
    return tuple(extent if isinstance(extent, int) else None for extent in extents)
