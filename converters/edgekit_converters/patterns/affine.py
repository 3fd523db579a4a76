"""Constants behind a layer with constant weights become part of its weights and its bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_graphs import copy_of
from edgekit_converters.patterns.arithmetic import integer_attribute, number_attribute
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.patterns.registry import recognises

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.patterns.graph import PatternGraph

_LAYERS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_MATRIX: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A layer whose weights may be changed, and the sum behind a MatMul that is its bias.

    Attributes:
        node: The layer.
        shift: The Add of a constant behind it, where the operator has no bias of its own.
        channels: How many outputs it has.
        axis: Where the channels are in its output.
    """

    node: Any
    shift: Any | None
    channels: int
    axis: int


@recognises("Mul", late=True)
def scale_weights(graph: PatternGraph, node: Any) -> Rewrite | None:
    """layer(x) * c is a layer with its weights and its bias times c."""
    for position in (0, 1):
        layer = _layer_of(graph, node.input[position])
        factor = None if layer is None else _per_channel(graph, layer, node, 1 - position)
        if layer is not None and factor is not None:
            return _scaled(graph, layer, node, factor)
    return None


@recognises("Add", "Sub", late=True)
def shift_bias(graph: PatternGraph, node: Any) -> Rewrite | None:
    """layer(x) + c is a layer with another bias; c - layer(x) stays."""
    for position in (0, 1) if node.op_type == "Add" else (0,):
        layer = _layer_of(graph, node.input[position])
        if layer is None or layer.shift is not None or layer.node.op_type == "MatMul":
            continue
        term = _per_channel(graph, layer, node, 1 - position)
        bias = bias_of(graph, layer.node, layer.channels)
        if term is None or bias is None:
            continue
        shifted = narrowed(bias - term if node.op_type == "Sub" else bias + term)
        if shifted is None:
            return None
        plain = with_output(layer.node, node.output[0])
        name = graph.fresh(_bias_name(graph, layer.node))
        set_bias(plain, name)
        return Rewrite(
            removes=[layer.node, node],
            adds=[plain],
            constants={name: shifted},
        )
    return None


@recognises("Add", late=True)
def matrix_product_withbias_of(graph: PatternGraph, node: Any) -> Rewrite | None:
    """MatMul of matrices and an Add of a constant row is Gemm."""
    from onnx import TensorProto, helper

    for position in (0, 1):
        name = node.input[position]
        product = graph.producer(name, "MatMul")
        bias = graph.constant(node.input[1 - position])
        if product is None or bias is None or graph.element_type(name) != TensorProto.FLOAT:
            continue
        ranks = [graph.rank(value) for value in (*product.input, node.output[0])]
        if ranks != [_MATRIX] * 3 or not graph.is_constant(product.input[1]):
            continue
        shape = graph.shape(product.input[1]) or ()
        # Numbers and rows: what Gemm broadcasts for certain.
        if (
            bias.ndim > _MATRIX
            or bias.size not in {1, shape[1]}
            or bias.shape[:-1] not in {(), (1,)}
        ):
            continue
        row, constants = node.input[1 - position], {}
        if bias.ndim == _MATRIX:
            row = graph.fresh(f"{row}/row")
            constants[row] = bias.reshape(-1)
        gemm = helper.make_node(
            "Gemm", [*product.input, row], node.output, name=product.name or node.name
        )
        return Rewrite(removes=[product, node], adds=[gemm], constants=constants)
    return None


