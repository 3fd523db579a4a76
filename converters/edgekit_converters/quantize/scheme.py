"""The arithmetics that a model can be quantized to, and what each of them asks for."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Scheme(StrEnum):
    """How the weights and the activations of a quantized model are stored and computed."""

    FP16 = "fp16"
    """Weights in half precision; in ONNX activations too."""
    INT8 = "int8"
    """Weights and activations in 8 bits, ranges fixed by calibration."""
    INT8_DYNAMIC = "int8-dynamic"
    """Weights in 8 bits; activations are quantized as they come, each run with its own range."""
    INT8_WEIGHTS = "int8-weights"
    """Weights in 8 bits, computed in float."""
    INT16X8 = "int16x8"
    """Weights in 8 bits, activations in 16, ranges fixed by calibration."""
    INT4_WEIGHTS = "int4-weights"
    """Weights of matrix products in 4 bits and of the rest in 8, computed in float."""
    MIXED = "mixed"
    """As `INT8`, with some nodes 16 bits wide and some in float."""

    @property
    def needs_ranges(self) -> bool:
        """Whether calibration data is needed, to know the range of every activation."""
        return self in _STATIC

    @property
    def activation_steps(self) -> int:
        """Intervals between neighbouring integers of an activation, where it becomes integer."""
        return 65534 if self is Scheme.INT16X8 else 255

    @property
    def weight_bits(self) -> int:
        """Bits of a weight of a matrix product."""
        if self is Scheme.FP16:
            return 16
        return 4 if self is Scheme.INT4_WEIGHTS else 8


_STATIC: Final = frozenset({Scheme.INT8, Scheme.INT16X8, Scheme.MIXED})
