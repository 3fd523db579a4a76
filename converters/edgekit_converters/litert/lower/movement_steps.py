"""Steps that move elements without computing with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import identity
from edgekit_converters.litert.lower.bit_steps import BitSteps
from edgekit_converters.litert.lower.builder import RefusedNodeError
from edgekit_converters.litert.program import Tensor

if TYPE_CHECKING:
    from edgekit_converters.graph import Shape

Sizes = Sequence[int] | Tensor


class MovementSteps(BitSteps):
    """Shapes, slices, gathers, joins."""

    def reshape(self, tensor: Tensor, shape: Shape) -> Tensor:
        """The same elements in another shape, at most one axis of which may be free."""
        return self.build.reshape(tensor, shape, name=f"{self.prefix}/reshape")

    def reshape_to(self, tensor: Tensor, sizes: Tensor, shape: Shape) -> Tensor:
        """The same elements in a shape that is computed; `shape` is what is known about it."""
        return self.step("RESHAPE", [tensor, sizes], shape, tensor.dtype)

    def flatten(self, tensor: Tensor) -> Tensor:
        """All elements along one axis."""
        total = None if None in tensor.shape else math.prod(s or 0 for s in tensor.shape)
        return self.reshape(tensor, (total,))

    def expand_dims(self, tensor: Tensor, axis: int) -> Tensor:
        """A new axis of size one; of a negative `axis`, counted in the result."""
        at = axis % (len(tensor.shape) + 1)
        shape = (*tensor.shape[:at], 1, *tensor.shape[at:])
        if shape.count(None) <= 1:
            return self.reshape(tensor, shape)
        return self.step("EXPAND_DIMS", [tensor, self.integers(at)], shape, tensor.dtype)

    def squeeze(self, tensor: Tensor, *axes: int) -> Tensor:
        """Without these axes, which are of size one."""
        gone = sorted(axis % len(tensor.shape) for axis in axes)
        shape = tuple(size for at, size in enumerate(tensor.shape) if at not in gone)
        if shape.count(None) <= 1:
            return self.reshape(tensor, shape)
        return self.step("SQUEEZE", [tensor], shape, tensor.dtype, squeezeDims=gone)

    def transpose(self, tensor: Tensor, order: Sequence[int]) -> Tensor:
        """The axes in another order."""
        return self.build.transpose(tensor, tuple(order), name=f"{self.prefix}/transpose")

    def move_axis(self, tensor: Tensor, source: int, target: int) -> Tensor:
        """One axis in another place, the others in their order."""
        rank = len(tensor.shape)
        order = [axis for axis in range(rank) if axis != source % rank]
        order.insert(target % rank, source % rank)
        return self.transpose(tensor, order)

    def concat(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Joined along an axis."""
        if len(tensors) == 1:
            return tensors[0]
        first = tensors[0]
        at = axis % len(first.shape)
        sizes = [tensor.shape[at] for tensor in tensors]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        shape = tuple(
            total
            if position == at
            else next((t.shape[position] for t in tensors if t.shape[position] is not None), None)
            for position in range(len(first.shape))
        )
        return self.move(
            "CONCATENATION", tensors, shape, moved=range(len(tensors)),
            axis=at, fusedActivationFunction="NONE",
        )  # fmt: skip

    def stack(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Joined along a new axis."""
        first = tensors[0]
        at = axis % (len(first.shape) + 1)
        shape = (*first.shape[:at], len(tensors), *first.shape[at:])
        moved = range(len(tensors))
        return self.move("PACK", tensors, shape, moved=moved, valuesCount=len(tensors), axis=at)

    def split(self, tensor: Tensor, sizes: Sequence[int], axis: int) -> list[Tensor]:
        """Cut along an axis into parts of these sizes."""
        at = axis % len(tensor.shape)
        outputs = [(*tensor.shape[:at], size, *tensor.shape[at + 1 :]) for size in sizes]
        inputs = [tensor, self.integers(list(sizes)), self.integers(at)]
        return self.move_apart("SPLIT_V", inputs, outputs, 0, numSplits=len(sizes))

    def slice(self, tensor: Tensor, begin: Sequence[int], size: Sequence[int]) -> Tensor:
        """A block: where it begins, and its size, -1 for the rest of an axis."""
        shape = tuple(
            (None if whole is None else whole - first) if length == -1 else length
            for whole, first, length in zip(tensor.shape, begin, size, strict=True)
        )
        if (
            not any(begin)
            and shape == tensor.shape
            and all(length in {-1, whole} for length, whole in zip(size, tensor.shape, strict=True))
        ):
            return tensor
        if tensor.data is not None:
            cut = zip(begin, shape, strict=True)
            block = tensor.data[tuple(slice(at, at + (length or 0)) for at, length in cut)]
            return self.constant(np.ascontiguousarray(block), "slice")
        inputs = [tensor, self.integers(list(begin), "begin"), self.integers(list(size), "size")]
        return self.step("SLICE", inputs, shape, tensor.dtype)

    def slice_axis(self, tensor: Tensor, axis: int, begin: int, size: int = -1) -> Tensor:
        """A block of one axis, of the others everything."""
        rank = len(tensor.shape)
        begins, sizes = [0] * rank, [-1] * rank
        begins[axis % rank], sizes[axis % rank] = begin, size
        return self.slice(tensor, begins, sizes)

    def strided_slice(
        self, tensor: Tensor, begin: Sizes, end: Sizes, strides: Sizes, shape: Shape,
        **masks: int,
    ) -> Tensor:  # fmt: skip
        """LiteRT's STRIDED_SLICE; `shape` is what is known about the result."""
        bounds = [
            sizes if isinstance(sizes, Tensor) else self.integers(list(sizes), role)
            for sizes, role in ((begin, "begin"), (end, "end"), (strides, "strides"))
        ]
        return self.step("STRIDED_SLICE", [tensor, *bounds], shape, tensor.dtype, **masks)

    def reverse(self, tensor: Tensor, axis: int) -> Tensor:
        """Backwards along an axis."""
        axes = self.integers([axis % len(tensor.shape)], "axis")
        return self.move("REVERSE_V2", [tensor, axes], tensor.shape)

    def gather(self, tensor: Tensor, indices: Tensor, axis: int, batch_dims: int = 0) -> Tensor:
        """Slices of an axis, chosen by indices that are not negative."""
        at = axis % len(tensor.shape)
        if tensor.data is not None and indices.data is not None and not batch_dims:
            return self.constant(np.asarray(np.take(tensor.data, indices.data, at)), "gather")
        shape = (*tensor.shape[:at], *indices.shape[batch_dims:], *tensor.shape[at + 1 :])
        return self.move("GATHER", [tensor, indices], shape, axis=at, batchDims=batch_dims)

    def gather_nd(self, tensor: Tensor, indices: Tensor) -> Tensor:
        """Slices chosen by tuples of indices, which are the last axis of `indices`."""
        depth = indices.shape[-1]
        if depth is None:
            raise RefusedNodeError("the number of indices a slice is free")
        shape = (*indices.shape[:-1], *tensor.shape[depth:])
        return self.move("GATHER_ND", [tensor, indices], shape)

    def where(self, mask: Tensor) -> Tensor:
        """The coordinates of what is true or not zero, int64, a row for each."""
        return self.step("WHERE", [mask], (None, len(mask.shape)), "int64")

    def tile(self, tensor: Tensor, multiples: Sequence[int]) -> Tensor:
        """Repeated along every axis."""
        shape = tuple(
            None if size is None else size * count
            for size, count in zip(tensor.shape, multiples, strict=True)
        )
        if all(count == 1 for count in multiples):
            return tensor
        return self.step(
            "TILE", [tensor, self.integers(list(multiples), "multiples")], shape, tensor.dtype
        )

    def broadcast_to(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """Repeated along axes of size one, up to a known shape."""
        if tensor.shape == tuple(shape):
            return tensor
        inputs = [tensor, self.integers(list(shape), "shape")]
        return self.step("BROADCAST_TO", inputs, tuple(shape), tensor.dtype)

    def pad(self, tensor: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
        """With cells of one value in front of and behind every axis."""
        if not any(front or back for front, back in pads):
            return tensor
        shape = tuple(
            None if size is None else size + front + back
            for size, (front, back) in zip(tensor.shape, pads, strict=True)
        )
        if tensor.data is not None:
            return self.constant(np.pad(tensor.data, pads, constant_values=value), "pad")
        inputs = [tensor, self.integers([list(pair) for pair in pads], "paddings")]
        if value == 0:
            return self.move("PAD", inputs, shape)
        fill = self.constant(np.array([value], dtype=tensor.dtype), "fill")
        return self.move("PADV2", [*inputs, fill], shape, moved=(0, 2))

    def shape_of(self, tensor: Tensor) -> Tensor:
        """The sizes of all axes, int32."""
        if None not in tensor.shape:
            return self.integers(tensor.shape, "shape")
        return self.step("SHAPE", [tensor], (len(tensor.shape),), "int32", outType="int32")

    def fill(self, sizes: Tensor, value: Tensor, shape: Shape) -> Tensor:
        """A tensor of computed sizes, of one value."""
        return self.step("FILL", [sizes, value], shape, value.dtype)

    def like(self, tensor: Tensor, value: float, dtype: str = "") -> Tensor:
        """A tensor of the same shape, of one value."""
        dtype = dtype or tensor.dtype
        if None not in tensor.shape:
            sizes = [size or 0 for size in tensor.shape]
            return self.constant(np.full(sizes, value, dtype=dtype), "filled")
        return self.fill(self.shape_of(tensor), self.number(value, dtype), tensor.shape)

    def in_onnx_order(self, position: int) -> Tensor:
        """An input of the node in ONNX's order of axes, whatever order the node works in."""
        rank = len(self.build.shape(self.node.input(position)))
        return self.build.input(self.node, position, order=identity(rank))

    def stored(self, tensor: Tensor) -> Tensor:
        """A tensor in ONNX's order of axes, put into the order that the output is stored in."""
        order = self.build.layout.stored
        return self.transpose(tensor, order) if len(order) == len(tensor.shape) else tensor
