"""Matrix products and convolutions in the form that integers want them in."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_graphs import replace_nodes
from edgekit_converters.quantize.affine import WEIGHTS_INT8, weight_scales
from edgekit_converters.quantize.plan import node_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Node
    from edgekit_converters.quantize.to_onnx.constants import Constants

# 255 times the sum of two weights, and one more for their rounding, must fit into 16 bits.
_MOST_FOR_TWO: Final = 127


def product_scales(
    node: Node, weights: NDArray[Any], axis: int | None, *, saturates: bool
) -> NDArray[np.float32]:
    """The scales of weights that are multiplied with unsigned bytes, for `WEIGHTS_INT8`.

    x86 without VNNI adds the products of two neighbours with 16 bits: where they are large, it
    takes the largest number there is instead, without a word, and ARM does not. Where two
    neighbours could do that, the scale of their channel is widened until they cannot, so that
    the model answers the same everywhere. It costs half a bit where seven-bit weights, the usual
    way round it, cost a whole one. Depthwise convolutions are computed with more room.

    Args:
        node: What multiplies them.
        weights: The right factor, or the filters.
        axis: Where the channels are.
        saturates: Whether such an engine may run the model.
    """
    scales = weight_scales(weights, axis, WEIGHTS_INT8)
    if not saturates or axis is None or _is_depthwise(node, weights):
        return scales
    rows = np.moveaxis(weights, axis, 0)
    if node.op == "Conv":
        # The order in which filters are gone through: the inputs' channels are neighbours.
        rows = np.moveaxis(rows, 1, -1)
    rows = rows.reshape(rows.shape[0], -1)
    both = [
        (half[:, :-1] + half[:, 1:]).max(axis=1, initial=0.0)
        for half in (np.maximum(rows, 0), np.maximum(-rows, 0))
    ]
    return np.asarray(np.maximum(scales, np.maximum(*both) / _MOST_FOR_TWO), np.float32)


def fold_factors(node: Any, constants: Constants) -> None:
    """Multiply the factors of a Gemm into its weights and bias, in place.

    Engines that add in integers take the bias for one that is scaled like the product.
    """
    if node.op_type != "Gemm":
        return
    for attribute in list(node.attribute):
        at = {"alpha": 1, "beta": 2}.get(attribute.name)
        if at is None or attribute.f == 1.0 or at >= len(node.input) or not node.input[at]:
            continue
        if constants.has(node.input[at]):
            node.input[at] = constants.replace(
                node.input[at], constants.array(node.input[at]) * attribute.f
            )
            node.attribute.remove(attribute)


def split_gemms(model: Any, constants: Constants, *, keep: Collection[str]) -> None:
    """Write each Gemm with constant weights as a MatMul and an Add, in place.

    onnxruntime computes with integer weights as they are stored only in a MatMul.

    Args:
        model: An `onnx.ModelProto`.
        constants: Of the same model.
        keep: Names of the nodes that stay as they are.
    """
    written: list[Any] = []
    for node in model.graph.node:
        fits = node.op_type == "Gemm" and node_name(node) not in keep
        fits = fits and constants.has(node.input[1]) and not _attribute(node, "transA")
        written += _split(node, constants) if fits else [node]
    replace_nodes(model.graph, written)


def _split(node: Any, constants: Constants) -> list[Any]:
    from onnx import helper

    fold_factors(node, constants)
    if any(a.name in {"alpha", "beta"} and a.f != 1.0 for a in node.attribute):
        return [node]
    right = node.input[1]
    if _attribute(node, "transB"):
        right = constants.replace(right, np.ascontiguousarray(constants.array(right).T))
    bias = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 - the third is optional
    output = constants.name("product") if bias else node.output[0]
    nodes = [helper.make_node("MatMul", [node.input[0], right], [output], name=node_name(node))]
    if bias:
        nodes.append(helper.make_node("Add", [output, bias], [node.output[0]]))
    return nodes


def _attribute(node: Any, name: str) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), 0)


def _is_depthwise(node: Node, weights: NDArray[Any]) -> bool:
    groups = node.integer("group", 1)
    return node.op == "Conv" and groups == weights.shape[0] and weights.shape[1] == 1
