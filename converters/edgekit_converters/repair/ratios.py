"""How much of a value is noise: over all samples, and of a typical one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What is told of an error that is none.
MOST_DB: Final = 120.0


class NoiseRatio:
    """The squares of a value and of its error, batch by batch.

    Two figures are kept, for either alone can hide a fault: one sample with an outlier has more
    power than all others together, and errors in a few samples are none of a typical one.
    """

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._signal = self._noise = 0.0
        self._samples: list[float] = []

    def add(self, expected: NDArray[Any], computed: NDArray[Any]) -> None:
        """Take in a batch; samples are along the first axis, where there is one.

        What is not finite in the expected values does not count.
        """
        finite = np.isfinite(expected)
        wanted = np.where(finite, expected, 0.0).astype(np.float64)
        wrong = np.where(finite, computed, 0.0).astype(np.float64) - wanted
        rows = (len(wanted), -1) if wanted.ndim and wanted.size else (1, -1)
        signals = np.square(wanted).reshape(rows).sum(axis=1)
        noises = np.square(wrong).reshape(rows).sum(axis=1)
        self._signal += float(signals.sum())
        self._noise += float(noises.sum())
        # A sample without any signal has no ratio.
        shown = signals > 0
        self._samples += (noises[shown] / signals[shown]).tolist()

    @property
    def decibels(self) -> float:
        """The ratio of signal to noise, the worse of the two, between plus and minus `MOST_DB`."""
        whole = decibels(self._signal, self._noise)
        if not self._samples:
            return whole
        return min(whole, decibels(1.0, float(np.median(self._samples))))


def decibels(signal: float, noise: float) -> float:
    """The signal-to-quantization-noise ratio, between plus and minus `MOST_DB`."""
    if not math.isfinite(noise):
        return -MOST_DB
    if noise <= 0:
        return MOST_DB
    if signal <= 0:
        return -MOST_DB
    return min(max(10 * math.log10(signal / noise), -MOST_DB), MOST_DB)
