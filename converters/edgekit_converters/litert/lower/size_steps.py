"""Steps with sizes: numbers where the conversion knows them, int32 tensors where it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.lower.elementwise_steps import ElementwiseSteps
from edgekit_converters.litert.lower.movement_steps import MovementSteps
from edgekit_converters.litert.program import Tensor

if TYPE_CHECKING:
    from edgekit_converters.graph import Shape

# A size, an index or a count; a tensor is a scalar of type int32.
Extent = int | Tensor

_INT32 = np.iinfo(np.int32)


def divides(source: Shape, target: Shape) -> bool:
    """Whether the target's free size is a whole number whatever the free sizes of the source are.

    The runtime tries the target with sizes of its own before it is told the real ones.
    """
    wanted = math.prod(size for size in target if size is not None)
    given = math.prod(size for size in source if size is not None)
    return wanted != 0 and given % wanted == 0


class SizeSteps(ElementwiseSteps, MovementSteps):
    """Sizes, coordinates, indices."""

    def extent(self, tensor: Tensor, axis: int) -> Extent:
        """The size of an axis."""
        at = axis % len(tensor.shape)
        size = tensor.shape[at]
        if size is not None:
            return size
        return self.element(self.shape_of(tensor), at)

    def extents(self, tensor: Tensor) -> list[Extent]:
        """The sizes of all axes."""
        if None not in tensor.shape:
            return [size or 0 for size in tensor.shape]
        sizes = self.shape_of(tensor)
        return [
            self.element(sizes, axis) if size is None else size
            for axis, size in enumerate(tensor.shape)
        ]

    def element(self, vector: Tensor, position: int) -> Tensor:
        """One element of a vector of known length, as a scalar."""
        return self.reshape(self.slice(vector, [position], [1]), ())

    def scalar(self, extent: Extent) -> Tensor:
        """A size as a tensor."""
        return extent if isinstance(extent, Tensor) else self.integers(extent)

    def vector(self, extents: Sequence[Extent]) -> Tensor:
        """Sizes as a vector."""
        known = [extent for extent in extents if isinstance(extent, int)]
        if len(known) == len(extents):
            return self.integers(known)
        return self.stack([self.scalar(extent) for extent in extents], 0)

    def plus(self, first: Extent, second: Extent) -> Extent:
        """The sum of two sizes."""
        if isinstance(first, int) and isinstance(second, int):
            return first + second
        if second == 0:
            return first
        return self.add(self.scalar(first), self.scalar(second))

    def minus(self, first: Extent, second: Extent) -> Extent:
        """The difference of two sizes."""
        if isinstance(first, int) and isinstance(second, int):
            return first - second
        if second == 0:
            return first
        return self.sub(self.scalar(first), self.scalar(second))

    def times(self, *extents: Extent) -> Extent:
        """The product of sizes."""
        known = 1
        rest: Tensor | None = None
        for extent in extents:
            if isinstance(extent, int):
                known *= extent
            else:
                rest = extent if rest is None else self.mul(rest, extent)
        if rest is None:
            return known
        return rest if known == 1 else self.mul(rest, self.integers(known))

    def over(self, extent: Extent, number: int) -> Extent:
        """How often a number goes into a size."""
        return extent // number if isinstance(extent, int) else self.floor_div(extent, number)

    def late(self, number: int, extent: Extent) -> Extent:
        """A number as a tensor that is computed only when the model runs, if a size is free.

        The runtime prepares a model with sizes of its own, and refuses it where a constant does
        not go with them.
        """
        if isinstance(extent, int):
            return number
        return self.add(self.floor_mod(extent, 1), number)

    def iota(self, extent: Extent) -> Tensor:
        """0, 1, 2, ... up to a size, int32."""
        if isinstance(extent, int):
            return self.integers(np.arange(extent))
        zero, one = self.integers(0), self.integers(1)
        return self.step("RANGE", [zero, extent, one], (None,), "int32")

    def coordinates(self, extent: Extent, axis: int, rank: int) -> Tensor:
        """The index along one axis, of size one along the others."""
        size = extent if isinstance(extent, int) else None
        shape = tuple(size if other == axis else 1 for other in range(rank))
        return self.reshape(self.iota(extent), shape)

    def widened(self, tensor: Tensor, extents: Sequence[Extent]) -> Tensor:
        """Repeated along axes of size one, up to a shape of sizes."""
        shape = tuple(extent if isinstance(extent, int) else None for extent in extents)
        if tensor.shape == shape and None not in shape:
            return tensor
        if tensor.data is not None and None not in shape:
            known = [size or 0 for size in shape]
            return self.constant(np.ascontiguousarray(np.broadcast_to(tensor.data, known)))
        return self.step("BROADCAST_TO", [tensor, self.vector(extents)], shape, tensor.dtype)

    def reshaped(self, tensor: Tensor, extents: Sequence[Extent]) -> Tensor:
        """The same elements in a shape of sizes."""
        shape = tuple(extent if isinstance(extent, int) else None for extent in extents)
        if shape.count(None) == 0 or (shape.count(None) == 1 and divides(tensor.shape, shape)):
            return self.reshape(tensor, shape)
        return self.step("RESHAPE", [tensor, self.vector(extents)], shape, tensor.dtype)

    def bounded(self, tensor: Tensor) -> Tensor:
        """Integers as int32, those beyond it as its limits: a cast alone would wrap around."""
        if tensor.dtype == "int32":
            return tensor
        if tensor.data is not None:
            values = np.clip(tensor.data.astype(np.int64), _INT32.min, _INT32.max)
            return self.constant(values.astype(np.int32), "bounded")
        if tensor.dtype in {"int64", "uint32"}:
            wide = self.cast(tensor, "int64")
            tensor = self.minimum(self.maximum(wide, _INT32.min), _INT32.max)
        return self.cast(tensor, "int32")

    def from_the_front(self, indices: Tensor, extent: Extent) -> Tensor:
        """Indices that may be negative, counted from the front; those outside stay outside."""
        if indices.data is not None and not (indices.data < 0).any():
            return indices
        if isinstance(extent, int):
            if indices.data is not None:
                data = indices.data
                return self.constant(np.where(data < 0, data + extent, data).astype(data.dtype))
            end: Tensor | int = extent
        else:
            end = self.cast(extent, indices.dtype)
        behind = self.add(indices, end)
        if indices.data is not None and (indices.data < 0).all():
            return behind
        return self.select(self.less(indices, 0), behind, indices)
