"""What a model takes and gives: names, element types, shapes, quantization."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorQuantization:
    """The affine map of a quantized tensor: real = scale * (integer - zero_point)."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: As the model file names it.
        dtype: A numpy type name: "float32", "int8", "int64", "bool".
        shape: One entry an axis; None where the size is free.
        quantization: Set where the tensor itself holds quantized integers.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    quantization: TensorQuantization | None = None
