"""Tensors put together, taken apart, and repeated."""

from __future__ import annotations

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
    parts = [build.shape(name)[node.integer("axis", 0)] if name else None for name in node.outputs]
    if len(parts) == 1:
        build.alias(node, tensor)
        return
    size = tensor.shape[axis]
    known = build.known(node, 1)
    if known is not None:
        parts = [int(part) for part in known.reshape(-1)]
    elif not node.input(1) and size is not None:
        part = -(-size // len(parts))
        parts = [max(min(part, size - part * at), 0) for at in range(len(parts))]
    shapes = [(*tensor.shape[:axis], part, *tensor.shape[axis + 1 :]) for part in parts]
    where = steps.integers(axis, "axis")
    equal = None not in parts and len(set(parts)) == 1
    if equal or (not node.input(1) and node.attributes.get("num_outputs") is None):
        # Of a free axis, the kernel sees to it that the parts are equal.
        made = steps.move_apart("SPLIT", [where, tensor], shapes, 1, numSplits=len(parts))
    else:
        sizes = _sizes(steps, parts, tensor, axis)
        made = steps.move_apart("SPLIT_V", [tensor, sizes, where], shapes, 0, numSplits=len(parts))
    for position, part_tensor in enumerate(made):
        steps.finish(part_tensor, position)


def _sizes(steps: Steps, parts: list[int | None], tensor: Tensor, axis: int) -> Tensor:
    if None not in parts:
        return steps.integers(parts, "sizes")
    if steps.node.input(1):
        return steps.build.operand(steps.node, 1)
    # So many of the rounded-up size as fit; of what is left, the last ones get less or nothing.
    size = steps.scalar(steps.extent(tensor, axis))
    count = len(parts)
    part = steps.floor_div(steps.add(size, count - 1), count)
    starts = steps.mul(steps.iota(count), part)
    return steps.maximum(steps.minimum(steps.sub(size, starts), part), 0)


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
