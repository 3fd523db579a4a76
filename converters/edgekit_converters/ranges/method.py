"""From the values that were seen to the range that is kept: what lies outside is clipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.quantize.plan import Range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.ranges.histogram import Bins

#: Intervals between neighbouring integers of an 8-bit activation.
STEPS: Final = 255
#: In percent of all values; what it cuts off is shared by the two ends.
PERCENTILE: Final = 99.99

_OCTAVE_PARTS: Final = 8
_FINE_PARTS: Final = 32
# Clipping more than half of the values other than zero never pays.
_LEAST_KEPT: Final = 0.5
_SIDE_ROUNDS: Final = 2
# Points per step at which the error is taken.
_POINTS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """The channels of a value, to tell whose values are clipped.

    Attributes:
        low: The least value of each.
        high: The largest.
        importance: How much an error in each weighs, 1 on average.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    importance: NDArray[np.float64]

    def beyond(self, first: float, last: float) -> tuple[float, float]:
        """How much an error weighs in the channels that reach below and above a range."""
        return (
            self._weigh(first - self.low.astype(np.float64)),
            self._weigh(self.high.astype(np.float64) - last),
        )

    def _weigh(self, excess: NDArray[np.float64]) -> float:
        squares = np.square(np.maximum(excess, 0.0))
        return float(squares @ self.importance / squares.sum()) if squares.any() else 1.0


class RangeMethod(StrEnum):
    """How a range is chosen from the values that were seen."""

    MIN_MAX = "min-max"
    """The extremes: nothing that was seen is clipped."""
    MOVING_AVERAGE = "moving-average"
    """The extremes of a typical batch, averaged over batches, the latest ones weighing more."""
    PERCENTILE = "percentile"
    """All but the outermost share of the values."""
    ENTROPY = "entropy"
    """The clipping that loses the least information (Kullback-Leibler divergence)."""
    MSE = "mse"
    """The clipping with the least squared error, of clipped and of rounded values together, each
    channel's error weighed by what the next layer makes of it."""


#: What is chosen where nobody asks for another: over the models of docs/quantization.md it keeps
#: the most of the answers, with any samples that it is given.
DEFAULT_METHOD: Final = RangeMethod.MSE


def percentile_range(bins: Bins, percentile: float = PERCENTILE) -> Range:
    """Leave out the outermost values, half of them at each end.

    Args:
        bins: At least one.
        percentile: The share that is kept, above 0 and up to 100.
    """
    if not 0 < percentile <= 100:  # noqa: PLR2004 - per cent
        raise ValueError(f"not a percentile: {percentile}")
    cut = (1 - percentile / 100) / 2
    low, high = bins.quantile(cut), bins.quantile(1 - cut)
    return Range(low=min(low, high), high=max(low, high))


def entropy_range(bins: Bins, full: Range, steps: int = STEPS) -> Range:
    """The threshold, the same at both ends, that keeps the most of the distribution.

    As in S. Migacz, "8-bit Inference with TensorRT" (2017): values beyond the threshold count as
    lying at it, the quantized distribution is flat within a step, and zeros are left out. The
    divergence is taken over the histogram's own bins, the same for all thresholds.

    Args:
        bins: Of the values.
        full: Their extremes.
        steps: Intervals between the integers.
    """
    values = bins.without_zero()
    if not values.counts.size:
        return full
    return _best_threshold(values, full, lambda tried: _divergence(values, tried, steps))


def error_range(
    bins: Bins, full: Range, steps: int = STEPS, channels: Channels | None = None
) -> Range:
    """The range with the least squared error: a threshold first, then each end by itself.

    Args:
        bins: Of the values.
        full: Their extremes.
        steps: Intervals between the integers.
        channels: What is known of the values' channels; None: they all weigh the same.
    """
    values = bins.without_zero()
    if not values.counts.size:
        return full
    error = _SquaredError(values, steps, channels)
    best = _best_threshold(values, full, error)
    for _ in range(_SIDE_ROUNDS):
        best = min(_other_highs(best, full), key=error)
        best = min(_other_lows(best, full), key=error)
    return best


def _best_threshold(values: Bins, full: Range, cost: Callable[[Range], float]) -> Range:
    largest = max(abs(full.low), abs(full.high))
    median = _median_magnitude(values)
    coarse = largest * 2.0 ** (-np.arange(0, 128 * _OCTAVE_PARTS) / _OCTAVE_PARTS)
    tried = coarse[(coarse >= median) | (coarse == largest)]
    costs = [cost(_cut(full, threshold)) for threshold in tried]
    best = float(tried[int(np.argmin(costs))])
    span = _FINE_PARTS // _OCTAVE_PARTS
    finer = best * 2.0 ** (np.arange(-span + 1, span) / _FINE_PARTS)
    ranges = [_cut(full, best), *(_cut(full, min(float(at), largest)) for at in finer)]
    return min(ranges, key=cost)


