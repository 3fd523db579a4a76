"""How much of a value is noise, in a sample that is worse than most."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What is told of an error that is none.
MOST_DB: Final = 120.0
#: Of the samples, in percent, are at least as good as the figure says.
MOST_SAMPLES: Final = 90.0


class NoiseRatio:
    """The signal to noise of each sample, and the figure that most samples keep.

    The squares of all samples together would tell of the largest alone: one outlier has more power
    than all others, hides what happens to them, and counts for all of them where it is cut off.
    """

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._samples: list[float] = []
        self._silent_noise = 0.0

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
        shown = signals > 0
        self._samples += (noises[shown] / signals[shown]).tolist()
        # A sample without any signal has no ratio.
        self._silent_noise += float(noises[~shown].sum())

    @property
    def decibels(self) -> float:
        """What nine samples in ten reach, between plus and minus `MOST_DB`."""
        if not self._samples:
            return decibels(0.0, self._silent_noise)
        worst = np.percentile(self._samples, MOST_SAMPLES, method="lower")
        return decibels(1.0, float(worst))


def decibels(signal: float, noise: float) -> float:
    """The signal-to-quantization-noise ratio, between plus and minus `MOST_DB`."""
    if not math.isfinite(noise):
        return -MOST_DB
    if noise <= 0:
        return MOST_DB
    if signal <= 0:
        return -MOST_DB
    return min(max(10 * math.log10(signal / noise), -MOST_DB), MOST_DB)
