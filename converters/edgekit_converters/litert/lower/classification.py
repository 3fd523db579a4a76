"""What turns scores along an axis into shares, one winner, or a vector of length one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit_converters.litert.layout import NodeLayout, Permutation, follow, identity
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node


def _axis_last(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:
    rank = len(graph.shape(node.outputs[0]) or ())
    axis = node.integer("axis", -1) % max(rank, 1)
    order = stored.get(node.input(0), identity(rank))
    if order and order[-1] != axis:
        order = (*(other for other in range(rank) if other != axis), axis)
    return NodeLayout(work=order, stored=order)


@lowers("Softmax", "LogSoftmax", layout=_axis_last)
def lower_softmax(build: Builder, node: Node) -> None:
    """Along the last stored axis, as LiteRT wants it."""
    if not build.layout.work:
        raise RefusedNodeError("its input is a scalar")
    if node.op == "Softmax":
        build.emit("SOFTMAX", [build.input(node)], node, beta=1.0)
    else:
        build.emit("LOG_SOFTMAX", [build.input(node)], node)


@lowers("Hardmax", layout=_axis_last)
def lower_hardmax(build: Builder, node: Node) -> None:
    """One where the first of the largest is, else zero."""
    if not build.layout.work:
        raise RefusedNodeError("its input is a scalar")
    steps = Steps(build, node)
    source = steps.input()
    winner = steps.arg_max(source, -1)
    depth = steps.scalar(steps.extent(source, -1))
    on, off = steps.number(1.0), steps.number(0.0)
    inputs = [winner, depth, on, off]
    steps.finish(steps.step("ONE_HOT", inputs, source.shape, source.dtype, axis=-1))


@lowers("LpNormalization", layout=follow)
def lower_lp_normalization(build: Builder, node: Node) -> None:
    """Divided by the sum of magnitudes, or the root of that of squares; zeros stay zeros."""
    power = node.integer("p", 2)
    if power not in {1, 2}:
        raise RefusedNodeError(f"its p is {power}, supported: 1, 2")
    steps = Steps(build, node)
    source = steps.input()
    order = build.layout.work
    axis = order.index(node.integer("axis", -1) % len(order))
    if power == 1:
        norm = steps.sum(steps.abs(source), axis, keep=True)
    else:
        norm = steps.sqrt(steps.sum(steps.square(source), axis, keep=True))
    divisor = steps.select(steps.equal(norm, 0.0), 1.0, norm)
    steps.finish(steps.div(source, divisor))
