"""Where the largest and the smallest are, and the first of an order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import NodeLayout, Permutation, identity, reduced
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.size_steps import Extent
from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.litert.program import Tensor

_COMPARED: Final = frozenset({"float32", "bfloat16", "int8", "uint8", "int32", "int64", "uint64"})
_SORTED: Final = _COMPARED | {"int16"}


def _without_axis(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:
    rank = len(graph.shape(node.input(0)) or ())
    axis = node.integer("axis", 0) % max(rank, 1)
    return reduced(node, graph, stored, (axis,), keep=bool(node.integer("keepdims", 1)))


@lowers("ArgMax", "ArgMin", layout=_without_axis, dtypes={"T": _COMPARED})
def lower_arg(build: Builder, node: Node) -> None:
    """The index of the largest or smallest along an axis, of the first or last of equal ones."""
    steps = Steps(build, node)
    tensor = steps.input()
    if not tensor.shape:
        raise RefusedNodeError("its input is a scalar")
    axis = build.layout.work.index(node.integer("axis", 0) % len(tensor.shape))
    if tensor.shape[axis] == 0:
        raise RefusedNodeError("there is nothing along its axis")
    largest = node.op == "ArgMax"
    last = bool(node.integer("select_last_index", 0))
    if tensor.dtype == "bfloat16":
        # Every one is a float32, and none is computed with.
        tensor = steps.cast(tensor, "float32")
    if last:
        tensor = steps.reverse(tensor, axis)
    if tensor.dtype in {"int64", "uint64"}:
        found = _first_of_order(steps, tensor, axis, largest=largest)
    elif largest:
        found = steps.arg_max(tensor, axis, "int64")
    else:
        found = steps.arg_min(tensor, axis, "int64")
    if last:
        end = steps.scalar(steps.minus(steps.extent(tensor, axis), 1))
        found = steps.sub(steps.cast(end, "int64"), found)
    steps.finish(steps.expand_dims(found, axis) if node.integer("keepdims", 1) else found)


def _first_of_order(steps: Steps, tensor: Tensor, axis: int, *, largest: bool) -> Tensor:
    """What ARG_MAX does, which lacks the widest integers."""
    rows = steps.move_axis(_rising(steps, tensor, largest=largest), axis, -1)
    _, indices = steps.top_k(rows, steps.integers(1, "count"), 1)
    return steps.cast(steps.squeeze(indices, -1), "int64")


def _axis_last(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:
    rank = len(graph.shape(node.input(0)) or ())
    axis = node.integer("axis", -1) % max(rank, 1)
    order = stored.get(node.input(0), identity(rank))
    if order and order[-1] != axis:
        order = (*(other for other in order if other != axis), axis)
    return NodeLayout(work=order, stored=order)


@lowers("TopK", layout=_axis_last, dtypes={"T": _SORTED})
def lower_top_k(build: Builder, node: Node) -> None:
    """The largest or smallest along an axis, in order, equal ones by their index."""
    steps = Steps(build, node)
    tensor = steps.input()
    if not tensor.shape:
        raise RefusedNodeError("its input is a scalar")
    largest = bool(node.integer("largest", 1))
    dtype = tensor.dtype
    count: Extent
    known = build.known(node, 1)
    size = build.shape(node.outputs[0] or node.outputs[1])[build.layout.work[-1]]
    if known is not None:
        size = int(known.reshape(-1)[0])
        count = steps.late(size, steps.extent(tensor, -1))
    else:
        count = steps.reshape(steps.bounded(steps.in_onnx_order(1)), ())
    rising = _rising(steps, tensor, largest=largest)
    values, indices = steps.top_k(rising, steps.scalar(count), size)
    steps.finish(_from_rising(steps, values, dtype, largest=largest), 0)
    steps.finish(indices, 1)


def _rising(steps: Steps, tensor: Tensor, *, largest: bool) -> Tensor:
    """Numbers of a type that the kernel sorts, whose largest ones are those that are wanted."""
    if tensor.dtype == "bfloat16":
        tensor = steps.cast(tensor, "float32")
    if tensor.dtype == "uint64":
        # The same order, if the first half of the numbers is taken to be negative.
        bits = steps.bits(tensor, "int64")
        lowest = steps.constant(np.array(np.iinfo(np.int64).min), "lowest")
        tensor = steps.add(bits, lowest)
    if largest:
        return tensor
    if tensor.dtype == "float32":
        return steps.neg(tensor)
    # Not the negative, which the lowest integer does not have.
    if tensor.dtype not in {"int32", "int64"}:
        tensor = steps.cast(tensor, "int32")
    return steps.sub(-1, tensor)


def _from_rising(steps: Steps, tensor: Tensor, dtype: str, *, largest: bool) -> Tensor:
    if not largest:
        tensor = steps.neg(tensor) if tensor.dtype == "float32" else steps.sub(-1, tensor)
    if dtype != "uint64":
        return steps.cast(tensor, dtype)
    lowest = steps.constant(np.array(np.iinfo(np.int64).min), "lowest")
    return steps.bits(steps.add(tensor, lowest), "uint64")
