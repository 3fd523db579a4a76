"""Statistics of repeated latencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from edgekit_runtime.errors import UsageError

_NORMAL_95: Final = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyStatistics:
    """How long single inferences took, one after the other.

    Attributes:
        runs: How many were timed.
        median_ms: Half of the runs were quicker.
        mean_ms: Their arithmetic mean.
        p90_ms: Nine in ten were quicker.
        p99_ms: Ninety-nine in a hundred were quicker.
        minimum_ms: The quickest.
        maximum_ms: The slowest.
        median_low_ms: The lower end of the median's 95 % confidence interval.
        median_high_ms: The upper end.
        deviation_ms: Sample standard deviation; 0 for a single run.
        throughput_per_s: Inferences a second, back to back: the reciprocal of the mean.
    """

    runs: int
    median_ms: float
    mean_ms: float
    p90_ms: float
    p99_ms: float
    minimum_ms: float
    maximum_ms: float
    median_low_ms: float
    median_high_ms: float
    deviation_ms: float
    throughput_per_s: float

    def to_json(self) -> dict[str, object]:
        """The figures as a JSON object."""
        return asdict(self)


def describe_latencies(latencies_ms: Sequence[float]) -> LatencyStatistics:
    """Summarise latencies in milliseconds, in any order.

    Raises:
        UsageError: If there are none.
    """
    if not latencies_ms:
        raise UsageError("no latency was measured", fix="ask for at least one run")
    ordered = sorted(latencies_ms)
    # fsum: with 100,000 runs of a microsecond each, a plain sum loses the last digits.
    mean = math.fsum(ordered) / len(ordered)
    low, high = median_interval(len(ordered))
    squares = math.fsum((value - mean) ** 2 for value in ordered)
    return LatencyStatistics(
        runs=len(ordered),
        median_ms=quantile(ordered, 0.5),
        mean_ms=mean,
        p90_ms=quantile(ordered, 0.9),
        p99_ms=quantile(ordered, 0.99),
        minimum_ms=ordered[0],
        maximum_ms=ordered[-1],
        median_low_ms=ordered[low],
        median_high_ms=ordered[high],
        deviation_ms=math.sqrt(squares / (len(ordered) - 1)) if len(ordered) > 1 else 0.0,
        throughput_per_s=1000 / mean if mean > 0 else math.inf,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of an ascending, non-empty sequence lies below.

    Linear between neighbours, as numpy's default: Hyndman and Fan's definition 7.
    """
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median_interval(runs: int) -> tuple[int, int]:
    """The positions, in ascending order, of a 95 % confidence interval of the median.

    Order statistics: how many of independent values lie below the median is binomial, whatever
    their distribution; its normal approximation, widened to whole positions and to both ends for
    fewer than six runs (Conover, "Practical Nonparametric Statistics", 1999, section 3.2).
    """
    half = _NORMAL_95 * math.sqrt(runs) / 2
    low = math.floor(runs / 2 - half) - 1
    high = math.ceil(runs / 2 + half)
    return max(0, low), min(runs - 1, high)
