"""Tensors put together, taken apart, and repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import ANYTHING

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor


@lowers("Concat", layout=follow, dtypes=ANYTHING)
def lower_concat(build: Builder, node: Node) -> None:
    """Join along one axis."""
    steps = Steps(build, node)
    order = build.layout.work
    if not order:
        raise RefusedNodeError("its inputs are scalars")
    axis = order.index(node.integer("axis", 0) % len(order))
    inputs = [steps.input(position) for position in range(len(node.inputs))]
    # What is empty adds nothing, and kernels do not agree on it.
    inputs = [tensor for tensor in inputs if tensor.shape[axis] != 0] or inputs[:1]
    if len(inputs) == 1:
        build.alias(node, inputs[0])
        return
    steps.finish(steps.concat(inputs, axis))


@lowers("Split", layout=follow, dtypes=ANYTHING)
def lower_split(build: Builder, node: Node) -> None:
    """Equal parts, parts of given sizes, or so many parts that the last one is smaller."""
    steps = Steps(build, node)
    tensor = steps.input()
    order = build.layout.work
    axis = order.index(node.integer("axis", 0) % len(order))
    if len(node.outputs) == 1:
        build.alias(node, tensor)
        return
    for position, part in enumerate(_parts(steps, tensor, axis)):
        steps.finish(part, position)


def _parts(steps: Steps, tensor: Tensor, axis: int) -> list[Tensor]:
    node, size, count = steps.node, tensor.shape[axis], len(steps.node.outputs)
    known = steps.build.known(node, 1)
    if known is None and node.input(1):
        # The sizes may be known all the same, from what the model says about its outputs.
        told = [
            steps.build.shape(name)[steps.build.layout.work[axis]] if name else None
            for name in node.outputs
        ]
        if None in told or size is None:
            return _apart(steps, tensor, [None] * count, steps.build.operand(node, 1), axis)
        known = np.array(told)
    if known is not None:
        parts = [int(part) for part in known.reshape(-1)]
    elif size is not None:
        part = -(-size // count)
        parts = [part] * (count - 1) + [size - part * (count - 1)]
        if parts[-1] < 0:
            raise RefusedNodeError(f"it makes {count} parts of {size}")
    else:
        return _equal_parts(steps, tensor, axis)
    if size is None:
        # The kernel would want the sum already when it does not know the real size yet.
        return _cut(steps, tensor, parts, axis)
    if len(set(parts)) > 1:
        return _apart(steps, tensor, parts, steps.integers(parts, "sizes"), axis)
    shapes = [(*tensor.shape[:axis], part, *tensor.shape[axis + 1 :]) for part in parts]
    inputs = [steps.integers(axis, "axis"), tensor]
    return steps.move_apart("SPLIT", inputs, shapes, 1, numSplits=count)


def _apart(
    steps: Steps, tensor: Tensor, parts: Sequence[int | None], sizes: Tensor, axis: int
) -> list[Tensor]:
    shapes = [(*tensor.shape[:axis], part, *tensor.shape[axis + 1 :]) for part in parts]
    inputs = [tensor, sizes, steps.integers(axis, "axis")]
    return steps.move_apart("SPLIT_V", inputs, shapes, 0, numSplits=len(parts))


def _equal_parts(steps: Steps, tensor: Tensor, axis: int) -> list[Tensor]:
    """Of a free size, so many of the rounded-up part as fit; the last gets what is left."""
    count = len(steps.node.outputs)
    size = steps.scalar(steps.extent(tensor, axis))
    part = steps.floor_div(steps.add(size, count - 1), count)
    starts = steps.mul(steps.iota(count), part)
    sizes = steps.maximum(steps.minimum(steps.sub(size, starts), part), 0)
    return _apart(steps, tensor, [None] * count, sizes, axis)


def _cut(steps: Steps, tensor: Tensor, parts: list[int], axis: int) -> list[Tensor]:
    rank = len(tensor.shape)
    others = ((1 << rank) - 1) & ~(1 << axis)
    start, made = 0, []
    for part in parts:
        shape = (*tensor.shape[:axis], part, *tensor.shape[axis + 1 :])
        begin, end = [0] * rank, [0] * rank
        begin[axis], end[axis] = start, start + part
        made.append(
            steps.strided_slice(
                tensor, begin, end, [1] * rank, shape, beginMask=others, endMask=others
            )
        )
        start += part
    return made


@lowers("Tile", layout=follow, dtypes=ANYTHING)
def lower_tile(build: Builder, node: Node) -> None:
    """Repeated along every axis, known or computed how often."""
    steps = Steps(build, node)
    tensor = steps.input()
    order = build.layout.work
    known = build.known(node, 1)
    if known is not None:
        repeats = known.reshape(-1)[list(order)].astype(int).tolist()
        if all(count == 1 for count in repeats):
            build.alias(node, tensor)
            return
        steps.finish(steps.tile(tensor, repeats))
        return
    counts = build.operand(node, 1)
    if list(order) != sorted(order):
        counts = steps.gather(counts, steps.integers(np.array(order), "order"), 0)
    shape = tuple(build.shape(node.outputs[0])[axis] for axis in order)
    steps.finish(steps.step("TILE", [tensor, counts], shape, tensor.dtype))
