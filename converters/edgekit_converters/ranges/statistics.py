"""What was seen of one value of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.quantize.plan import Range
from edgekit_converters.ranges.method import (
    PERCENTILE,
    STEPS,
    Channels,
    RangeMethod,
    entropy_range,
    error_range,
    percentile_range,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.ranges.histogram import Bins, Histogram


_FINE_STEPS: Final = 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeStatistics:
    """The values of one tensor, over all samples.

    Attributes:
        low: The least finite value of all.
        high: The largest.
        average: The extremes of a batch, averaged with more weight on the latest.
        channel_axis: Along which the per-channel figures are; None where they are for the whole
            tensor and have one entry.
        channel_low: The least finite value of each channel.
        channel_high: The largest.
        channel_mean: The mean; NaN where a channel had values that are not finite.
        histogram: Of values drawn evenly from each batch, up to 4096 a sample.
        finite: Whether all values were, those included that were not drawn.
        batches: How many batches held any value.
        importance: How much an error in each channel weighs in the layers that read it, 1 on
            average; None where that is not known.
    """

    low: float
    high: float
    average: Range
    channel_axis: int | None
    channel_low: NDArray[np.float32]
    channel_high: NDArray[np.float32]
    channel_mean: NDArray[np.float64]
    histogram: Histogram
    finite: bool
    batches: int
    importance: NDArray[np.float64] | None = None

    def range(
        self, method: RangeMethod, *, percentile: float = PERCENTILE, steps: int = STEPS
    ) -> Range:
        """The range that a method chooses; it never goes beyond the extremes.

        Args:
            method: How to choose.
            percentile: What the method of that name keeps, in per cent.
            steps: Intervals between neighbouring integers: 255 for 8 bits. With 16 bits rounding
                costs so little that what loses the least clips nothing.
        """
        full = Range(low=self.low, high=self.high)
        fine = steps >= _FINE_STEPS and method in {RangeMethod.ENTROPY, RangeMethod.MSE}
        if method is RangeMethod.MIN_MAX or fine:
            return full
        if method is RangeMethod.MOVING_AVERAGE:
            return self.average
        bins = self.bins()
        if not bins.counts.size:
            return full
        if method is RangeMethod.PERCENTILE:
            return percentile_range(bins, percentile)
        if method is RangeMethod.ENTROPY:
            return entropy_range(bins, full, steps)
        return error_range(bins, full, steps, self._channels())

    def _channels(self) -> Channels | None:
        if self.importance is None:
            return None
        return Channels(low=self.channel_low, high=self.channel_high, importance=self.importance)

    def bins(self) -> Bins:
        """The histogram's bins, ascending, none beyond the extremes."""
        return self.histogram.bins().within(self.low, self.high)

    def saturation(self, kept: Range) -> float:
        """The share of the values, 0 to 1, that a range clips."""
        bins = self.bins()
        if not bins.counts.size:
            return 0.0
        outside = (bins.centre < kept.low) | (bins.centre > kept.high)
        return float(bins.counts[outside].sum() / bins.counts.sum())
