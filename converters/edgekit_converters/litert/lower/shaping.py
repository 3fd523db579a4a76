"""The same elements in another shape, and shapes themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import NodeLayout, Permutation, identity, relabel
from edgekit_converters.litert.lower.builder import MAX_RANK, Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.size_steps import Extent, divides
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import ANYTHING

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node, Shape
    from edgekit_converters.litert.program import Tensor


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze", dtypes=ANYTHING)
def lower_reshape(build: Builder, node: Node) -> None:
    """All the ways in which ONNX gives the same values another shape."""
    steps = Steps(build, node)
    tensor = steps.in_onnx_order(0)
    shape = build.shape(node.outputs[0])
    if tensor.shape == shape and shape.count(None) <= 1:
        build.alias(node, tensor)
        return
    if max(len(shape), len(tensor.shape)) > MAX_RANK:
        ranks = f"{len(tensor.shape)} axes to {len(shape)}"
        raise RefusedNodeError(f"it reshapes {ranks}, supported: {MAX_RANK}")
    if shape.count(None) == 1 and not divides(tensor.shape, shape):
        sizes = _late_sizes(steps, tensor, shape)
        build.emit("RESHAPE", [tensor, sizes], node)
        return
    if shape.count(None) <= 1:
        sizes = build.reshape_sizes(shape, node.outputs[0])
        target = [-1 if size is None else size for size in shape]
        build.emit("RESHAPE", [tensor, sizes], node, newShape=target)
        return
    sizes = _computed_sizes(steps, tensor)
    build.emit("RESHAPE", [tensor, sizes], node)


def _late_sizes(steps: Steps, tensor: Tensor, shape: Shape) -> Tensor:
    """The target as a tensor that is computed only when the model runs."""
    total = steps.scalar(steps.times(*steps.extents(tensor)))
    wanted = math.prod(size for size in shape if size is not None)
    free = steps.floor_div(total, wanted)
    return steps.vector([free if size is None else size for size in shape])


def _computed_sizes(steps: Steps, tensor: Tensor) -> Tensor:
    """The target of a node where more than one of its sizes is free."""
    build, node = steps.build, steps.node
    if node.op == "Reshape":
        return _reshape_target(steps, tensor)
    if node.op == "Flatten":
        extents = steps.extents(tensor)
        axis = node.integer("axis", 1)
        at = axis % len(extents) if axis < 0 else axis
        return steps.vector([steps.times(*extents[:at]), steps.times(*extents[at:])])
    rank = len(build.shape(node.outputs[0]))
    if node.op == "Squeeze":
        added = _axes_mask(steps, len(tensor.shape))
        kept = steps.where(steps.logical_not(added))
        return steps.gather(steps.shape_of(tensor), steps.reshape(kept, (rank,)), 0)
    added = _axes_mask(steps, rank)
    others = steps.cumsum(steps.cast(steps.logical_not(added), "int32"), 0)
    sizes = steps.gather(steps.shape_of(tensor), steps.maximum(steps.sub(others, 1), 0), 0)
    return steps.select(added, 1, sizes)


def _reshape_target(steps: Steps, tensor: Tensor) -> Tensor:
    """A Reshape's sizes; zero copies that of the input, if the node does not say otherwise."""
    build, node = steps.build, steps.node
    copies = not node.integer("allowzero", 0)
    known = build.known(node, 1)
    if known is not None:
        extents: list[Extent] = [
            steps.extent(tensor, axis) if size == 0 and copies else int(size)
            for axis, size in enumerate(known)
        ]
        return steps.vector(extents)
    target = steps.bounded(steps.in_onnx_order(1))
    rank = len(build.shape(node.outputs[0]))
    if not copies:
        return target
    sizes = steps.shape_of(tensor)
    if len(tensor.shape) > rank:
        sizes = steps.slice(sizes, [0], [rank])
    elif len(tensor.shape) < rank:
        sizes = steps.pad(sizes, [(0, rank - len(tensor.shape))])
    return steps.select(steps.equal(target, 0), sizes, target)


