"""How far one array is from another that should be the same.

- Both have the same shape and element type.
- Floats: NaN stands where it is expected, and nowhere else; infinities are the same ones. What is
  finite may differ by a tolerance, relative to the largest magnitude of all that is expected, in
  half precision by eight units in the last place. A NaN or an infinity where the other has a
  number is an infinite error.
- Whole numbers and booleans are equal, each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_runtime.engines.checks import describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Values below this are noise: an error is judged against at least this magnitude.
_LEAST_MAGNITUDE: Final = 1e-6
# So that comparing large values takes little memory beside them.
_BLOCK_ELEMENTS: Final = 1 << 18
# One unit in the last place of types in which the usual tolerance is less than that.
_COARSE: Final = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_LAST_BITS_ALLOWED: Final = 8.0
# numpy's own floats, complex numbers, and the small floats that it has from elsewhere.
FLOAT_KINDS: Final = "fcV"


def allowed_error(dtype: str, tolerance: float) -> float:
    """The tolerance for values of a type: in half precision, some of the last bits are noise."""
    return max(tolerance, _LAST_BITS_ALLOWED * _COARSE.get(dtype, 0.0))


def relative_error(expected: NDArray[np.generic], computed: NDArray[np.generic]) -> float:
    """The largest difference over the largest magnitude; infinite where they cannot be the same."""
    return difference(expected, computed).relative


@dataclass(frozen=True, slots=True)
class Difference:
    """How two arrays differ.

    Attributes:
        absolute: The largest difference of two elements.
        relative: The same over the largest magnitude of what is expected, or infinity.
        signal: The energy of what is expected.
        noise: The energy of the difference.
        fault: In words, where the arrays cannot be the same.
    """

    absolute: float = 0.0
    relative: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    fault: str = ""


def difference(
    expected: NDArray[np.generic], computed: NDArray[np.generic], *, lenient: bool = False
) -> Difference:
    """How far `computed` is from `expected`, as this module defines it.

    Args:
        expected: What is right.
        computed: What is judged.
        lenient: Let anything stand where what is right is NaN or infinite.
    """
    fault = kind_fault(expected, computed)
    if fault:
        return Difference(math.inf, math.inf, 0.0, math.inf, fault)
    if expected.dtype.kind not in FLOAT_KINDS:
        return _exact_difference(expected, computed)
    flat = expected.reshape(-1), computed.reshape(-1)
    parts = [
        _float_difference(
            *(_numbers(array[start : start + _BLOCK_ELEMENTS]) for array in flat), lenient=lenient
        )
        for start in range(0, expected.size, _BLOCK_ELEMENTS)
    ]
    fault = next((part.fault for part in parts if part.fault), "")
    if fault:
        return Difference(math.inf, math.inf, 0.0, math.inf, fault)
    largest = max((part.absolute for part in parts), default=0.0)
    magnitude = max((part.magnitude for part in parts), default=0.0)
    return Difference(
        largest,
        largest / max(magnitude, _LEAST_MAGNITUDE),
        sum(part.signal for part in parts),
        sum(part.noise for part in parts),
    )


def kind_fault(expected: NDArray[np.generic], computed: NDArray[np.generic]) -> str:
    """What is wrong with the shape or type of an array, "" if nothing."""
    if expected.shape != computed.shape:
        return f"has shape {describe(computed.shape)}, the source's has {describe(expected.shape)},"
    if expected.dtype != computed.dtype:
        return f"is {computed.dtype.name}, the source's is {expected.dtype.name},"
    return ""


def _exact_difference(expected: NDArray[np.generic], computed: NDArray[np.generic]) -> Difference:
    differ = expected != computed
    count = int(differ.sum())
    if not count:
        return Difference()
    if expected.dtype.kind in "biu":
        # As float64: the difference of two int64 may have no place in an int64.
        apart = np.abs(expected[differ].astype(np.float64) - computed[differ].astype(np.float64))
        largest = max(float(apart.max()), 1.0)
    else:
        largest = math.inf
    fault = f"differs in {count} of {differ.size} elements, which must be equal,"
    return Difference(largest, math.inf, 0.0, math.inf, fault)


def _numbers(array: NDArray[np.generic]) -> NDArray[np.float64]:
    """Elements as numbers; complex ones as two numbers."""
    if array.dtype.kind == "c":
        return np.ascontiguousarray(array, dtype=np.complex128).view(np.float64)
    return array.astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A part of a comparison; see `Difference`. The magnitude is that of what is expected."""

    absolute: float = 0.0
    magnitude: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    fault: str = ""


def _float_difference(
    reference: NDArray[np.float64], values: NDArray[np.float64], *, lenient: bool
) -> _Block:
    finite = np.isfinite(reference)
    if lenient:
        reference, values = reference[finite], values[finite]
        finite = finite[finite]
        if not reference.size:
            return _Block()
    if not (finite.all() and np.isfinite(values).all()):
        fault = _special_fault(reference, values, finite)
        if fault:
            return _Block(fault=fault)
        reference, values = reference[finite], values[finite]
        if not reference.size:
            return _Block()
    apart = values - reference
    return _Block(
        absolute=float(np.abs(apart).max()),
        magnitude=float(np.abs(reference).max()),
        # Not a dot product, for which BLAS would wake threads of its own.
        signal=float(np.square(reference).sum()),
        noise=float(np.square(apart).sum()),
    )


def _special_fault(
    reference: NDArray[np.float64], values: NDArray[np.float64], finite: NDArray[np.bool_]
) -> str:
    """Whether NaN and infinity stand in other places."""
    missing = np.isnan(reference)
    if (np.isnan(values) & ~missing).any():
        return "has NaN where the source has numbers,"
    if (missing & ~np.isnan(values)).any():
        return "has numbers where the source has NaN,"
    infinite = ~missing & (~finite | np.isinf(values))
    if (infinite & (values != reference)).any():
        return "has an infinity where the source has a number, or the other way round,"
    return ""
