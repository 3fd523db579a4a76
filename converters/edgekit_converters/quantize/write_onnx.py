"""Write the quantized form of an ONNX model: ONNX's own operators, for any engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.half import to_float16
from edgekit_converters.onnx_graphs import bodies_of
from edgekit_converters.onnx_source import quantized_operators
from edgekit_converters.patterns.opset import raise_opset
from edgekit_converters.quantize.outcome import check_outcome, refuse_quantized
from edgekit_converters.quantize.plan import node_name
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.to_onnx.dynamic import quantize_dynamic
from edgekit_converters.quantize.to_onnx.static import quantize_static
from edgekit_converters.quantize.to_onnx.stored import quantize_weights
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from edgekit_converters.quantize.plan import QuantizationPlan
    from edgekit_converters.quantize.to_onnx.changes import Changes

# The first with integers of 4 and of 16 bits, and the IR that it came with.
_SHORT_INTEGERS_OPSET: Final = 21
_SHORT_INTEGERS_IR: Final = 10
_PRODUCTS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "GRU", "LSTM", "MatMul", "RNN"})
_SHOWN: Final = 5


def write_onnx(model: Any, plan: QuantizationPlan, output: Path, *, where: str) -> tuple[str, ...]:
    """Quantize a model as a plan says, and write it.

    Args:
        model: A normalised `onnx.ModelProto`; it is not changed.
        plan: Names nodes and values of this model.
        output: Where to write; its folder exists.
        where: The path that the user gave, for errors.

    Returns:
        Sentences that the user should read.

    Raises:
        UnsupportedModelError: If the model is quantized or float16 already, cannot be raised to
            the opset that the scheme needs, or nothing of it would change.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    require("onnx", extra="convert")
    refuse_quantized(quantized_operators(model), where=where)
    refuse_quantized(_halves(model), where=where, what="float16")
    if plan.scheme is Scheme.FP16:
        half = to_float16(model, where=where, keep=plan.keep_float)
        output.write_bytes(_content(half.model))
        return half.warnings
    quantized = type(model)()
    quantized.CopyFrom(model)
    if plan.scheme in {Scheme.INT16X8, Scheme.INT4_WEIGHTS} or plan.wide:
        quantized = _with_short_integers(quantized, plan.scheme, where)
    if plan.scheme.needs_ranges:
        changes = quantize_static(quantized, plan)
    elif plan.scheme is Scheme.INT8_DYNAMIC:
        changes = quantize_dynamic(quantized, plan)
    else:
        changes = quantize_weights(quantized, plan)
    content = _content(quantized)
    check_outcome(
        where=where,
        changed=changes.computing + changes.stored,
        replaced_bytes=_weight_bytes(model) - _weight_bytes(quantized),
        bytes_before=model.ByteSize(),
        bytes_after=len(content),
        scheme=plan.scheme,
    )
    output.write_bytes(content)
    return tuple(_remarks(model, plan, changes))


def _content(model: Any) -> bytes:
    # Engines infer the shapes again; in small models they outweigh what integers save.
    model.graph.ClearField("value_info")
    return bytes(model.SerializeToString())


def _with_short_integers(model: Any, scheme: Scheme, where: str) -> Any:
    raised = raise_opset(model, _SHORT_INTEGERS_OPSET)
    if raised is None:
        raise UnsupportedModelError(
            f"{scheme} needs opset {_SHORT_INTEGERS_OPSET}, to which this model cannot be raised",
            where=where,
            fix="choose another scheme, or export the model with a newer opset",
        )
    raised.ir_version = max(raised.ir_version, _SHORT_INTEGERS_IR)
    return raised


def _remarks(model: Any, plan: QuantizationPlan, changes: Changes) -> Iterator[str]:
    inside = [node_name(node) for node in model.graph.node if _has_product_inside(node)]
    if plan.scheme.needs_ranges and not changes.computing:
        yield f"{plan.scheme} only stores the weights in 8 bits here: nothing computes in integers"
    if inside and (plan.scheme.needs_ranges or plan.scheme is Scheme.INT8_DYNAMIC):
        yield (
            f"what is inside of {', '.join(inside[:_SHOWN])} computes in float: the bodies of "
            "nodes are not calibrated; their weights are stored in 8 bits"
        )
    if plan.scheme is Scheme.INT16X8 or plan.wide:
        yield (
            "onnxruntime has no integer arithmetic of 16 bits: what has them is rounded like it, "
            "and computed in float"
        )
    if plan.scheme is Scheme.INT8_DYNAMIC and not changes.computing:
        yield (
            "int8-dynamic only stores the weights in 8 bits here: the model has no matrix product "
            "with weights, and convolutions would be many times slower"
        )
    if plan.scheme is Scheme.INT4_WEIGHTS and not changes.short:
        yield (
            "int4-weights changes no more than int8-weights here: the model has no matrix product "
            "with enough weights"
        )
    if changes.in_float:
        yield (
            f"computed in float, from weights in 8 bits: {', '.join(changes.in_float[:_SHOWN])}"
            + (f" and {len(changes.in_float) - _SHOWN} more" * bool(changes.in_float[_SHOWN:]))
        )


def _weight_bytes(model: Any) -> int:
    from onnx import TensorProto

    return sum(
        4 * math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    )


def _halves(model: Any) -> list[str]:
    """The names of the weights that are float16, where no others are float32."""
    from onnx import TensorProto

    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1]
    if any(tensor.data_type == TensorProto.FLOAT for tensor in weights):
        return []
    return [tensor.name for tensor in weights if tensor.data_type == TensorProto.FLOAT16]


def _has_product_inside(node: Any) -> bool:
    return any(
        inner.op_type in _PRODUCTS or _has_product_inside(inner)
        for body in bodies_of(node)
        for inner in body.node
    )