def _cut(full: Range, threshold: float) -> Range:
    # An end on the wrong side of zero stays what it is: the integers hold zero anyhow.
    low, high = max(full.low, -threshold), min(full.high, threshold)
    return Range(low=min(low, high), high=max(low, high))


def _other_highs(best: Range, full: Range) -> Iterator[Range]:
    yield best
    if best.high > 0:
        for factor in _factors():
            high = min(best.high * factor, full.high)
            if high >= best.low:
                yield Range(low=best.low, high=high)


def _other_lows(best: Range, full: Range) -> Iterator[Range]:
    yield best
    if best.low < 0:
        for factor in _factors():
            low = max(best.low * factor, full.low)
            if low <= best.high:
                yield Range(low=low, high=best.high)


def _factors() -> list[float]:
    """From a quarter to four times: the two ends may be that far apart from the threshold."""
    return [2.0 ** (2 * part / _FINE_PARTS) for part in range(-_FINE_PARTS, _FINE_PARTS + 1)]


def _median_magnitude(values: Bins) -> float:
    magnitude = np.abs(values.centre)
    order = np.argsort(magnitude)
    after = np.cumsum(values.counts[order])
    return float(magnitude[order][int(np.searchsorted(after, _LEAST_KEPT * after[-1]))])


def _grid(tried: Range, steps: int) -> tuple[float, int]:
    """The step's width, and how many steps lie below zero; zero is always on the grid."""
    low, high = min(tried.low, 0.0), max(tried.high, 0.0)
    width = (high - low) / steps
    return width, round(-low / width) if width else 0


class _SquaredError:
    """The mean squared error of values that are rounded and clipped to a range."""

    def __init__(self, values: Bins, steps: int, channels: Channels | None) -> None:
        self._values = values
        self._channels = channels
        self._steps = steps
        self._centre = values.centre
        self._total = float(values.counts.sum())
        # Of n, x and x squared, each bin spread evenly.
        squares = (values.low**2 + values.low * values.high + values.high**2) / 3
        weights = values.counts.astype(np.float64)
        moments = np.stack([weights, weights * self._centre, weights * squares])
        self._sums = np.concatenate([np.zeros((3, 1)), np.cumsum(moments, axis=1)], axis=1)

    def __call__(self, tried: Range) -> float:
        width, below = _grid(tried, self._steps)
        if width == 0:
            return float(self._sums[2, -1] / self._total)
        first, last = -below * width, (self._steps - below) * width
        sub = width / _POINTS
        edges = np.arange(-below * _POINTS, (self._steps - below) * _POINTS + 1) * sub
        inside = np.diff(self._values.below(edges))
        distance = (np.arange(len(inside)) + 0.5) % _POINTS
        distance = np.minimum(distance, _POINTS - distance) * sub
        rounding = float(inside @ (distance**2 + sub**2 / 12))
        return (rounding + self._beyond(first, last)) / self._total

    def _beyond(self, first: float, last: float) -> float:
        """The squared error of what is clipped, by bins whose middle lies outside."""
        before = self._sums[:, int(np.searchsorted(self._centre, first))]
        after = self._sums[:, -1] - self._sums[:, int(np.searchsorted(self._centre, last))]
        weights = (1.0, 1.0) if self._channels is None else self._channels.beyond(first, last)
        return sum(
            weight * float(square - 2 * end * linear + end * end * count)
            for weight, end, (count, linear, square) in zip(
                weights, (first, last), (before, after), strict=True
            )
        )


def _divergence(values: Bins, tried: Range, steps: int) -> float:
    width, below = _grid(tried, steps)
    if width == 0:
        return np.inf
    nearest = np.rint(values.centre / width) + below
    inside = (nearest >= 0) & (nearest <= steps)
    if not inside.any():
        return np.inf
    counts = values.counts.astype(np.float64)
    kept, cells = counts[inside], nearest[inside].astype(np.int64)
    # A single value has no width: a thousandth of a step stands for it.
    widths = np.maximum(values.high - values.low, 1e-3 * width)[inside]
    mass = np.bincount(cells, kept, steps + 1)
    spread = np.bincount(cells, widths, steps + 1)
    quantized = mass[cells] * widths / spread[cells]
    at = np.flatnonzero(inside)
    clipped = kept.copy()
    clipped[0] += counts[: at[0]].sum()
    clipped[-1] += counts[at[-1] + 1 :].sum()
    real = clipped / clipped.sum()
    return float(real @ np.log(real * quantized.sum() / quantized))
