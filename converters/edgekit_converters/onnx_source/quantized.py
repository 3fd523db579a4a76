"""Tell whether an ONNX model is quantized already; nothing but its operators says so."""

from __future__ import annotations

from typing import Any, Final

_OPERATORS: Final = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
)


def quantized_operators(model: Any) -> tuple[str, ...]:
    """The names of the nodes that show that a model is quantized already."""
    return tuple(
        node.name or node.output[0]
        for node in model.graph.node
        if node.op_type in _OPERATORS
        or node.op_type.startswith("QLinear")
        or node.op_type == "MatMulNBits"
    )
