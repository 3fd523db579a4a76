"""What turns scores along an axis into shares, one winner, or a vector of length one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.litert.layout import NodeLayout, Permutation, follow, identity
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.litert.program import Tensor

# XNNPACK claims a node with more axes than this, and then fails on it.
_MAX_RANK: Final = 6


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
    source = build.input(node)
    code = "SOFTMAX" if node.op == "Softmax" else "LOG_SOFTMAX"
    options: dict[str, Any] = {"beta": 1.0} if code == "SOFTMAX" else {}
    if len(source.shape) <= _MAX_RANK:
        build.emit(code, [source], node, **options)
        return
    steps = Steps(build, node)
    flat = _collapsed(steps, source, -1)
    shares = steps.step(code, [flat], flat.shape, flat.dtype, **options)
    steps.finish(steps.reshape(shares, source.shape))


@lowers("Hardmax", layout=follow)
def lower_hardmax(build: Builder, node: Node) -> None:
    """One where the first of the largest is, else zero."""
    order = build.layout.work
    if not order:
        raise RefusedNodeError("its input is a scalar")
    steps = Steps(build, node)
    source = steps.input()
    axis = order.index(node.integer("axis", -1) % len(order))
    winner = steps.arg_max(source, axis)
    depth = steps.scalar(steps.extent(source, axis))
    inputs = [winner, depth, steps.number(1.0), steps.number(0.0)]
    steps.finish(steps.step("ONE_HOT", inputs, source.shape, source.dtype, axis=axis))


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
    values = source
    if len(order) > _MAX_RANK:
        values, axis = _collapsed(steps, source, axis), 1
    if power == 1:
        norm = steps.sum(steps.abs(values), axis, keep=True)
    else:
        norm = steps.sqrt(steps.sum(steps.square(values), axis, keep=True))
    divisor = steps.select(steps.equal(norm, 0.0), 1.0, norm)
    steps.finish(steps.reshape(steps.div(values, divisor), source.shape))


def _collapsed(steps: Steps, tensor: Tensor, axis: int) -> Tensor:
    """All axes in front of one as one, and all behind it; XNNPACK fails on more than six."""
    at = axis % len(tensor.shape)
    outer, inner = tensor.shape[:at], tensor.shape[at + 1 :]
    sizes = [None if None in part else math.prod(s or 0 for s in part) for part in (outer, inner)]
    shape = (sizes[0], tensor.shape[at]) if not inner else (sizes[0], tensor.shape[at], sizes[1])
    return steps.reshape(tensor, shape)
