"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear, in float32 arithmetic.

Each tensor, each slice of an axis, or each block of a slice has its scale and zero point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.layout import follow, identity
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

# As the attribute `precision` names them.
_PRECISIONS: Final = {0: "", 1: "float32", 10: "float16"}
_UINT8_MAX: Final = 255


@lowers("DequantizeLinear", layout=follow, dtypes={})
def lower_dequantize(build: Builder, node: Node) -> None:
    """(x - zero point) * scale."""
    steps = Steps(build, node)
    source = steps.input()
    scale = steps.cast(_parameter(steps, 1, source), "float32")
    values = centred(steps, source, zero_point(steps, 2, source))
    steps.finish(steps.mul(values, scale))


@lowers("QuantizeLinear", layout=follow, dtypes={})
def lower_quantize(build: Builder, node: Node) -> None:
    """The nearest of x / scale, halves to even, plus the zero point, within the type's limits."""
    steps = Steps(build, node)
    source = steps.input()
    scale = _parameter(steps, 1, source)
    precision = _PRECISIONS.get(node.integer("precision", 0))
    if precision is None:
        raise RefusedNodeError(f"its precision is the type {node.integer('precision', 0)}")
    precision = precision or scale.dtype
    ratio = steps.div(
        steps.cast(steps.cast(source, precision), "float32"),
        steps.cast(steps.cast(scale, precision), "float32"),
    )
    if precision == "float16":
        ratio = steps.cast(steps.cast(ratio, "float16"), "float32")
    quantized(steps, ratio, zero_point(steps, 2, source))


@lowers("DynamicQuantizeLinear", layout=follow, dtypes={"T1": frozenset({"float32"})})
def lower_dynamic_quantize(build: Builder, node: Node) -> None:
    """To uint8, with the scale and zero point that the extremes of the tensor ask for.

    A tensor of zeros has the scale 1, as in onnxruntime.
    """
    steps = Steps(build, node)
    source = steps.input()
    axes = range(len(source.shape))
    low = steps.minimum(0.0, steps.min(source, axes))
    high = steps.maximum(0.0, steps.max(source, axes))
    span = steps.sub(high, low)
    scale = steps.div(steps.select(steps.equal(span, 0.0), float(_UINT8_MAX), span), _UINT8_MAX)
    zero = steps.round(_limited(steps, steps.div(steps.neg(low), scale), 0, _UINT8_MAX))
    steps.finish(scale, 1)
    steps.finish(zero, 2)
    quantized(steps, steps.div(source, scale), zero)


def centred(steps: Steps, values: Tensor, zero: Tensor | None) -> Tensor:
    """Quantized integers as float32, less their zero point; exact, but of large int32."""
    if values.dtype == "int32" and zero is not None:
        return steps.cast(steps.sub(values, steps.cast(zero, "int32")), "float32")
    wide = steps.cast(values, "float32")
    return wide if zero is None else steps.sub(wide, steps.cast(zero, "float32"))


def quantized(steps: Steps, ratio: Tensor, zero: Tensor | None) -> None:
    """Make numbers, rounded, moved by the zero point and cut, the node's first output."""
    dtype = steps.build.graph.dtype(steps.node.outputs[0])
    result = steps.round(ratio)
    if zero is not None:
        result = steps.add(result, steps.cast(zero, "float32"))
    limits = np.iinfo(dtype)
    steps.finish(_limited(steps, result, limits.min, limits.max))


def zero_point(steps: Steps, position: int, like: Tensor) -> Tensor | None:
    """The zero point that belongs to a tensor, None where it is zero."""
    node = steps.node
    known = steps.build.known(node, position)
    if not node.input(position) or (known is not None and not known.any()):
        return None
    return _parameter(steps, position, like)


def _limited(steps: Steps, values: Tensor, low: int, high: int) -> Tensor:
    return steps.minimum(float(high), steps.maximum(float(low), values))


def _parameter(steps: Steps, position: int, like: Tensor) -> Tensor:
    """A scale or zero point, so that it can be broadcast with the tensor that it belongs to."""
    build, node = steps.build, steps.node
    name, order = node.input(position), build.layout.work
    shape = build.shape(name)
    if len(shape) <= 1 and shape in {(), (1,)}:
        return steps.reshape(build.value(name, identity(len(shape))), ())
    axis = node.integer("axis", 1) % max(len(order), 1)
    block = node.integer("block_size", 0)
    value = build.value(name, identity(len(shape)))
    if len(shape) == 1 and not block:
        target = tuple(shape[0] if at == axis else 1 for at in order)
        return steps.reshape(value, target)
    if len(shape) != len(order):
        raise RefusedNodeError(f"its scale has rank {len(shape)}, its input {len(order)}")
    size = like.shape[order.index(axis)]
    if block < 1 or size is None:
        raise RefusedNodeError(f"its blocks have size {block}, its axis {size}")
    return steps.transpose(_repeated(steps, value, axis, block, size), order)


def _repeated(steps: Steps, value: Tensor, axis: int, block: int, size: int) -> Tensor:
    """Every slice of an axis so many times, up to a size."""
    if value.data is not None:
        repeated: Any = np.repeat(value.data, block, axis=axis)
        return steps.constant(np.ascontiguousarray(repeated.take(range(size), axis=axis)), "blocks")
    wide = steps.expand_dims(value, axis + 1)
    extents = steps.extents(wide)
    extents[axis + 1] = block
    whole = steps.extents(value)
    whole[axis] = steps.times(whole[axis], block)
    flat = steps.reshaped(steps.widened(wide, extents), whole)
    return steps.slice_axis(flat, axis, 0, size)
