"""Steps with numbers of 64 bits, for which LiteRT has few kernels: uint64, float64, quotients.

What has no kernel is computed exactly on the bits, as int64: an order that compares like the
numbers, halves of 32 bits, a quotient by long division in parts.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.lower.builder import RefusedNodeError
from edgekit_converters.litert.lower.size_steps import SizeSteps
from edgekit_converters.litert.lower.step_base import broadcast

if TYPE_CHECKING:
    from edgekit_converters.litert.lower.size_steps import Extent
    from edgekit_converters.litert.program import Tensor

_LEAST: Final = -(2**63)
_INFINITE_BITS: Final = 0x7FF0000000000000
# A quotient of 64 bits in parts of the 22 that survive two roundings to float32.
_QUOTIENT_PARTS: Final = 3
_STABLE: Final = {
    "ADD": "STABLEHLO_ADD",
    "MUL": "STABLEHLO_MULTIPLY",
    "MAXIMUM": "STABLEHLO_MAXIMUM",
    "MINIMUM": "STABLEHLO_MINIMUM",
    "AND": "STABLEHLO_AND",
}


class WideSteps(SizeSteps):
    """Numbers of 64 bits, and bits of integers."""

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        """The same numbers in another type; a constant is cast here and now.

        Raises:
            RefusedNodeError: Between uint64 and float64, for which nothing is exact.
        """
        pair = {tensor.dtype, dtype}
        if tensor.data is not None or "uint64" not in pair or len(pair) == 1:
            return super().cast(tensor, dtype)
        if "float64" in pair:
            raise RefusedNodeError(f"it casts {tensor.dtype} to {dtype}")
        if dtype == "uint64":
            return self.bits(self._to_unsigned(tensor), "uint64")
        return self._from_unsigned(self.bits(tensor, "int64"), dtype)

    def alike(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Two tensors repeated along axes of size one until both have one shape."""
        shape = broadcast(first.shape, second.shape)
        if first.shape == second.shape and None not in shape:
            return first, second
        extents: list[Extent] = []
        for position, size in enumerate(shape):
            extent: Extent | None = size
            for tensor in (first, second):
                axis = position - len(shape) + len(tensor.shape)
                if size is None and axis >= 0 and tensor.shape[axis] != 1:
                    own = self.extent(tensor, axis)
                    extent = own if extent is None else self._larger(extent, own)
            extents.append(1 if extent is None else extent)
        return self.widened(first, extents), self.widened(second, extents)

    def stable(self, code: str, first: Tensor, second: Tensor) -> Tensor:
        """ADD, MUL, MAXIMUM, MINIMUM or AND by the kernels that have every type.

        They take equal shapes alone, and read beyond the smaller one otherwise.
        """
        one, other = self.alike(first, second)
        return self.step(_STABLE[code], [one, other], one.shape, one.dtype)

    def order(self, tensor: Tensor) -> Tensor:
        """A number, float32, int32 or int64, that compares as an element does.

        NaN of float64 is beyond infinity; both of its zeros are zero.
        """
        if tensor.dtype == "uint64":
            return self.flipped(self.bits(tensor, "int64"))
        if tensor.dtype == "float64":
            bits = self.bits(tensor, "int64")
            if bits.data is not None:
                values = np.where(bits.data < 0, np.int64(_LEAST) - bits.data, bits.data)
                return self.constant(values, "order")
            return self.select(self.less(bits, 0), self.sub(_LEAST, bits), bits)
        return tensor

    def flipped(self, bits: Tensor) -> Tensor:
        """int64 with the uppermost bit turned over."""
        if bits.data is not None:
            return self.constant(bits.data ^ np.int64(_LEAST), "flipped")
        return self.add(bits, _LEAST)

    def is_nan(self, tensor: Tensor) -> Tensor:
        """Whether elements, float32 or float64, are no numbers."""
        if tensor.dtype != "float64":
            return self.not_equal(tensor, tensor)
        order = self.order(tensor)
        return self.logical_or(
            self.greater(order, _INFINITE_BITS), self.less(order, -_INFINITE_BITS)
        )

    def extreme(self, code: str, first: Tensor, second: Tensor) -> Tensor:
        """MAXIMUM or MINIMUM in every type; NaN where either is.

        Of two numbers one of which is NaN the kernels give the second, and those of XNNPACK the
        first where that is one number for many of the second's: it has to be checked.
        """
        if first.dtype in {"float64", "uint64"}:
            found = self.stable(code, first, second)
            if first.dtype == "uint64" or _is_number(second):
                return found
            return self.select(self.is_nan(second), second, found)
        if first.dtype != "float32":
            return self.binary(code, first, second)
        if _is_number(second):
            first, second = second, first
        one, other = _inner_sizes(first, second)
        lone = _is_number(first) and first.shape in {(), (1,)}
        if not lone and (one == 1 or (one is None and other != 1)):
            first, second = second, first
        found = self.binary(code, first, second)
        for operand, lost in ((first, True), (second, one is None and other is None)):
            if lost and not _is_number(operand):
                found = self.select(self.is_nan(operand), operand, found)
        return found

    def negative(self, tensor: Tensor) -> Tensor:
        """The negative of a number of any type; integers wrap around."""
        if tensor.dtype == "float64":
            return self.bits(self.flipped(self.bits(tensor, "int64")), "float64")
        return self.neg(tensor)

    def floor_rest(self, first: Tensor, second: Tensor) -> Tensor:
        """The rest of int32 or int64 that has the divisor's sign."""
        return self.floor_mod(first, self._without_minus_one(second))

    def cut_rest(self, first: Tensor, second: Tensor) -> Tensor:
        """The rest of int32 or int64 that has the dividend's sign."""
        rest = self.floor_rest(first, second)
        apart = self.not_equal(self.less(first, 0), self.less(second, 0))
        turned = self.logical_and(apart, self.not_equal(rest, 0))
        return self.select(turned, self.sub(rest, second), rest)

    def quotient(self, first: Tensor, second: Tensor) -> Tensor:
        """The quotient of int32, int64 or uint64, cut towards zero."""
        if first.dtype == "int32":
            return self.div(first, second)
        if first.dtype == "int64":
            return self._long_quotient(first, second)
        bits, divisor = self.bits(first, "int64"), self.bits(second, "int64")
        return self.bits(self._unsigned_quotient(bits, divisor), "uint64")

    def halves(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """The lower and the upper 32 bits of int64, as uint32."""
        pair = self.step("BITCAST", [tensor], (*tensor.shape, 2), "uint32")
        low, high = (self.squeeze(self.slice_axis(pair, -1, part, 1), -1) for part in (0, 1))
        return low, high

    def right_shift(self, tensor: Tensor, count: Tensor) -> Tensor:
        """Integers of at most 32 bits, shifted by less than they have bits."""
        return self.binary("RIGHT_SHIFT", tensor, count)

    def _larger(self, first: Extent, second: Extent) -> Extent:
        return self.maximum(self.scalar(first), self.scalar(second))

    def _to_unsigned(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != "float32":
            return self.cast(tensor, "int64")
        # The cast ends at the largest int64.
        upper = self.flipped(self.cast(self.add(tensor, float(_LEAST)), "int64"))
        lower = self.cast(tensor, "int64")
        return self.select(self.greater_equal(tensor, -float(_LEAST)), upper, lower)

    def _from_unsigned(self, bits: Tensor, dtype: str) -> Tensor:
        if dtype == "bool":
            return self.not_equal(bits, 0)
        if dtype not in {"float16", "float32"}:
            return self.cast(bits, dtype)
        # Of a number with its uppermost bit set, float32 keeps less than the upper 48: of the rest
        # it matters only whether there is any.
        low, high = self.halves(bits)
        upper = self.mul(self.cast(high, "int64"), 2**16)
        upper = self.add(
            upper, self.cast(self.right_shift(low, self.number(16, "uint32")), "int64")
        )
        rest = self.floor_mod(self.cast(low, "int64"), 2**16)
        sticky = self.cast(self.not_equal(rest, 0), "int64")
        rounded = self.cast(self.add(self.mul(upper, 2), sticky), "float32")
        large = self.mul(rounded, float(2**15))
        return self.cast(self.select(self.less(bits, 0), large, self.cast(bits, "float32")), dtype)

    def _without_minus_one(self, divisor: Tensor) -> Tensor:
        """Divisors that give the same rest; x86 stops at the least integer over -1."""
        if divisor.data is not None:
            values = np.where(divisor.data == -1, 1, divisor.data).astype(divisor.dtype)
            return self.constant(values, "divisor")
        return self.select(self.equal(divisor, -1), 1, divisor)

    def _long_quotient(self, first: Tensor, second: Tensor) -> Tensor:
        rest = self.sub(first, self.cut_rest(first, second))
        total = self._part_of_quotient(rest, second)
        for _ in range(_QUOTIENT_PARTS - 1):
            left = self.sub(rest, self.mul(total, second))
            total = self.add(total, self._part_of_quotient(left, second))
        return total

    def _part_of_quotient(self, first: Tensor, second: Tensor) -> Tensor:
        ratio = self.div(self.cast(first, "float32"), self.cast(second, "float32"))
        return self.cast(self.round(ratio), "int64")

    def _unsigned_quotient(self, bits: Tensor, divisor: Tensor) -> Tensor:
        """Half of the dividend is an int64, unless the divisor is larger than all of those."""
        large = self.less(divisor, 0)
        small = self.select(large, 1, divisor)
        low, high = self.halves(bits)
        half = self.add(
            self.mul(self.cast(high, "int64"), 2**31),
            self.cast(self.right_shift(low, self.number(1, "uint32")), "int64"),
        )
        twice = self.mul(self._long_quotient(half, small), 2)
        rest = self.sub(bits, self.mul(twice, small))
        once = self.cast(self.greater_equal(self.flipped(rest), self.flipped(small)), "int64")
        fits = self.greater_equal(self.flipped(bits), self.flipped(divisor))
        return self.select(large, self.cast(fits, "int64"), self.add(twice, once))


def _is_number(tensor: Tensor) -> bool:
    """Whether a tensor is constant, without NaN."""
    return tensor.data is not None and not np.isnan(tensor.data).any()


def _inner_sizes(first: Tensor, second: Tensor) -> tuple[int | None, int | None]:
    """The sizes of both along the last axis that is not of size one in both."""
    for one, other in zip_longest(reversed(first.shape), reversed(second.shape), fillvalue=1):
        if (one, other) != (1, 1):
            return one, other
    return 1, 1
