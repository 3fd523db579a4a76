"""What a vector kernel costs on a small 64-bit ARM core: where the fit of prices starts from.

Only the ratios between these matter; every board finds its own level. They say, roughly: four
multiply-accumulates a cycle at 1.5 to 2 GHz, four fifths of them used; a depthwise window costs
three times as much for a product; a number read from or written to memory costs as much as six
products; an exponential as 25; a call ten microseconds, and more with threads to wake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_benchmarks.features import FEATURES

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NANOSECONDS: Final = {
    "product_macs": 0.18,
    "winograd_macs": 0.18,
    "winograd_elements": 2.0,
    "unfolded_elements": 0.8,
    "depthwise_macs": 0.5,
    "grouped_macs": 0.2,
    "product_input_elements": 1.0,
    "product_output_elements": 1.0,
    "depthwise_elements": 0.7,
    "weight_elements": 1.0,
    "other_elements": 1.0,
    "exponential_elements": 4.0,
    "operators": 10_000.0,
    "far_elements": 0.5,
    "moved_elements": 1.0,
    "normalized_elements": 25.0,
}
# Half the width: twice as many in a register, and half the bytes.
_NARROWER: Final = {"float32": 1.0, "float16": 0.45, "int8": 0.5}
# Products share out over threads; memory less so, and it has to be read all the same; waking
# threads costs.
_THREADED: Final = {
    "product_macs": 1 / 3.2,
    "winograd_macs": 1 / 3.2,
    "depthwise_macs": 1 / 3.2,
    "grouped_macs": 1 / 3.2,
    "exponential_elements": 1 / 3.2,
    "normalized_elements": 1 / 3.2,
    "weight_elements": 1 / 1.3,
    "operators": 2.5,
}
_THREADED_MEMORY: Final = 1 / 2
# TFLite's kernels work in blocks that fit the cache.
_BLOCKED_FAR: Final = 0.4


def starting_prices(*, dtype: str, threaded: bool, blocked: bool = False) -> NDArray[np.float64]:
    """Logarithms of milliseconds for a unit of each feature."""
    prices = []
    for name in FEATURES:
        price = _NANOSECONDS[name]
        if name != "operators":
            price *= _NARROWER[dtype]
        if threaded:
            price *= _THREADED.get(name, _THREADED_MEMORY)
        if blocked and name == "far_elements":
            price *= _BLOCKED_FAR
        prices.append(price * 1e-6)
    logarithms: NDArray[np.float64] = np.log(prices)
    return logarithms
