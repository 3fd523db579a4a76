"""Running sums and products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import NodeLayout, Permutation, as_onnx, follow
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import NUMBERS

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.litert.program import Tensor

_WIDEST: Final = "uint64"


def _along(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:
    """An axis that is computed is one of ONNX's order."""
    rule = follow if node.input(1) in graph.constants else as_onnx
    return rule(node, graph, stored)


@lowers("CumSum", layout=_along, dtypes={"T": NUMBERS | {_WIDEST}})
def lower_cumsum(build: Builder, node: Node) -> None:
    """CUMSUM."""
    steps = Steps(build, node)
    dtype = build.graph.dtype(node.input(0))
    # Sums that wrap around are the same bits, signed or not.
    tensor = steps.bits(steps.input(), "int64") if dtype == _WIDEST else steps.input()
    known = build.known(node, 1)
    if known is None:
        axis = steps.reshape(build.operand(node, 1), ())
    else:
        at = int(known.reshape(-1)[0]) % len(tensor.shape)
        axis = steps.integers(build.layout.work.index(at), "axis")
    total = steps.step(
        "CUMSUM", [tensor, axis], tensor.shape, tensor.dtype,
        exclusive=bool(node.integer("exclusive", 0)), reverse=bool(node.integer("reverse", 0)),
    )  # fmt: skip
    steps.finish(steps.bits(total, dtype) if dtype == _WIDEST else total)


@lowers("CumProd", layout=_along, dtypes={"T": NUMBERS})
def lower_cumprod(build: Builder, node: Node) -> None:
    """Running products, of which LiteRT has none."""
    steps = Steps(build, node)
    tensor = steps.input()
    rank = len(tensor.shape)
    known = build.known(node, 1)
    if known is not None:
        axis = build.layout.work.index(int(known.reshape(-1)[0]) % rank)
        result = _products(steps, tensor, axis)
    else:
        chosen = steps.from_the_front(steps.reshape(build.operand(node, 1), ()), rank)
        result = _products(steps, tensor, 0)
        for axis in range(1, rank):
            other = _products(steps, tensor, axis)
            result = steps.select(steps.equal(chosen, axis), other, result)
    if result is tensor:
        build.alias(node, result)
    else:
        steps.finish(result)


def _products(steps: Steps, tensor: Tensor, axis: int) -> Tensor:
    """Each step multiplies by what is twice as far away: as many steps as the length has bits."""
    backwards = bool(steps.node.integer("reverse", 0))
    size = tensor.shape[axis]
    if size is None:
        raise RefusedNodeError("the size of its axis is free")
    if steps.node.integer("exclusive", 0):
        tensor = _shifted(steps, tensor, axis, 1, backwards=backwards)
    distance = 1
    while distance < size:
        shifted = _shifted(steps, tensor, axis, distance, backwards=backwards)
        tensor = steps.mul(tensor, shifted)
        distance *= 2
    return tensor


def _shifted(steps: Steps, tensor: Tensor, axis: int, distance: int, *, backwards: bool) -> Tensor:
    """Moved along an axis, with ones where nothing comes from."""
    size = tensor.shape[axis] or 0
    start = distance if backwards else 0
    kept = steps.slice_axis(tensor, axis, start, max(size - distance, 0))
    pads = [(0, 0)] * len(tensor.shape)
    pads[axis] = (0, min(distance, size)) if backwards else (min(distance, size), 0)
    fill = steps.constant(np.ones(1, dtype=tensor.dtype), "one")
    sizes = steps.integers([list(pair) for pair in pads], "paddings")
    return steps.move("PADV2", [kept, sizes, fill], tensor.shape, moved=(0, 2))
