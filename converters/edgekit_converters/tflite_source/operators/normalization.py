"""Normalisations along the last axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import channels_first

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder

# TFLite: `L2Normalization` divides by no less.
_LEAST_NORM: Final = 1e-6


@imports("L2_NORMALIZATION", inputs=(1, 1))
def import_l2_normalization(build: Builder) -> None:
    """Divided by the length of the last axis."""
    value = build.input(0)
    length = build.node("ReduceL2", [value, build.sizes([-1], "axis")], keepdims=1)
    build.emit_activated("Div", [value, build.node("Max", [length, build.scalar(_LEAST_NORM)])])


@imports("LOCAL_RESPONSE_NORMALIZATION", inputs=(1, 1), options="LocalResponseNormalizationOptions")
def import_lrn(build: Builder) -> None:
    """Divided by a power of the sum of squares of the neighbouring channels."""
    order = channels_first(4)
    size = 2 * int(build.option("radius")) + 1
    build.emit(
        "LRN",
        [build.input(0, order)],
        order,
        size=size,
        # ONNX divides alpha by the size.
        alpha=float(build.option("alpha")) * size,
        beta=float(build.option("beta")),
        bias=float(build.option("bias")),
    )
