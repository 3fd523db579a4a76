"""What is kept of a value while a model runs over data, whatever runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.quantize.plan import Range
from edgekit_converters.ranges.histogram import Histogram
from edgekit_converters.ranges.statistics import RangeStatistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: How many values of a sample go into the histogram at most.
DRAWN_PER_SAMPLE: Final = 4096
# Until there are ten batches they weigh the same; then the latest has a tenth.
_LATEST_SHARE: Final = 0.1


class Observer:
    """What has been seen of one value so far."""

    def __init__(
        self, channel_axis: int | None = None, importance: NDArray[np.float64] | None = None
    ) -> None:
        """Begin with nothing seen.

        Args:
            channel_axis: Along which there is a figure for each index; None: one for all.
            importance: See `RangeStatistics`.
        """
        self._axis = channel_axis
        self._importance = importance
        self._low: NDArray[np.float32] = np.array([], np.float32)
        self._high: NDArray[np.float32] = np.array([], np.float32)
        self._mean: NDArray[np.float64] = np.array([], np.float64)
        self._average = np.zeros(2)
        self._histogram = Histogram.of(np.array([], np.float32))
        self._finite = True
        self.batches = 0

    def see(self, low: Any, high: Any, mean: Any, part: NDArray[np.float32]) -> None:
        """Take in one batch.

        Args:
            low: The least value, or one a channel.
            high: The largest.
            mean: The mean.
            part: Values drawn evenly from the batch, `DRAWN_PER_SAMPLE` of a sample or fewer.
        """
        if not part.size:
            return
        seen = Histogram.of(part)
        self._histogram = self._histogram.merged(seen)
        low, high = np.atleast_1d(low), np.atleast_1d(high)
        mean = np.atleast_1d(mean).astype(np.float64)
        if not (np.isfinite(mean).all() and np.isfinite(low).all() and np.isfinite(high).all()):
            # The engine's extremes skip NaN, or are NaN where it comes first; its means do not.
            self._finite = False
            low, high = (np.where(np.isfinite(ends), ends, np.nan) for ends in (low, high))
        extremes = np.array(_extremes(low, high, seen))
        self.batches += 1
        if self.batches == 1:
            self._low, self._high, self._mean, self._average = low, high, mean, extremes
            return
        self._low, self._high = np.fmin(low, self._low), np.fmax(high, self._high)
        self._mean = self._mean + (mean - self._mean) / self.batches
        share = max(1 / self.batches, _LATEST_SHARE)
        self._average = self._average + share * (extremes - self._average)

    def statistics(self) -> RangeStatistics:
        """What was seen; at least one batch was."""
        low, high = _extremes(self._low, self._high, self._histogram)
        average_low, average_high = np.clip(self._average, low, high).tolist()
        return RangeStatistics(
            low=low,
            high=high,
            average=Range(low=average_low, high=average_high),
            channel_axis=self._axis,
            channel_low=np.where(np.isnan(self._low), np.float32(low), self._low),
            channel_high=np.where(np.isnan(self._high), np.float32(high), self._high),
            channel_mean=self._mean,
            histogram=self._histogram,
            finite=self._finite,
            batches=self.batches,
            importance=self._importance,
        )


def _extremes(
    low: NDArray[np.float32], high: NDArray[np.float32], drawn: Histogram
) -> tuple[float, float]:
    """The least and the largest finite value; from those drawn where a channel's are not known."""
    lows, highs = low[~np.isnan(low)].tolist(), high[~np.isnan(high)].tolist()
    if len(lows) < len(low) or len(highs) < len(high):
        bins = drawn.bins()
        lows, highs = [*lows, *bins.low[:1].tolist()], [*highs, *bins.high[-1:].tolist()]
    least, largest = min(lows, default=0.0), max(highs, default=0.0)
    return min(least, largest), max(least, largest)
