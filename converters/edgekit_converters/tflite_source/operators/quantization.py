"""Between numbers and the integers that stand for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder


@imports("QUANTIZE", inputs=(1, 1))
def import_quantize(build: Builder) -> None:
    """To the integers of the output, from numbers or from other integers."""
    if build.operator.outputs[0].quantization is None:
        raise RefusedOperatorError("its output has no scale")
    order = build.order(0)
    build.finish(build.input(0, order), order)


@imports("DEQUANTIZE", inputs=(1, 1))
def import_dequantize(build: Builder) -> None:
    """To numbers, from integers or from half precision."""
    build.dequantize()
