"""Steps in another type of the same bits, where a kernel that only moves elements lacks a type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.lower.builder import RefusedNodeError
from edgekit_converters.litert.lower.step_base import StepBase

if TYPE_CHECKING:
    from edgekit_converters.graph import Shape
    from edgekit_converters.litert.program import Tensor

_COMMON: Final = frozenset({"float32", "int8", "int32", "int64", "uint8"})
_HALF: Final = _COMMON | {"float16", "int16", "bool"}
# What the kernels of LiteRT 2.3 move as it is; those that are not named move everything.
_MOVED: Final = {
    "CONCATENATION": _HALF | {"uint32"},
    "DEPTH_TO_SPACE": _COMMON,
    "GATHER": _HALF,
    "GATHER_ND": _HALF,
    "PACK": _COMMON | {"int16", "uint32"},
    "PAD": _HALF,
    "PADV2": _HALF,
    "REVERSE_SEQUENCE": frozenset({"float32", "int16", "int32", "int64", "uint8"}),
    "REVERSE_V2": _HALF,
    "SPACE_TO_DEPTH": _COMMON,
    "SPLIT": _COMMON | {"int16"},
    "SPLIT_V": _COMMON | {"int16"},
}
_SAME_WIDTH: Final = {
    "bfloat16": ("int16",),
    "bool": ("uint8",),
    "float16": ("int16",),
    "float32": ("int32",),
    "float64": ("int64",),
    "int8": ("uint8",),
    "uint16": ("int16",),
    "uint32": ("int32",),
    "uint64": ("int64",),
}
# XNNPACK claims float nodes of higher rank and then fails on them.
_MAX_FLOAT_RANK: Final = 6
_CLAIMED: Final = frozenset({"CONCATENATION", "SPLIT"})


class BitSteps(StepBase):
    """Moving elements of any type."""

    def bits(self, tensor: Tensor, dtype: str) -> Tensor:
        """The same bits as another type of the same width; false and true are 0 and 1."""
        if tensor.dtype == dtype:
            return tensor
        if tensor.data is not None:
            return self.constant(np.asarray(tensor.data, order="C").view(dtype), dtype)
        if "bool" in {tensor.dtype, dtype}:
            options = {"inDataType": tensor.dtype, "outDataType": dtype}
            return self.step("CAST", [tensor], tensor.shape, dtype, **options)
        return self.step("BITCAST", [tensor], tensor.shape, dtype)

    def moved_as(self, code: str, dtype: str, rank: int) -> str:
        """The type of the same width in which an operator moves elements of a type."""
        allowed = _MOVED.get(code)
        if code in _CLAIMED and rank > _MAX_FLOAT_RANK and dtype in {"float16", "float32"}:
            return "int16" if dtype == "float16" else "int32"
        if allowed is None or dtype in allowed:
            return dtype
        for other in _SAME_WIDTH.get(dtype, ()):
            if other in allowed:
                return other
        raise RefusedNodeError(f"LiteRT's {code} has no elements of type {dtype}")

    def move(
        self,
        code: str,
        inputs: Sequence[Tensor],
        shape: Shape,
        *,
        moved: Iterable[int] = (0,),
        **options: object,
    ) -> Tensor:
        """Any LiteRT operator that only moves elements, those of the inputs at `moved`."""
        positions = set(moved)
        dtype = inputs[min(positions)].dtype
        inner = self.moved_as(code, dtype, len(shape))
        operands = [
            self.bits(tensor, inner) if position in positions else tensor
            for position, tensor in enumerate(inputs)
        ]
        return self.bits(self.step(code, operands, shape, inner, **options), dtype)

    def move_apart(
        self, code: str, inputs: Sequence[Tensor], shapes: Sequence[Shape], moved: int,
        **options: object,
    ) -> list[Tensor]:  # fmt: skip
        """As `move`, of the elements of one input into several outputs."""
        dtype = inputs[moved].dtype
        inner = self.moved_as(code, dtype, len(inputs[moved].shape))
        operands = [
            self.bits(tensor, inner) if position == moved else tensor
            for position, tensor in enumerate(inputs)
        ]
        made = self.steps(code, operands, [(shape, inner) for shape in shapes], **options)
        return [self.bits(tensor, dtype) for tensor in made]
