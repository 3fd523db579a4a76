"""Steps that multiply matrices, however many axes there are in front of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.lower.size_steps import Extent, SizeSteps
from edgekit_converters.litert.lower.step_base import broadcast

if TYPE_CHECKING:
    from edgekit_converters.litert.program import Tensor

_MATRIX: Final = 2
# XNNPACK refuses models with a FULLY_CONNECTED of more axes, the plain kernels BATCH_MATMUL.
_MAX_DENSE_RANK: Final = 6
_MAX_BATCHED_RANK: Final = 5


class ProductSteps(SizeSteps):
    """Products of matrices."""

    def fully_connected(self, tensor: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
        """The last axis times weights of (outputs, inputs), plus a number an output."""
        outputs = weights.shape[0]
        if len(tensor.shape) > _MAX_DENSE_RANK:
            *rows, inner = self.extents(tensor)
            flat = self.reshaped(tensor, [self.times(*rows), inner])
            made = self.fully_connected(flat, weights, bias)
            return self.reshaped(made, [*rows, self.extent(made, -1)])
        return self.step(
            "FULLY_CONNECTED", [tensor, weights, bias], (*tensor.shape[:-1], outputs), "float32",
            fusedActivationFunction="NONE", weightsFormat="DEFAULT",
            keepNumDims=len(tensor.shape) != _MATRIX,
        )  # fmt: skip

    def matmul(
        self, first: Tensor, second: Tensor, *, turn_first: bool = False, turn_second: bool = False
    ) -> Tensor:
        """Products of matrices, the leading axes broadcast; either factor may be turned."""
        if max(len(first.shape), len(second.shape)) > _MAX_BATCHED_RANK:
            return self._matmul_flat(first, second, turn_first, turn_second)
        rows = first.shape[-1] if turn_first else first.shape[-2]
        columns = second.shape[-2] if turn_second else second.shape[-1]
        shape = (*broadcast(first.shape[:-2], second.shape[:-2]), rows, columns)
        return self.step(
            "BATCH_MATMUL", [first, second], shape, first.dtype, adjX=turn_first, adjY=turn_second
        )

    def _matmul_flat(
        self,
        first: Tensor,
        second: Tensor,
        turn_first: bool,  # noqa: FBT001
        turn_second: bool,  # noqa: FBT001
    ) -> Tensor:
        """With one axis for all that are no matrix's."""
        factors = [(tensor, self.extents(tensor)) for tensor in (first, second)]
        rank = max(len(extents) for _, extents in factors) - _MATRIX
        batches = [
            (*(1,) * (rank + _MATRIX - len(extents)), *extents[:-_MATRIX]) for _, extents in factors
        ]
        batch = [self._wider(one, other) for one, other in zip(*batches, strict=True)]
        flat = []
        for own, (tensor, extents) in zip(batches, factors, strict=True):
            matrix = extents[-_MATRIX:]
            wide = self.widened(self.reshaped(tensor, [*own, *matrix]), [*batch, *matrix])
            flat.append(self.reshaped(wide, [self.times(*batch), *matrix]))
        made = self.matmul(flat[0], flat[1], turn_first=turn_first, turn_second=turn_second)
        return self.reshaped(made, [*batch, self.extent(made, -2), self.extent(made, -1)])

    def _wider(self, one: Extent, other: Extent) -> Extent:
        """What two sizes are broadcast to."""
        if isinstance(one, int) and isinstance(other, int):
            return other if one == 1 else one
        if isinstance(one, int):
            return other if one == 1 else one
        if isinstance(other, int):
            return one if other == 1 else other
        return self.maximum(one, other)
