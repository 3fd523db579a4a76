"""Scale a float model's channels as those of its quantized form are, so that values compare.

Equalization changes what flows between layers, and nothing of what comes out. Where it was done, a
quantized model's values are those of the float model times a factor for each channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.graph import read_graph
from edgekit_converters.quantize.to_onnx.roles import weights_of
from edgekit_converters.repair.chains import find_chains
from edgekit_converters.repair.scaling import ScaledWeights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.repair.chains import Chain

# Rounding alone moves no channel that far; a channel that it does, no longer looks the same.
_LEAST_FACTOR: Final = 1.04
_LIKENESS: Final = 0.95
# Coarse as integers may be, the largest weights stay the largest.
_RESEMBLANCE: Final = 0.7


def aligned(model: Any, quantized: Any) -> Any:
    """A float model whose channels are scaled as another's.

    Args:
        model: The float `onnx.ModelProto`; it is not changed.
        quantized: The same graph with the weights that were quantized.

    Returns:
        The model itself where nothing is scaled, or a new one.
    """
    graph, other = read_graph(model), read_graph(quantized)
    weights = ScaledWeights(graph)
    for chain in find_chains(graph):
        name = chain.first.input(1)
        found = other.constants.get(name)
        if found is None or found.shape != graph.constants[name].shape:
            continue
        factors = _factors(chain, weights[name], found)
        if max(factors.max(), 1 / factors.min()) > _LEAST_FACTOR:
            weights.scale(chain, factors)
    return weights.apply(model) if weights.changed else model


def unlike(reference: Any, quantized: Any) -> frozenset[str]:
    """The layers whose weights are not those of the float model, not even nearly.

    A quantizer may have moved a factor into them that nothing shows: then what such a layer reads
    is not what the float model gives it, and its own noise cannot be told.

    Args:
        reference: The float `onnx.ModelProto`, aligned.
        quantized: The same graph with the weights that were quantized.
    """
    graph, other = read_graph(reference), read_graph(quantized)
    found = set()
    for node in graph.nodes:
        for weight in weights_of(node, graph):
            first = graph.constants[weight.name].astype(np.float64).reshape(-1)
            second = other.constants[weight.name].astype(np.float64).reshape(-1)
            power = float(np.linalg.norm(first) * np.linalg.norm(second))
            if float(first @ second) < _RESEMBLANCE * power:
                found.add(node.name)
    return frozenset(found)


def _factors(chain: Chain, before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    """By how much each output channel was scaled; one where the two have too little in common."""
    axis = 0 if chain.first.op == "Conv" or chain.first.integer("transB", 0) else 1
    first, second = (
        np.moveaxis(array, axis, 0).reshape(chain.channels, -1).astype(np.float64)
        for array in (before, after)
    )
    both, own, others = (first * second).sum(1), np.square(first).sum(1), np.square(second).sum(1)
    power = np.sqrt(own * others)
    alike = both > _LIKENESS * np.where(power > 0, power, np.inf)
    return np.where(alike, both / np.where(own > 0, own, 1.0), 1.0)
