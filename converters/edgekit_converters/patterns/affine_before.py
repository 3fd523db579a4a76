"""Constants in front of a layer with constant weights become part of its weights and its bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.patterns.affine import bias_of, narrowed, set_bias, with_output
from edgekit_converters.patterns.arithmetic import (
    integer_attribute,
    integers_attribute,
    text_attribute,
)
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.patterns.registry import recognises

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.patterns.graph import PatternGraph

_CONVOLUTIONS: Final = ("Conv", "ConvTranspose")
_MATRIX: Final = 2


@recognises("Conv", "ConvTranspose", "Gemm", "MatMul", late=True)
def scale_next_weights(graph: PatternGraph, node: Any) -> Rewrite | None:
    """layer(x * c) is a layer whose weights are times c, channel by channel of its input."""
    product = graph.producer(node.input[0], "Mul")
    weights = _own_weights(graph, node)
    if product is None or weights is None:
        return None
    found = _per_input_channel(graph, node, product, weights)
    if found is None:
        return None
    source, factor = found
    scaled = narrowed(weights.astype(np.float64) * _aligned(node, weights, factor))
    if scaled is None:
        return None
    name = graph.fresh(f"{node.input[1]}/scaled")
    plain = with_output(node, node.output[0])
    plain.input[0], plain.input[1] = source, name
    return Rewrite(removes=[product, node], adds=[plain], constants={name: scaled})


@recognises("Conv", "Gemm", late=True)
def shift_next_bias(graph: PatternGraph, node: Any) -> Rewrite | None:
    """layer(x + c) is a layer with another bias, unless zeros that are padded come in between."""
    total = graph.producer(node.input[0], "Add", "Sub")
    weights = _own_weights(graph, node)
    if total is None or weights is None:
        return None
    if node.op_type == "Conv" and (
        any(integers_attribute(node, "pads") or ())
        or text_attribute(node, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
    ):
        return None
    found = _per_input_channel(graph, node, total, weights)
    if found is None:
        return None
    source, term = found
    if total.op_type == "Sub":
        term = -term
    product = weights.astype(np.float64) * _aligned(node, weights, term)
    outputs = 0 if node.op_type == "Conv" or integer_attribute(node, "transB", 0) else 1
    shift = product.sum(axis=tuple(axis for axis in range(product.ndim) if axis != outputs))
    if node.op_type == "Gemm":
        shift = shift * next((a.f for a in node.attribute if a.name == "alpha"), 1.0)
    bias = bias_of(graph, node, shift.size)
    shifted = None if bias is None else narrowed(bias + shift)
    if shifted is None:
        return None
    name = graph.fresh(f"{node.output[0]}/bias")
    plain = with_output(node, node.output[0])
    plain.input[0] = source
    set_bias(plain, name)
    return Rewrite(removes=[total, node], adds=[plain], constants={name: shifted})


def _own_weights(graph: PatternGraph, node: Any) -> NDArray[Any] | None:
    """A layer's weights, None where others read them too, or where they are no float32 matrix."""
    weights = graph.constant(node.input[1])
    if weights is None or weights.dtype != np.float32 or weights.ndim < _MATRIX:
        return None
    if graph.uses(node.input[1]) != 1 or graph.uses(node.input[0]) != 1:
        return None
    if node.op_type == "MatMul" and weights.ndim != _MATRIX:
        return None
    return None if integer_attribute(node, "transA", 0) else weights


def _per_input_channel(
    graph: PatternGraph, layer: Any, node: Any, weights: NDArray[Any]
) -> tuple[str, NDArray[Any]] | None:
    """What a node joins a constant to, and that constant as one number a channel."""
    rank = graph.rank(layer.input[0])
    if rank is None:
        return None
    axis = 1 if layer.op_type in _CONVOLUTIONS else rank - 1
    channels = _input_channels(layer, weights)
    for position in (1, 0) if node.op_type != "Sub" else (1,):
        array, source = graph.constant(node.input[position]), node.input[1 - position]
        if array is None or array.dtype != np.float32 or array.ndim > rank:
            continue
        wide = array.reshape((1,) * (rank - array.ndim) + array.shape)
        if wide.size != wide.shape[axis] or wide.size not in {1, channels}:
            continue
        if graph.rank(source) == rank and not graph.is_constant(source):
            # A channel of one that the constant widens is not the layer's channel any more.
            size = (graph.shape(source) or ())[axis]
            if size == channels:
                return source, np.broadcast_to(wide.reshape(-1), (channels,)).astype(np.float64)
    return None


def _input_channels(layer: Any, weights: NDArray[Any]) -> int:
    if layer.op_type == "Conv":
        return int(weights.shape[1]) * integer_attribute(layer, "group", 1)
    transposed = layer.op_type == "Gemm" and integer_attribute(layer, "transB", 0)
    return int(weights.shape[1 if transposed else 0])


def _aligned(layer: Any, weights: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """One value an input channel, in a shape that meets the weights that read that channel."""
    if layer.op_type == "Conv":
        groups = integer_attribute(layer, "group", 1)
        rows = values.reshape(groups, -1).repeat(weights.shape[0] // groups, axis=0)
        return rows.reshape(*rows.shape, *(1,) * (weights.ndim - _MATRIX))
    if layer.op_type == "Gemm" and integer_attribute(layer, "transB", 0):
        return values
    return values.reshape(-1, *(1,) * (weights.ndim - 1))
