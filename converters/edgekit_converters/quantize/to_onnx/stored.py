"""Weights that are stored as integers and computed with as floats."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.body_constants import reads_of
from edgekit_converters.graph import read_graph
from edgekit_converters.onnx_graphs import bodies_of, replace_nodes
from edgekit_converters.quantize.affine import WEIGHTS_INT8, weight_affine, weight_scales
from edgekit_converters.quantize.to_onnx.changes import Changes
from edgekit_converters.quantize.to_onnx.constants import Constants
from edgekit_converters.quantize.to_onnx.products import split_gemms
from edgekit_converters.quantize.to_onnx.roles import table_of, weights_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.quantize.plan import QuantizationPlan

# What the scales, the names and the node take in the file.
_PER_CHANNEL_BYTES: Final = 5
_PER_CONSTANT_BYTES: Final = 250
_SAVED_BYTES: Final = 3
BLOCK: Final = 32
_MATRIX: Final = 2


def quantize_weights(model: Any, plan: QuantizationPlan) -> Changes:
    """Store the weights of a model as integers, in place; it goes on computing in float.

    Args:
        model: A normalised `onnx.ModelProto`; its opset has the integers that are asked for.
        plan: Of a scheme for weights alone.
    """
    constants = Constants(model)
    split_gemms(model, constants, keep=plan.keep_float)
    graph = read_graph(model)
    written: list[Any] = []
    for node, proto in zip(graph.nodes, list(model.graph.node), strict=True):
        written += store_weights(
            node, proto, graph, constants, keep=plan.keep_float, bits=plan.scheme.weight_bits
        )
    del model.graph.node[:]
    model.graph.node.extend([*constants.nodes, *written])
    constants.drop_unread()
    return Changes(computing=0, stored=constants.stored_count, short=constants.short_count)


def store_weights(
    node: Node,
    proto: Any,
    graph: Graph,
    constants: Constants,
    *,
    keep: Collection[str],
    bits: int = 8,
) -> list[Any]:
    """Let a node read its weights from integers, where that saves something.

    So do the nodes in its bodies. What makes floats of their integers stands outside of them, to
    be done once a run, unless the node is an If: of its branches one alone is run.

    Args:
        node: Of the graph.
        proto: The same node; it is changed in place.
        graph: Where the node stands; its constants are those of the graphs around it too.
        constants: Takes the integers.
        keep: The names of the nodes whose weights stay float.
        bits: 8, or 4 for the factors of matrix products.

    Returns:
        The nodes that do what this one did.
    """
    if node.name in keep:
        return [proto]
    _store_in_bodies(node, proto, graph, constants, keep=keep, bits=bits)
    if table_of(node, graph):
        return _pick_integers(node, proto, constants)
    nodes = [proto]
    for weight in weights_of(node, graph):
        array = graph.constants[weight.name]
        rows = _rows_axis(node, array) if weight.position == 1 else None
        if bits == 4 and rows is not None and _saves(array, array.size // BLOCK):  # noqa: PLR2004
            proto.input[1] = constants.nibbles(weight.name, rows, BLOCK)
            continue
        channels = 1 if weight.axis is None else array.shape[weight.axis]
        if _saves(array, channels):
            scales = weight_scales(array, weight.axis, WEIGHTS_INT8)
            affine = weight_affine(scales, WEIGHTS_INT8)
            proto.input[weight.position] = constants.dequantized(weight.name, affine, weight.axis)
    return nodes


def _store_in_bodies(
    node: Node,
    proto: Any,
    graph: Graph,
    constants: Constants,
    *,
    keep: Collection[str],
    bits: int,
) -> None:
    inner_graphs = [body for body in node.attributes.values() if hasattr(body, "nodes")]
    for inner, body in zip(inner_graphs, bodies_of(proto), strict=True):
        scope = dataclasses.replace(inner, constants={**graph.constants, **inner.constants})
        view = constants.inside(inner.constants, body if node.op == "If" else None)
        written: list[Any] = []
        for child, child_proto in zip(inner.nodes, list(body.node), strict=True):
            written += store_weights(child, child_proto, scope, view, keep=keep, bits=bits)
        replace_nodes(body, [*view.nodes, *written] if node.op == "If" else written)
        _drop_unread(body)


def _pick_integers(node: Node, proto: Any, constants: Constants) -> list[Any]:
    """Pick the rows of a table as integers, and make floats of those that were picked."""
    from onnx import helper

    table = constants.array(node.input(0))
    if not _saves(table, table.shape[-1]):
        return [proto]
    axis = table.ndim - 1
    scales = weight_scales(table, axis, WEIGHTS_INT8)
    affine = weight_affine(scales, WEIGHTS_INT8)
    stored, scale, zero = constants.stored(node.input(0), affine, axis)
    picked = constants.name("quantized")
    output = proto.output[0]
    proto.input[0], proto.output[0] = stored, picked
    # The last axis is where it was, but indices may have more or fewer axes than one.
    reader = helper.make_node("DequantizeLinear", [picked, scale, zero], [output], axis=-1)
    return [proto, reader]


def _rows_axis(node: Node, array: NDArray[Any]) -> int | None:
    """The axis along which a matrix product sums, of its second factor."""
    if array.ndim != _MATRIX or node.op not in {"MatMul", "Gemm"}:
        return None
    return node.integer("transB", 0) if node.op == "Gemm" else 0


def _saves(array: NDArray[Any], channels: int) -> bool:
    return _SAVED_BYTES * array.size > _PER_CHANNEL_BYTES * channels + _PER_CONSTANT_BYTES


def _drop_unread(graph: Any) -> None:
    read = {name for node in graph.node for name in reads_of(node)}
    read.update(value.name for value in graph.output)
    for at in reversed(range(len(graph.initializer))):
        if graph.initializer[at].name not in read:
            del graph.initializer[at]
