"""Pairs of layers between which channels may be scaled: what a model computes stays the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node

# What scales with its input, channel by channel, for every factor above zero.
_SCALES: Final = frozenset(
    {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool",
     "PRelu", "Relu"}
)  # fmt: skip
_MATRIX: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Two layers, and what lies between them.

    Attributes:
        first: The layer whose output channels are scaled.
        second: The layer that reads them, and takes the factors back.
        values: What flows between them, from the first layer's output to the second's input.
        ceiling: The value above which a Clip between them cuts; None where there is no Clip.
        channels: How many there are.
    """

    first: Node
    second: Node
    values: tuple[str, ...]
    ceiling: float | None
    channels: int


def find_chains(graph: Graph) -> tuple[Chain, ...]:
    """Every chain of a graph, in the order of the nodes.

    Weights and biases must be constants that one layer alone reads, and nothing else may read what
    flows between the layers. A Relu6 is a Clip from zero to six.
    """
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.reads():
            readers.setdefault(name, []).append(node)
    found = (_chain(node, graph, readers) for node in graph.nodes)
    return tuple(chain for chain in found if chain is not None)


def _chain(first: Node, graph: Graph, readers: dict[str, list[Node]]) -> Chain | None:
    channels = _channels_out(first, graph, readers)
    if not channels:
        return None
    values = [first.outputs[0]]
    ceiling: float | None = None
    while True:
        name = values[-1]
        following = readers.get(name, [])
        if name in graph.outputs or len(following) != 1:
            return None
        node = following[0]
        if node.input(0) != name or node.inputs.count(name) != 1:
            return None
        if _channels_in(node, graph, readers) == channels:
            return Chain(
                first=first, second=node, values=tuple(values), ceiling=ceiling, channels=channels
            )
        if node.op == "Clip":
            found = _ceiling(node, graph)
            if found is None:
                return None
            ceiling = found if ceiling is None else min(found, ceiling)
        elif not _scales(node, graph):
            return None
        values.append(node.outputs[0])


def _scales(node: Node, graph: Graph) -> bool:
    if node.op == "Flatten":
        # One element a channel, so that channels stay what they are.
        shape = graph.shape(node.input(0))
        return bool(
            shape
            and len(shape) > _MATRIX
            and node.integer("axis", 1) == 1
            and all(size == 1 for size in shape[2:])
        )
    return node.op in _SCALES and not any(node.outputs[1:])


def _ceiling(node: Node, graph: Graph) -> float | None:
    low, high = graph.constants.get(node.input(1)), graph.constants.get(node.input(2))
    if low is None or high is None or low.size != 1 or high.size != 1:
        return None
    return float(high) if float(low) == 0 and float(high) > 0 else None


def _own(name: str, graph: Graph, readers: dict[str, list[Node]]) -> bool:
    array = graph.constants.get(name)
    return (
        array is not None
        and array.dtype == np.float32
        and len(readers.get(name, [])) == 1
        and name not in graph.outputs
    )


def _channels_out(node: Node, graph: Graph, readers: dict[str, list[Node]]) -> int:
    """How many output channels a layer has, 0 where it is none whose channels can be scaled."""
    if node.op not in {"Conv", "Gemm"} or not _own(node.input(1), graph, readers):
        return 0
    weights = graph.constants[node.input(1)]
    count = int(weights.shape[0 if node.op == "Conv" or node.integer("transB", 0) else 1])
    bias = node.input(2)
    if not bias:
        return count
    fits = _own(bias, graph, readers) and graph.constants[bias].shape == (count,)
    return count if fits else 0


def _channels_in(node: Node, graph: Graph, readers: dict[str, list[Node]]) -> int:
    """How many input channels a layer has, 0 where it is none that can take factors back."""
    if not _own(node.input(1), graph, readers):
        return 0
    weights = graph.constants[node.input(1)]
    if node.op == "Conv":
        return int(weights.shape[1]) * node.integer("group", 1)
    if node.op == "Gemm" and not node.integer("transA", 0):
        return int(weights.shape[1 if node.integer("transB", 0) else 0])
    return 0
