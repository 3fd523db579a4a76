"""What is kept depends on values: as many elements as the running model finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import ANYTHING

if TYPE_CHECKING:
    from edgekit_converters.graph import Node

_LOOKED_AT: Final = frozenset({"float32", "int8", "int32", "int64", "uint8", "bool"})


@lowers("NonZero", dtypes={})
def lower_non_zero(build: Builder, node: Node) -> None:
    """The coordinates of all elements that are not zero."""
    steps = Steps(build, node)
    tensor = steps.in_onnx_order(0)
    if not tensor.shape:
        raise RefusedNodeError("its input is a scalar")
    if tensor.dtype == "uint64":
        tensor = steps.bits(tensor, "int64")
    if tensor.dtype not in _LOOKED_AT:
        tensor = steps.cast(tensor, "bool")
    steps.finish(steps.transpose(steps.where(tensor), (1, 0)))


@lowers("Compress", dtypes=ANYTHING)
def lower_compress(build: Builder, node: Node) -> None:
    """The slices of an axis, or of all elements in a row, for which a condition holds."""
    steps = Steps(build, node)
    tensor = steps.in_onnx_order(0)
    axis = node.attributes.get("axis")
    if axis is None:
        tensor, axis = steps.flatten(tensor), 0
    places = steps.reshape(steps.where(steps.in_onnx_order(1)), (None,))
    steps.finish(steps.gather(tensor, places, int(axis)))
