"""Matrix products whose left factor is quantized as it comes, each run with a range of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.graph import read_graph
from edgekit_converters.quantize.affine import WEIGHTS_INT8, weight_affine
from edgekit_converters.quantize.to_onnx.changes import Changes
from edgekit_converters.quantize.to_onnx.constants import Constants
from edgekit_converters.quantize.to_onnx.products import (
    product_scales,
    split_gemms,
)
from edgekit_converters.quantize.to_onnx.stored import store_weights

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.quantize.plan import QuantizationPlan

_MATRIX: Final = 2


def quantize_dynamic(model: Any, plan: QuantizationPlan) -> Changes:
    """Compute products with constant matrices in integers, in place; store other weights in 8 bits.

    Convolutions go on computing in float: their dynamic form is many times slower.

    Args:
        model: A normalised `onnx.ModelProto`.
        plan: Names the nodes that stay float, and says whether engines may saturate.
    """
    constants = Constants(model)
    split_gemms(model, constants, keep=plan.keep_float)
    graph = read_graph(model)
    written: list[Any] = []
    quantized: dict[str, tuple[str, str, str]] = {}
    computing = 0
    for node, proto in zip(graph.nodes, list(model.graph.node), strict=True):
        if node.name not in plan.keep_float and _is_product(node, graph):
            written += _product(node, constants, quantized, saturates=plan.saturates)
            computing += 1
        else:
            written += store_weights(node, proto, graph, constants, keep=plan.keep_float)
    del model.graph.node[:]
    model.graph.node.extend([*constants.nodes, *written])
    constants.drop_unread()
    return Changes(computing=computing, stored=constants.stored_count)


def _is_product(node: Node, graph: Graph) -> bool:
    left, right = node.input(0), graph.constants.get(node.input(1))
    if node.op != "MatMul" or left in graph.constants or right is None:
        return False
    return right.ndim == _MATRIX and graph.dtype(left) == "float32"


def _product(
    node: Node,
    constants: Constants,
    quantized: dict[str, tuple[str, str, str]],
    *,
    saturates: bool,
) -> list[Any]:
    """The nodes of one product, in the order that onnxruntime knows as one operator."""
    from onnx import TensorProto, helper

    nodes = []
    left = node.input(0)
    if left not in quantized:
        parts = [constants.name(kind) for kind in ("quantized", "scale", "zero")]
        nodes.append(helper.make_node("DynamicQuantizeLinear", [left], parts))
        quantized[left] = (parts[0], parts[1], parts[2])
    integers, step, zero = quantized[left]
    right = node.input(1)
    scales = product_scales(node, constants.array(right), 1, saturates=saturates)
    stored, scale, weight_zero = constants.stored(right, weight_affine(scales, WEIGHTS_INT8), 1)
    total, real, factor = (constants.name(kind) for kind in ("sum", "float", "scale"))
    nodes += [
        helper.make_node("MatMulInteger", [integers, stored, zero, weight_zero], [total]),
        helper.make_node("Cast", [total], [real], to=TensorProto.FLOAT),
        helper.make_node("Mul", [step, scale], [factor]),
        helper.make_node("Mul", [real, factor], [node.outputs[0]]),
    ]
    # What a person looks for is the product itself.
    next(part for part in nodes if part.op_type == "MatMulInteger").name = node.name
    return nodes
