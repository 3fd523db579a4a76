"""How much an error in each channel of a value matters: what the next layer's weights make of it.

Where one channel's weights are a hundred times another's, so is what rounding does to the outputs
there. Clipping the few large values of a channel that hardly counts is then cheap, although it
takes most of the squared error; plain squared errors would keep its range and round all the others
coarsely.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.ranges.probe import WatchedValue

Importances = Mapping[str, "NDArray[np.float64]"]

# An error goes through, about as large as it comes.
_PASSES: Final = frozenset({
    "Add", "AveragePool", "Clip", "Elu", "Flatten", "Gelu", "GlobalAveragePool", "HardSwish",
    "Identity", "LeakyRelu", "MaxPool", "Relu", "Reshape", "Sub",
})  # fmt: skip
_MATRIX: Final = 2


def channel_importances(graph: Graph, values: Iterable[WatchedValue]) -> Importances:
    """The energy of the weights that each channel meets in the layers that read it, mean 1.

    Values are left out that have no channels, or of which some reader is not known.

    Args:
        graph: A float graph, its shapes inferred.
        values: Whose importances are asked for, in the order of the graph.
    """
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.reads():
            readers.setdefault(name, []).append(node)
    found: dict[str, NDArray[np.float64]] = {}
    for value in reversed(list(values)):
        shape = graph.shape(value.name)
        if value.channel_axis is None or shape is None or value.name in graph.outputs:
            continue
        channels = shape[value.channel_axis] or 0
        parts = [
            _through(node, value, channels, graph, found) for node in readers.get(value.name, ())
        ]
        known = [part for part in parts if part is not None]
        total = sum(known, np.zeros(channels))
        if parts and len(known) == len(parts) and total.any():
            found[value.name] = total
    return {name: total / total.mean() for name, total in found.items()}


def _through(
    node: Node, value: WatchedValue, channels: int, graph: Graph, found: Importances
) -> NDArray[np.float64] | None:
    """What a reader makes of an error in each channel; None where that is not known."""
    if node.op in _PASSES:
        return _unchanged(value, channels, found.get(node.outputs[0]))
    weights = graph.constants.get(node.input(1))
    if weights is None or node.input(0) != value.name:
        return None
    energies = np.square(weights.astype(np.float64))
    if node.op == "Conv" and value.channel_axis == 1:
        groups = node.integer("group", 1)
        grouped = energies.reshape(groups, len(energies) // groups, energies.shape[1], -1)
        return np.asarray(grouped.sum(axis=(1, 3)).reshape(channels), np.float64)
    last = value.channel_axis == (value.rank or 0) - 1
    if node.op in {"Gemm", "MatMul"} and energies.ndim == _MATRIX and last:
        turned = node.op == "Gemm" and node.integer("transB", 0)
        return np.asarray(energies.sum(axis=0 if turned else 1), np.float64)
    return None


def _unchanged(
    value: WatchedValue, channels: int, behind: NDArray[np.float64] | None
) -> NDArray[np.float64] | None:
    """What matters behind a node that only passes errors on."""
    if behind is None or behind.size % channels:
        return None
    # Flattened, a channel has as many places as there were positions.
    if value.channel_axis == 1:
        return np.asarray(behind.reshape(channels, -1).mean(axis=1), np.float64)
    return np.asarray(behind.reshape(-1, channels).mean(axis=0), np.float64)
