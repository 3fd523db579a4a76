"""What float16 can hold, and what of a tensor it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# IEEE 754 binary16.
LARGEST: Final = 65504.0
SMALLEST: Final = 2.0**-24
SMALLEST_NORMAL: Final = 2.0**-14


def misfit(values: NDArray[Any]) -> str:
    """Why a tensor of floats loses its meaning in float16, or empty text.

    That is a finite number beyond float16's range; or a tensor of tiny numbers, such as the
    epsilon under a root, of which some would become zero. A few tiny numbers among others of
    ordinary size are rounded, as everything is.
    """
    finite = np.abs(values[np.isfinite(values)])
    if not finite.size:
        return ""
    largest = float(finite.max())
    if largest > LARGEST:
        return f"its largest value, {largest:.6g}, is beyond float16's {LARGEST:g}"
    least = float(finite[finite > 0].min(initial=np.inf))
    if largest < SMALLEST_NORMAL and least <= SMALLEST / 2:
        return f"its smallest value, {least:.3g}, would become zero in float16"
    return ""
