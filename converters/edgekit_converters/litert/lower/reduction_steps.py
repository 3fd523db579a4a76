"""Steps that go over whole axes: reductions, running sums, orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edgekit_converters.litert.lower.builder import RefusedNodeError
from edgekit_converters.litert.lower.size_steps import Extent, SizeSteps
from edgekit_converters.litert.program import Tensor

# XNNPACK claims reductions of higher rank and then fails on them.
MAX_REDUCED: Final = 6


class ReductionSteps(SizeSteps):
    """Reductions, orders."""

    def reduce(
        self, code: str, tensor: Tensor, axes: int | Sequence[int], *, keep: bool = False
    ) -> Tensor:
        """Any of LiteRT's reductions: SUM, MEAN, REDUCE_MAX, REDUCE_ANY, ..."""
        rank = len(tensor.shape)
        chosen = sorted({axis % rank for axis in ([axes] if isinstance(axes, int) else axes)})
        shape = tuple(
            1 if axis in chosen else size
            for axis, size in enumerate(tensor.shape)
            if keep or axis not in chosen
        )
        if not chosen:
            return tensor
        if rank > MAX_REDUCED:
            return self._reduce_joined(code, tensor, chosen, keep=keep)
        inputs = [tensor, self.integers(chosen, "axes")]
        return self.step(code, inputs, shape, tensor.dtype, keepDims=keep)

    def _reduce_joined(self, code: str, tensor: Tensor, axes: list[int], *, keep: bool) -> Tensor:
        """With neighbouring axes joined that are all reduced, or all not."""
        extents = self.extents(tensor)
        joined: list[Extent] = []
        chosen: list[int] = []
        for axis, extent in enumerate(extents):
            if joined and (axis in axes) == (axis - 1 in axes):
                joined[-1] = self.times(joined[-1], extent)
                continue
            if axis in axes:
                chosen.append(len(joined))
            joined.append(extent)
        if len(joined) > MAX_REDUCED:
            raise RefusedNodeError(f"it reduces every other axis of {len(extents)}")
        made = self.reduce(code, self.reshaped(tensor, joined), chosen)
        left = [
            1 if axis in axes else extent
            for axis, extent in enumerate(extents)
            if keep or axis not in axes
        ]
        return self.reshaped(made, left)

    def sum(self, tensor: Tensor, axes: int | Sequence[int], *, keep: bool = False) -> Tensor:
        """The sum over axes."""
        return self.reduce("SUM", tensor, axes, keep=keep)

    def mean(self, tensor: Tensor, axes: int | Sequence[int], *, keep: bool = False) -> Tensor:
        """The mean over axes."""
        return self.reduce("MEAN", tensor, axes, keep=keep)

    def max(self, tensor: Tensor, axes: int | Sequence[int], *, keep: bool = False) -> Tensor:
        """The largest over axes."""
        return self.reduce("REDUCE_MAX", tensor, axes, keep=keep)

    def min(self, tensor: Tensor, axes: int | Sequence[int], *, keep: bool = False) -> Tensor:
        """The smallest over axes."""
        return self.reduce("REDUCE_MIN", tensor, axes, keep=keep)

    def arg_max(self, tensor: Tensor, axis: int, dtype: str = "int32") -> Tensor:
        """The index of the largest along an axis, of the first of equal ones."""
        return self._arg("ARG_MAX", tensor, axis, dtype)

    def arg_min(self, tensor: Tensor, axis: int, dtype: str = "int32") -> Tensor:
        """The index of the smallest along an axis, of the first of equal ones."""
        return self._arg("ARG_MIN", tensor, axis, dtype)

    def cumsum(
        self, tensor: Tensor, axis: int, *, exclusive: bool = False, reverse: bool = False
    ) -> Tensor:
        """Running sums along an axis."""
        inputs = [tensor, self.integers(axis % len(tensor.shape), "axis")]
        return self.step(
            "CUMSUM", inputs, tensor.shape, tensor.dtype, exclusive=exclusive, reverse=reverse
        )

    def top_k(self, tensor: Tensor, count: Tensor, size: int | None) -> tuple[Tensor, Tensor]:
        """The largest `count` along the last axis, in falling order, and their int32 indices."""
        shape = (*tensor.shape[:-1], size)
        values, indices = self.steps(
            "TOPK_V2", [tensor, count], [(shape, tensor.dtype), (shape, "int32")]
        )
        return values, indices

    def _arg(self, code: str, tensor: Tensor, axis: int, dtype: str) -> Tensor:
        at = axis % len(tensor.shape)
        shape = (*tensor.shape[:at], *tensor.shape[at + 1 :])
        inputs = [tensor, self.integers(at, "axis")]
        return self.step(code, inputs, shape, dtype, outputType=dtype)