def _axes_mask(steps: Steps, rank: int) -> Tensor:
    """Which of an operator's axes are named by its second input, computed or not."""
    axes = steps.node.integers("axes")
    if axes is None and not steps.node.input(1):
        raise RefusedNodeError("which axes are of size one is not known")
    known = steps.build.known(steps.node, 1) if axes is None else np.array(axes)
    if known is not None:
        chosen = {int(axis) % rank for axis in known.reshape(-1)}
        return steps.constant(np.array([axis in chosen for axis in range(rank)]))
    given = steps.from_the_front(steps.build.operand(steps.node, 1), rank)
    matches = steps.equal(
        steps.reshape(steps.iota(rank), (rank, 1)), steps.reshape(given, (1, given.shape[0]))
    )
    return steps.reduce("REDUCE_ANY", matches, 1)


@lowers("Transpose", layout=relabel, dtypes=ANYTHING)
def lower_transpose(build: Builder, node: Node) -> None:
    """Nothing is moved here: the plan has renamed the axes."""
    build.alias(node, build.input(node))


@lowers("Constant", dtypes=ANYTHING)
def lower_constant(build: Builder, node: Node) -> None:
    """A constant that is an output of the model."""
    value = node.attributes.get("value")
    if not isinstance(value, np.ndarray):
        raise RefusedNodeError("it holds no tensor")
    build.alias(node, build.constant(f"{node.outputs[0]}/value", value))


@lowers("Expand", dtypes=ANYTHING)
def lower_expand(build: Builder, node: Node) -> None:
    """Repeated along axes of size one: both ways, the target may have ones as well."""
    steps = Steps(build, node)
    tensor = steps.in_onnx_order(0)
    shape = build.shape(node.outputs[0])
    if tensor.shape == shape and None not in shape:
        build.alias(node, tensor)
        return
    if None not in (*shape, *tensor.shape):
        steps.finish(steps.widened(tensor, [size or 0 for size in shape]))
        return
    rank = len(shape)
    wide = (1,) * (rank - len(tensor.shape)) + tensor.shape
    own = [
        steps.extent(tensor, axis - rank) if size is None else size
        for axis, size in enumerate(wide)
    ]
    known = build.known(node, 1)
    if known is not None:
        given = steps.integers([1] * (rank - known.size) + known.reshape(-1).tolist())
    else:
        given = steps.bounded(steps.in_onnx_order(1))
        (length,) = given.shape
        if length is None:
            raise RefusedNodeError("the length of its target is free")
        given = given if length == rank else steps.pad(given, [(rank - length, 0)], 1)
    sizes = steps.vector(own)
    sizes = steps.select(steps.equal(sizes, 1), given, sizes)
    steps.finish(steps.step("BROADCAST_TO", [tensor, sizes], shape, tensor.dtype))


def _as_stored(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:
    """Nothing is moved in order to be measured."""
    order = stored.get(node.input(0), identity(len(graph.shape(node.input(0)) or ())))
    return NodeLayout(work=order, stored=identity(len(graph.shape(node.outputs[0]) or ())))


@lowers("Shape", layout=_as_stored, dtypes={})
def lower_shape(build: Builder, node: Node) -> None:
    """The sizes of a part of the axes."""
    steps = Steps(build, node)
    name = node.input(0)
    shape = build.shape(name)
    rank = len(shape)
    first, last, _ = slice(node.integer("start", 0), node.attributes.get("end"), None).indices(rank)
    if None not in shape[first:last]:
        sizes = steps.integers(shape[first:last], "sizes", dtype="int64")
        build.alias(node, sizes)
        return
    sizes = steps.step("SHAPE", [steps.input()], (rank,), "int64", outType="int64")
    order = build.layout.work
    if order == identity(rank):
        steps.finish(steps.slice(sizes, [first], [last - first]))
        return
    places = steps.integers([order.index(axis) for axis in range(first, last)])
    steps.finish(steps.gather(sizes, places, 0))


@lowers("Size", layout=_as_stored, dtypes={})
def lower_size(build: Builder, node: Node) -> None:
    """The number of elements."""
    steps = Steps(build, node)
    total = steps.times(*steps.extents(steps.input()))
    if isinstance(total, int):
        build.alias(node, steps.integers(total, dtype="int64"))
    else:
        steps.finish(total)
