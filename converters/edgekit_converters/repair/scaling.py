"""Scale the channels between two layers, and take the factors back in the second one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.repair.chains import Chain


class ScaledWeights:
    """The weights and biases of a graph, some of them scaled."""

    def __init__(self, graph: Graph) -> None:
        self._constants = graph.constants
        self._changed: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A constant as it is by now."""
        changed = self._changed.get(name)
        return self._constants[name] if changed is None else changed

    @property
    def changed(self) -> bool:
        """Whether anything was scaled."""
        return bool(self._changed)

    def scale(self, chain: Chain, factors: NDArray[np.float64]) -> None:
        """Multiply the channels of what flows through a chain.

        Args:
            chain: Of this graph.
            factors: One a channel, all above zero.
        """
        second = chain.second.input(1)
        self._changed[second] = _take_back(chain.second, self[second], factors)
        for name in filter(None, chain.first.inputs[1:3]):
            self._changed[name] = _scaled(chain.first, self[name], factors)

    def apply(self, model: Any) -> Any:
        """A copy of the graph's `onnx.ModelProto` with what was changed."""
        return with_constants(model, self._changed)


def with_constants(model: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """A copy of an `onnx.ModelProto` in which some initializers have other values."""
    from onnx import numpy_helper

    changed = type(model)()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in arrays:
            array = arrays[tensor.name].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return changed


def _scaled(node: Node, array: NDArray[Any], factors: NDArray[np.float64]) -> NDArray[Any]:
    if array.ndim == 1:
        return np.asarray(array * factors)
    axis = 0 if node.op == "Conv" or node.integer("transB", 0) else 1
    shape = [-1 if at == axis else 1 for at in range(array.ndim)]
    return np.asarray(array * factors.reshape(shape))


def _take_back(node: Node, weights: NDArray[Any], factors: NDArray[np.float64]) -> NDArray[Any]:
    if node.op == "Gemm":
        by = factors if node.integer("transB", 0) else factors[:, None]
        return np.asarray(weights / by)
    groups = node.integer("group", 1)
    grouped = weights.reshape(groups, weights.shape[0] // groups, *weights.shape[1:])
    by = factors.reshape(groups, 1, weights.shape[1], *[1] * (weights.ndim - 2))
    return np.asarray((grouped / by).reshape(weights.shape))
