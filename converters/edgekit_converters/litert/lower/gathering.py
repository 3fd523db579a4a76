"""Elements and slices picked by indices, which ONNX also counts from the end."""

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


def indices_of(steps: Steps, position: int) -> Tensor:
    """An input that holds indices; int64 constants as int32, which the kernels read as well."""
    known = steps.build.known(steps.node, position)
    if known is not None:
        return steps.integers(known, "indices")
    return steps.in_onnx_order(position)


@lowers("Gather", layout=follow, dtypes=ANYTHING)
def lower_gather(build: Builder, node: Node) -> None:
    """Slices of one axis; a list of indices keeps the axes, which may stand in any order then."""
    steps = Steps(build, node)
    listed = len(build.shape(node.input(1))) == 1
    tensor = steps.input() if listed else steps.in_onnx_order(0)
    axis = node.integer("axis", 0) % len(tensor.shape)
    if listed:
        axis = build.layout.work.index(axis)
    indices = steps.from_the_front(indices_of(steps, 1), steps.extent(tensor, axis))
    picked = steps.gather(tensor, indices, axis)
    steps.finish(picked if listed else steps.stored(picked))


@lowers("GatherElements", dtypes=ANYTHING)
def lower_gather_elements(build: Builder, node: Node) -> None:
    """Along one axis, an element for each index."""
    steps = Steps(build, node)
    tensor, indices = steps.in_onnx_order(0), indices_of(steps, 1)
    rank = len(tensor.shape)
    axis = node.integer("axis", 0) % rank
    indices = steps.from_the_front(indices, steps.extent(tensor, axis))
    others = [at for at in range(rank) if at != axis]
    if any(tensor.shape[at] is None or tensor.shape[at] != indices.shape[at] for at in others):
        # The indices may stop short of the tensor's end along the other axes.
        sizes = [
            steps.integers(-1) if at == axis else steps.scalar(steps.extent(indices, at))
            for at in range(rank)
        ]
        shape = tuple(tensor.shape[at] if at == axis else indices.shape[at] for at in range(rank))
        begin = steps.integers([0] * rank, "begin")
        tensor = steps.step("SLICE", [tensor, begin, steps.stack(sizes, 0)], shape, tensor.dtype)
    rows = steps.move_axis(tensor, axis, rank - 1)
    picked = steps.gather(
        rows, steps.move_axis(indices, axis, rank - 1), rank - 1, batch_dims=rank - 1
    )
    steps.finish(steps.move_axis(picked, rank - 1, axis))


@lowers("GatherND", dtypes=ANYTHING)
def lower_gather_nd(build: Builder, node: Node) -> None:
    """Slices by tuples of indices; the leading axes may go along with those of the indices."""
    steps = Steps(build, node)
    tensor, indices = steps.in_onnx_order(0), indices_of(steps, 1)
    batch = node.integer("batch_dims", 0)
    depth = indices.shape[-1]
    if not depth:
        raise RefusedNodeError("the number of indices a slice is free or zero")
    extents = [steps.extent(tensor, batch + at) for at in range(depth)]
    indices = tuples_from_the_front(steps, indices, extents)
    if batch:
        indices = steps.cast(indices, "int32")
        grid = [*steps.extents(indices)[:-1], 1]
        rank = len(indices.shape)
        leading = [
            steps.widened(steps.coordinates(grid[at], at, rank), grid) for at in range(batch)
        ]
        indices = steps.concat([*leading, indices], -1)
    steps.finish(steps.gather_nd(tensor, indices))


def tuples_from_the_front(steps: Steps, indices: Tensor, extents: list[int | Tensor]) -> Tensor:
    """Tuples of indices, each of them counted from the front of its own axis."""
    data = indices.data
    if data is not None and not (data < 0).any():
        return indices
    known = [extent for extent in extents if isinstance(extent, int)]
    if len(known) == len(extents):
        sizes = np.array(known, dtype=indices.dtype)
        if data is not None:
            return steps.constant(np.where(data < 0, data + sizes, data), "indices")
        ends = steps.constant(sizes, "sizes")
    else:
        ends = steps.cast(steps.vector(extents), indices.dtype)
    return steps.select(steps.less(indices, 0), steps.add(indices, ends), indices)
