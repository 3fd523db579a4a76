"""Distributions in fixed memory that can be added up in any order: what devices report of latency.

Buckets whose bounds grow by a fixed ratio, so that every quantile is right within that ratio
whatever was added, and two sketches add up without loss: DDSketch (Masson, Rim, Lee, PVLDB 12:12,
2019). The buckets are those of the agent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

LEAST_MS: Final = 0.001
RATIO: Final = 1.1
BUCKETS: Final = 200


@dataclass(frozen=True, slots=True)
class LatencySketch:
    """How often which latency was seen: bucket to count, no empty bucket."""

    counts: Mapping[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many latencies it holds."""
        return sum(self.counts.values())

    def quantile_ms(self, share: float) -> float:
        """The latency that `share` of all stay below, in ms, within 5 %; 0 where there is none."""
        wanted, seen = share * self.count, 0
        for position in sorted(self.counts):
            seen += self.counts[position]
            if seen >= wanted:
                return float(LEAST_MS * RATIO ** (position + 0.5))
        return 0.0


def bucket_of(milliseconds: float) -> int:
    """The bucket that a latency falls into."""
    position = int(math.log(max(milliseconds, LEAST_MS) / LEAST_MS) / math.log(RATIO))
    return min(position, BUCKETS - 1)


def merge_latencies(sketches: Iterable[LatencySketch]) -> LatencySketch:
    """Everything that several sketches hold."""
    total: dict[int, int] = {}
    for sketch in sketches:
        for position, count in sketch.counts.items():
            total[position] = total.get(position, 0) + count
    return LatencySketch(total)
