"""Blocks and strides of a tensor, and sequences turned around."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import ANYTHING

if TYPE_CHECKING:
    from edgekit_converters.graph import Node, Shape
    from edgekit_converters.litert.program import Tensor

_LIMITS: Final = np.iinfo(np.int32)
_STARTS, _ENDS, _AXES, _STEPS = 1, 2, 3, 4


@lowers("Slice", layout=follow, dtypes=ANYTHING)
def lower_slice(build: Builder, node: Node) -> None:
    """Bounds that are known or computed, beyond the ends, counted from either end, backwards."""
    steps = Steps(build, node)
    tensor = steps.input()
    if any(node.input(at) and build.known(node, at) is None for at in range(_STARTS, _STEPS + 1)):
        steps.finish(_slice_computed(steps, tensor))
        return
    slices = _known_slices(build, node, tensor.shape)
    blocks = _blocks(tensor, slices)
    if blocks is not None:
        begin, size = blocks
        result = steps.slice(tensor, begin, size)
        if result is tensor:
            build.alias(node, tensor)
        else:
            steps.finish(result)
        return
    shape = tuple(
        None if size is None else len(range(*part.indices(size)))
        for size, part in zip(tensor.shape, slices, strict=True)
    )
    begin, end, stride, begins, ends = [], [], [], 0, 0
    for axis, part in enumerate(slices):
        begin.append(part.start or 0)
        end.append(part.stop or 0)
        stride.append(part.step or 1)
        begins |= (part.start is None) << axis
        ends |= (part.stop is None) << axis
    first: list[int] | Tensor = begin
    if any(
        size is None and step < 0 and start < -1
        for size, step, start in zip(tensor.shape, stride, begin, strict=True)
    ):
        first = _not_before(steps, steps.integers(begin), tensor)
    steps.finish(
        steps.strided_slice(tensor, first, end, stride, shape, beginMask=begins, endMask=ends)
    )


def _known_slices(build: Builder, node: Node, sizes: Shape) -> list[slice]:
    """One of Python's slices for each axis, in the order in which the node works."""
    starts, ends = (build.constant_of(node, at) for at in (_STARTS, _ENDS))
    if starts is None or ends is None:
        raise RefusedNodeError("its bounds are missing")
    axes, strides = build.known(node, _AXES), build.known(node, _STEPS)
    order = build.layout.work
    slices = {axis: slice(None) for axis in order}
    for position, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = position if axes is None else int(axes[position]) % len(order)
        stride = 1 if strides is None else int(strides[position])
        first, last = (int(np.clip(bound, _LIMITS.min, _LIMITS.max)) for bound in (start, end))
        size = sizes[order.index(axis)]
        if stride < 0 and size is not None and first < -size:
            # Backwards from before the beginning, ONNX has the first element and LiteRT nothing.
            first = 0
        whole = stride > 0 and last == _LIMITS.max
        slices[axis] = slice(first, None if whole else last, stride)
    return [slices[axis] for axis in order]


def _blocks(tensor: Tensor, slices: list[slice]) -> tuple[list[int], list[int]] | None:
    """The slices as begin and size, -1 for the rest of an axis; None if they are not like that."""
    begin, size = [], []
    for whole, part in zip(tensor.shape, slices, strict=True):
        if part == slice(None) or part == slice(0, None, 1):
            begin.append(0)
            size.append(-1)
            continue
        if whole is None or part.step != 1:
            return None
        first, last, _ = part.indices(whole)
        begin.append(first)
        size.append(max(last - first, 0))
    return begin, size


def _slice_computed(steps: Steps, tensor: Tensor) -> Tensor:
    """Where a bound, an axis or a stride is known to the running model alone."""
    build, node = steps.build, steps.node
    order = build.layout.work
    rank = len(order)
    starts, ends = (steps.bounded(steps.in_onnx_order(at)) for at in (_STARTS, _ENDS))
    count = starts.shape[0]
    if count is None:
        count = ends.shape[0]
    if count is None:
        raise RefusedNodeError("the number of its bounds is free")
    strides = (
        steps.bounded(steps.in_onnx_order(_STEPS))
        if node.input(_STEPS)
        else steps.integers([1] * count)
    )
    defaults = ((starts, 0), (ends, int(_LIMITS.max)), (strides, 1))
    chosen = build.known(node, _AXES)
    if node.input(_AXES) and chosen is None:
        bounds = _spread(steps, defaults, count)
    else:
        axes = list(range(count)) if chosen is None else [int(axis) % rank for axis in chosen]
        # The element behind the last one is for the axes that are not sliced.
        places = [axes.index(axis) if axis in axes else count for axis in order]
        bounds = [
            vector
            if places == list(range(count))
            else steps.gather(steps.pad(vector, [(0, 1)], default), steps.integers(places), 0)
            for vector, default in defaults
        ]
    shape = tuple(build.shape(node.outputs[0])[axis] for axis in order)
    begin, end, stride = bounds
    if stride.data is None or (stride.data < 0).any():
        begin = _not_before(steps, begin, tensor)
    return steps.strided_slice(tensor, begin, end, stride, shape)


def _not_before(steps: Steps, begin: Tensor, tensor: Tensor) -> Tensor:
    """Backwards from before the beginning, ONNX has the first element and LiteRT nothing."""
    return steps.maximum(begin, steps.neg(steps.vector(steps.extents(tensor))))


def _spread(
    steps: Steps, vectors: tuple[tuple[Tensor, int], ...], count: int
) -> list[Tensor]:  # fmt: skip
    """Vectors with an element for each axis, from those with one for each of computed axes."""
    order = steps.build.layout.work
    given = steps.from_the_front(steps.build.operand(steps.node, _AXES), len(order))
    matches = steps.equal(
        steps.integers([[axis] for axis in order], "axes"), steps.reshape(given, (1, count))
    )
    taken = steps.cast(matches, "int32")
    sliced = steps.reduce("REDUCE_ANY", matches, 1)
    return [
        steps.select(
            sliced, steps.sum(steps.mul(taken, steps.reshape(vector, (1, count))), 1), default
        )
        for vector, default in vectors
    ]


@lowers("ReverseSequence", dtypes=ANYTHING)
def lower_reverse_sequence(build: Builder, node: Node) -> None:
    """The beginning of every sample turned around, up to the sample's own length."""
    steps = Steps(build, node)
    tensor = steps.in_onnx_order(0)
    lengths = build.operand(node, 1)
    steps.finish(
        steps.move(
            "REVERSE_SEQUENCE", [tensor, lengths], tensor.shape,
            seqDim=node.integer("time_axis", 0), batchDim=node.integer("batch_axis", 1),
        )
    )  # fmt: skip
