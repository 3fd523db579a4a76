"""Fold BatchNormalization into the layer of weights before it, or into one Mul and one Add."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.body_constants import reads_of
from edgekit_converters.onnx_graphs import replace_nodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PARAMETERS = 4


def fold_batch_norms(model: Any) -> None:
    """Rewrite every inference-time BatchNormalization with constant statistics, in place.

    The layer before it takes over the scale and the shift where nothing else reads that layer's
    output; elsewhere the pair Mul, Add does the same work. Shapes must have been inferred.
    """
    graph = model.graph
    constants = _Constants(graph)
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    for node in graph.node:
        # Bodies read more than the node says.
        readers.update(reads_of(node).difference(node.input))
    producers = {name: node for node in graph.node for name in node.output}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    nodes = []
    for node in graph.node:
        affine = _affine(node, constants)
        rank = ranks.get(node.input[0], 0) if affine else 0
        if affine is None or not rank:
            nodes.append(node)
            continue
        before = producers.get(node.input[0])
        alone = readers[node.input[0]] == 1
        if before is not None and alone and _absorb(before, affine, constants, readers):
            before.output[0] = node.output[0]
            producers[node.output[0]] = before
        else:
            nodes += _mul_add(node, affine, rank, constants)
    replace_nodes(graph, nodes)


class _Constants:
    """The float32 initialisers of a graph, read and written by name."""

    def __init__(self, graph: Any) -> None:
        from onnx import TensorProto

        self._graph = graph
        self._tensors = {
            tensor.name: tensor
            for tensor in graph.initializer
            if tensor.data_type == TensorProto.FLOAT
        }

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def read(self, name: str) -> NDArray[np.float64]:
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self._tensors[name]), dtype=np.float64)

    def write(self, name: str, array: NDArray[np.float64]) -> None:
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(array.astype(np.float32), name)
        if name in self._tensors:
            self._tensors[name].CopyFrom(tensor)
        else:
            self._graph.initializer.append(tensor)
            self._tensors[name] = self._graph.initializer[-1]


_Affine = tuple["NDArray[np.float64]", "NDArray[np.float64]"]


def _affine(node: Any, constants: _Constants) -> _Affine | None:
    if node.op_type != "BatchNormalization" or any(node.output[1:]):
        return None
    attributes = {attribute.name: attribute for attribute in node.attribute}
    training = attributes.get("training_mode")
    if (training and training.i) or not all(name in constants for name in node.input[1:]):
        return None
    gamma, beta, mean, variance = (constants.read(name) for name in node.input[1 : 1 + _PARAMETERS])
    epsilon = attributes["epsilon"].f if "epsilon" in attributes else 1e-5
    if not (variance + epsilon > 0).all():
        # Not a number for everyone; the engine says so as well as this function could.
        return None
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def _absorb(before: Any, affine: _Affine, constants: _Constants, readers: Counter[str]) -> bool:
    if before.op_type not in {"Conv", "ConvTranspose", "Gemm"} or before.domain:
        return False
    bias = before.input[2] if len(before.input) > 2 else ""  # noqa: PLR2004 - X, W, B
    if before.input[1] not in constants or (bias and bias not in constants):
        return False
    scale, shift = affine
    weights = constants.read(before.input[1])
    axis = 0
    offset: Any = constants.read(bias) if bias else 0.0
    if before.op_type == "Gemm":
        attributes = {attribute.name: attribute for attribute in before.attribute}
        axis = 0 if "transB" in attributes and attributes["transB"].i else 1
        if "beta" in attributes:
            offset = offset * attributes["beta"].f
            attributes["beta"].f = 1.0
        if np.ndim(offset) > 1 and np.shape(offset)[0] != 1:
            return False
        offset = np.reshape(offset, -1) if np.size(offset) > 1 else np.ravel(offset)
    if before.op_type == "ConvTranspose":
        # Inputs, then the outputs of a group: each group of inputs makes outputs of its own.
        groups = next((a.i for a in before.attribute if a.name == "group"), 1)
        apart = (groups, weights.shape[0] // groups, *weights.shape[1:])
        by_output = scale.reshape(groups, 1, weights.shape[1], *[1] * (weights.ndim - 2))
        scaled = (weights.reshape(apart) * by_output).reshape(weights.shape)
    else:
        wide = [1] * weights.ndim
        wide[axis] = -1
        scaled = weights * scale.reshape(wide)
    weight_name = _own_name(before.input[1], before, "weight", readers)
    bias_name = _own_name(bias, before, "bias", readers) if bias else f"{before.output[0]}/bias"
    constants.write(weight_name, scaled)
    constants.write(bias_name, shift + scale * offset)
    inputs = [before.input[0], weight_name, bias_name]
    del before.input[:]
    before.input.extend(inputs)
    return True


def _own_name(name: str, node: Any, role: str, readers: Counter[str]) -> str:
    # A constant that other nodes read as well must stay as it is.
    return name if readers[name] == 1 else f"{node.output[0]}/{role}"


def _mul_add(node: Any, affine: _Affine, rank: int, constants: _Constants) -> list[Any]:
    from onnx import helper

    scale, shift = (part.reshape([-1] + [1] * (rank - 2)) for part in affine)
    name = node.name or node.output[0]
    scale_name, shift_name, product = (
        f"{node.output[0]}/{role}" for role in ("scale", "shift", "scaled")
    )
    constants.write(scale_name, scale)
    constants.write(shift_name, shift)
    return [
        helper.make_node("Mul", [node.input[0], scale_name], [product], name=f"{name}/scale"),
        helper.make_node("Add", [product, shift_name], [node.output[0]], name=name),
    ]