@recognises("Mul", late=True)
def scale_before_moving(graph: PatternGraph, node: Any) -> Rewrite | None:
    """moved(x) * number is moved(x * number), so that the number meets the layer that made x.

    This is how the factor of attention gets into the weights of its projection. Only done where
    there is such a layer, at most a bias, and what moves elements in between.
    """
    from onnx import helper

    for position in (0, 1):
        number = graph.scalar(node.input[1 - position])
        moves, name = [], node.input[position]
        if number is None or not graph.same_rank(name, node.output[0]):
            continue
        while (mover := graph.producer(name, "Reshape", "Transpose")) and graph.uses(name) == 1:
            moves.append(mover)
            name = mover.input[0]
        if not moves or _layer_of(graph, name) is None:
            continue
        scaled = graph.fresh(f"{name}/scaled")
        array = np.asarray(graph.constant(node.input[1 - position])).reshape(())
        factor = graph.fresh(f"{node.output[0]}/factor")
        adds = [helper.make_node("Mul", [name, factor], [scaled], name=node.name or scaled)]
        for number_of_move, mover in enumerate(reversed(moves), start=1):
            moved = copy_of(mover)
            moved.input[0] = adds[-1].output[0]
            last = number_of_move == len(moves)
            moved.output[0] = node.output[0] if last else graph.fresh(f"{mover.output[0]}/scaled")
            adds.append(moved)
        alike = {scaled: name}
        for before, after in zip(reversed(moves), adds[1:], strict=True):
            alike[after.output[0]] = before.output[0]
        return Rewrite(removes=[*moves, node], adds=adds, constants={factor: array}, alike=alike)
    return None


def _layer_of(graph: PatternGraph, name: str) -> _Layer | None:
    """The layer that computes a value for one reader, with weights that are its own."""
    from onnx import TensorProto

    shift = None
    if graph.uses(name) != 1 or graph.element_type(name) != TensorProto.FLOAT:
        return None
    node = graph.producer(name, *_LAYERS)
    if node is None:
        shift = graph.producer(name, "Add")
        for position in (0, 1) if shift is not None else ():
            inner = shift.input[position]
            if graph.is_constant(shift.input[1 - position]) and graph.uses(inner) == 1:
                node = graph.producer(inner, *_LAYERS)
                name = inner
                break
    if node is None or not graph.is_constant(node.input[1]) or graph.uses(node.input[1]) != 1:
        return None
    shape, rank = graph.shape(node.input[1]) or (), graph.rank(name) or 0
    if not all(isinstance(size, int) for size in shape) or len(shape) < _MATRIX:
        return None
    sizes = [int(size) for size in shape]
    axis = 1 if node.op_type in {"Conv", "ConvTranspose"} else rank - 1
    if node.op_type == "Conv":
        channels = sizes[0]
    elif node.op_type == "ConvTranspose":
        channels = sizes[1] * integer_attribute(node, "group", 1)
    elif node.op_type == "Gemm":
        channels = sizes[0 if integer_attribute(node, "transB", 0) else 1]
    elif len(sizes) == _MATRIX:
        channels = sizes[1]
    else:
        return None
    return _Layer(node=node, shift=shift, channels=channels, axis=axis)


def _per_channel(
    graph: PatternGraph, layer: _Layer, node: Any, position: int
) -> NDArray[Any] | None:
    """A constant input as one number a channel, None if it differs along other axes."""
    value = layer.shift if layer.shift is not None else layer.node
    if not graph.same_rank(value.output[0], node.output[0]):
        return None
    return _row(graph.constant(node.input[position]), layer, graph.rank(value.output[0]) or 0)


def _row(array: NDArray[Any] | None, layer: _Layer, rank: int) -> NDArray[Any] | None:
    if array is None or array.dtype != np.float32 or array.ndim > rank:
        return None
    wide = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if wide.size not in {1, layer.channels} or wide.size != wide.shape[layer.axis]:
        return None
    return np.broadcast_to(wide.reshape(-1), (layer.channels,)).astype(np.float64)


