"""Cross-layer equalization: scale channels so that one range fits them all.

As in M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction"
(2019), with the activations in place of the first layer's weights: these have a scale for each
channel in both formats, and only the activations between two layers share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.graph import read_graph
from edgekit_converters.repair.chains import find_chains
from edgekit_converters.repair.scaling import ScaledWeights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Node
    from edgekit_converters.ranges import RangeStatistics
    from edgekit_converters.repair.chains import Chain

# Further apart, the smaller channels are noise or dead.
_LARGEST_FACTOR: Final = 4096.0
# How much of the balance goes to the activations, against the second layer's weights.
_STRENGTHS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
# Of what the model's own Clip leaves, so that values beyond those that were seen keep some room.
_ROOM: Final = 0.9
_ACTIVATION_STEPS: Final = 255.0
_WEIGHT_STEPS: Final = 254.0
# A channel's mean square, by the square of its extreme.
_MEAN_SQUARE: Final = 1 / 9
_LEAST_CHANGE: Final = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Equalized:
    """A model whose channels were scaled.

    Attributes:
        model: A new `onnx.ModelProto`; without Clips it computes what the old one does, with them
            too for values like those that were seen.
        layers: Names of the first layers of the chains that were changed.
    """

    model: Any
    layers: tuple[str, ...]


def equalize(model: Any, statistics: Mapping[str, RangeStatistics]) -> Equalized:
    """Scale the channels between layers where that makes quantization finer.

    The factors are those, of several strengths, for which the noise that 8 bits bring into the
    second layer's output is least. Factors go through a Relu6 where they leave the channel under
    six: it then cuts only what was never seen, and the engines can still fuse it.

    Args:
        model: A normalised `onnx.ModelProto`, its shapes inferred; it is not changed.
        statistics: Of its values, per channel.
    """
    graph = read_graph(model)
    weights = ScaledWeights(graph)
    layers = []
    for chain in find_chains(graph):
        magnitudes = _magnitudes(chain, statistics)
        if magnitudes is None:
            continue
        factors = _factors(chain, magnitudes, weights[chain.second.input(1)], statistics)
        if max(factors.max(), 1 / factors.min()) < _LEAST_CHANGE:
            continue
        weights.scale(chain, factors)
        layers.append(chain.first.name)
    return Equalized(model=weights.apply(model), layers=tuple(layers))


def _magnitudes(
    chain: Chain, statistics: Mapping[str, RangeStatistics]
) -> NDArray[np.float64] | None:
    """The largest magnitude of each channel, of what the second layer reads."""
    found = statistics.get(chain.values[-1])
    if found is None or not found.finite or len(found.channel_low) != chain.channels:
        return None
    return np.maximum(np.abs(found.channel_low), np.abs(found.channel_high)).astype(np.float64)


def _factors(
    chain: Chain,
    magnitudes: NDArray[np.float64],
    weights: NDArray[Any],
    statistics: Mapping[str, RangeStatistics],
) -> NDArray[np.float64]:
    rows = _by_input(chain.second, weights)
    columns = _column_magnitudes(chain.second, rows, chain.channels)
    read = columns > 0
    largest = magnitudes[read].max(initial=0.0)
    used = read & (magnitudes > largest / _LARGEST_FACTOR)
    best, least = np.ones(chain.channels), np.inf
    if not used.any():
        return best
    # What nothing reads must not widen the range of what is read.
    idle = np.minimum(1.0, largest / np.maximum(magnitudes, largest))
    highest = _highest(chain, magnitudes, statistics)
    for strength in _STRENGTHS:
        tried = np.ones(chain.channels)
        tried[used] = columns[used] ** (1 - strength) / magnitudes[used] ** strength
        if strength == _STRENGTHS[0]:
            tried[:] = 1.0
        # The largest channel of the activations keeps its range: only the others grow to it.
        tried[used] *= largest / (magnitudes * tried)[used].max()
        tried = np.clip(tried, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
        tried[~used] = np.where(read, 1.0, idle)[~used]
        if highest is not None:
            tried = np.clip(tried, 1.0, highest)
        noise = _noise(chain.second, rows, magnitudes, tried)
        if noise < least * (1 - 1e-6):
            best, least = tried, noise
    return best


def _highest(
    chain: Chain, magnitudes: NDArray[np.float64], statistics: Mapping[str, RangeStatistics]
) -> NDArray[np.float64] | None:
    """Up to what each channel may be scaled in front of a Clip; None where there is none."""
    if chain.ceiling is None:
        return None
    before = statistics.get(chain.values[0])
    known = before is not None and len(before.channel_high) == chain.channels
    largest = before.channel_high if before is not None and known else magnitudes
    room = chain.ceiling * _ROOM / np.maximum(largest, chain.ceiling / _LARGEST_FACTOR)
    # A channel that reaches the Clip would be cut elsewhere.
    return np.asarray(np.maximum(room, 1.0), np.float64)


def _by_input(node: Node, weights: NDArray[Any]) -> NDArray[np.float64]:
    """The largest weight between each output and each input of its group."""
    if node.op == "Gemm":
        matrix = weights if node.integer("transB", 0) else weights.T
        return np.asarray(np.abs(matrix), np.float64)
    flat = np.abs(weights).reshape(*weights.shape[:2], -1)
    return np.asarray(flat.max(axis=2), np.float64)


def _group_count(node: Node) -> int:
    return node.integer("group", 1) if node.op == "Conv" else 1


def _grouped(node: Node, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Groups, outputs of the group, inputs of the group."""
    groups = _group_count(node)
    return rows.reshape(groups, rows.shape[0] // groups, rows.shape[1])


def _column_magnitudes(node: Node, rows: NDArray[np.float64], channels: int) -> NDArray[np.float64]:
    """How much each input channel weighs beside the others that share a scale with it."""
    grouped = _grouped(node, rows)
    largest = grouped.max(axis=2, keepdims=True)
    share = grouped / np.where(largest > 0, largest, 1.0)
    return np.asarray(share.max(axis=1).reshape(channels))


def _noise(
    node: Node,
    rows: NDArray[np.float64],
    magnitudes: NDArray[np.float64],
    factors: NDArray[np.float64],
) -> float:
    """The power of the noise in the second layer's outputs, beside that of their signals."""
    groups = _group_count(node)
    grouped = _grouped(node, rows)
    scaled = (magnitudes * factors).reshape(groups, 1, -1)
    divided = grouped / factors.reshape(groups, 1, -1)
    step = scaled.max() / _ACTIVATION_STEPS
    weight_step = 2 * divided.max(axis=2) / _WEIGHT_STEPS
    from_activations = np.square(divided).sum(axis=2) * step**2
    from_weights = np.square(weight_step) * np.square(scaled).sum(axis=2) * _MEAN_SQUARE
    signal = np.square(divided * scaled).sum(axis=2) * _MEAN_SQUARE
    shown = signal > 0
    return float(((from_activations + from_weights)[shown] / signal[shown]).mean())
