"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.layout import NodeLayout, Permutation, reduced
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node

_CODES: Final = {
    "ReduceMean": "MEAN",
    "ReduceSum": "SUM",
    "ReduceMax": "REDUCE_MAX",
    "ReduceMin": "REDUCE_MIN",
    "ReduceProd": "REDUCE_PROD",
}


def _axes(node: Node, graph: Graph) -> tuple[int, ...]:
    """The axes, never negative; all of them where the node names none."""
    rank = len(graph.shape(node.input(0)) or ())
    axes = node.integers("axes")
    constant = graph.constants.get(node.input(1))
    if constant is not None:
        axes = tuple(int(axis) for axis in constant.reshape(-1))
    if not axes:
        return () if node.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({axis % rank for axis in axes}))


def _rule(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:
    keep = bool(node.integer("keepdims", 1))
    return reduced(node, graph, stored, _axes(node, graph), keep=keep)


@lowers(*_CODES, layout=_rule)
def lower_reduction(build: Builder, node: Node) -> None:
    """One of LiteRT's reductions, its axes counted in the stored order."""
    if node.input(1):
        build.constant_of(node, 1)
    axes = _axes(node, build.graph)
    source = build.input(node)
    if not axes:
        raise RefusedNodeError("it reduces no axis")
    order = build.layout.work
    stored_axes = sorted(order.index(axis) for axis in axes)
    indices = build.integers(f"{node.outputs[0]}/axes", stored_axes)
    keep = bool(node.integer("keepdims", 1))
    build.emit(_CODES[node.op], [source, indices], node, keepDims=keep)