def _scaled(graph: PatternGraph, layer: _Layer, node: Any, factor: NDArray[Any]) -> Rewrite | None:
    weights, bias = graph.constant(layer.node.input[1]), _whole_bias(graph, layer)
    if weights is None or bias is None:
        return None
    scaled, scaled_bias = narrowed(_times(layer.node, weights, factor)), narrowed(bias * factor)
    if scaled is None or scaled_bias is None:
        return None
    name = graph.fresh(f"{layer.node.input[1]}/scaled")
    constants = {name: scaled}
    has_bias = layer.shift is not None or len(layer.node.input) > 2  # noqa: PLR2004
    as_sum = layer.shift is not None and layer.node.op_type == "MatMul"
    product = graph.fresh(f"{node.output[0]}/product") if as_sum else node.output[0]
    plain = with_output(layer.node, product)
    plain.input[1] = name
    removes, adds, alike = [layer.node, node], [plain], {}
    if layer.shift is not None:
        removes.append(layer.shift)
    if has_bias:
        bias_name = graph.fresh(f"{node.output[0]}/bias")
        constants[bias_name] = scaled_bias
        if as_sum and layer.shift is not None:
            from onnx import helper

            alike[product] = node.output[0]
            adds.append(
                helper.make_node(
                    "Add", [product, bias_name], node.output, name=layer.shift.name or node.name
                )
            )
        else:
            set_bias(plain, bias_name)
    return Rewrite(removes=removes, adds=adds, constants=constants, alike=alike)


def _whole_bias(graph: PatternGraph, layer: _Layer) -> NDArray[Any] | None:
    """What a layer and the sum behind it add, as one number a channel, None if it is not that."""
    bias = bias_of(graph, layer.node, layer.channels)
    if bias is None or layer.shift is None:
        return bias
    position = 1 if graph.is_constant(layer.shift.input[1]) else 0
    addend = graph.constant(layer.shift.input[position])
    row = _row(addend, layer, graph.rank(layer.shift.output[0]) or 0)
    return None if row is None else bias + row


def _times(node: Any, weights: NDArray[Any], factor: NDArray[Any]) -> NDArray[Any]:
    """Weights with each output channel's multiplied by its factor, in float64."""
    wide = weights.astype(np.float64)
    if node.op_type == "Conv":
        return np.asarray(wide * factor.reshape(-1, *(1,) * (wide.ndim - 1)))
    if node.op_type == "ConvTranspose":
        groups = integer_attribute(node, "group", 1)
        split = wide.reshape(groups, wide.shape[0] // groups, *wide.shape[1:])
        by_group = factor.reshape(groups, 1, wide.shape[1], *(1,) * (wide.ndim - 2))
        return np.asarray(split * by_group).reshape(wide.shape)
    if node.op_type == "Gemm" and integer_attribute(node, "transB", 0):
        factor = factor[:, None]
    return np.asarray(wide * factor)


def bias_of(graph: PatternGraph, node: Any, channels: int) -> NDArray[Any] | None:
    """A layer's bias as one number a channel, in float64, None if it is anything else."""
    name = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004
    if not name:
        return np.zeros(channels)
    array = graph.constant(name)
    # A column of Gemm has a number a row, which is no bias of a channel.
    if array is None or (array.size != 1 and (array.size, array.shape[-1]) != (channels,) * 2):
        return None
    flat = np.broadcast_to(array.reshape(-1), (channels,)).astype(np.float64)
    return flat * (number_attribute(node, "beta", 1.0) if node.op_type == "Gemm" else 1.0)


def _bias_name(graph: PatternGraph, node: Any) -> str:
    name = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004
    return f"{name}/shifted" if name and graph.is_constant(name) else f"{node.output[0]}/bias"


def narrowed(array: NDArray[Any]) -> NDArray[np.float32] | None:
    """Numbers in float32, None where one of them is none there."""
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    return narrow if np.isfinite(narrow).all() else None


def with_output(node: Any, output: str) -> Any:
    """A node like another, with another output."""
    copy = copy_of(node)
    copy.output[0] = output
    return copy


def set_bias(node: Any, name: str) -> None:
    """Give a layer another bias, which counts once."""
    while len(node.input) < 3:  # noqa: PLR2004
        node.input.append("")
    node.input[2] = name
    for attribute in node.attribute:
        if attribute.name == "beta":
            attribute.f = 1.0
