"""What a simulated device counts of the version that serves. Pure."""

from __future__ import annotations

import random
from typing import Final

from edgekit.fleet.simulation.behaviour import Behaviour, Lot
from edgekit.fleet.telemetry.sketches import bucket_of
from edgekit_agent.live_stats import LatencyHistogram, LiveStats
from edgekit_runtime.telemetry import FeatureCounts, ModelCounts

# Of a feature that every simulated model has.
_REFERENCE: Final = (0.25, 0.25, 0.25, 0.25)
_DRIFTED: Final = (0.05, 0.1, 0.15, 0.7)


def count_traffic(
    seconds: float, *, lot: Lot, behaviour: Behaviour, chance: random.Random
) -> LiveStats:
    """What a version answered in a time.

    Args:
        seconds: How long.
        lot: What befalls the version.
        behaviour: Of the crowd.
        chance: Of the device.
    """
    requests = int(behaviour.requests_per_second * seconds + chance.random())
    share = behaviour.degraded_error_share if lot is Lot.DEGRADES else behaviour.error_share
    errors = sum(chance.random() < share for _ in range(requests))
    counts: dict[int, int] = {}
    for _ in range(requests - errors):
        bucket = bucket_of(behaviour.latency_ms * chance.lognormvariate(0.0, 0.2))
        counts[bucket] = counts.get(bucket, 0) + 1
    return LiveStats(requests=requests, errors=errors, latency=LatencyHistogram(counts))


def counts_of(stats: LiveStats, *, lot: Lot, chance: random.Random) -> ModelCounts:
    """The same as it is reported, with a feature that drifts where the version degrades."""
    bins = [0] * len(_REFERENCE)
    shares = _DRIFTED if lot is Lot.DEGRADES else _REFERENCE
    for place in chance.choices(range(len(bins)), shares, k=stats.requests):
        bins[place] += 1
    return ModelCounts(
        requests=stats.requests,
        errors=stats.errors,
        insane=stats.insane,
        latency=stats.latency.counts,
        features={"input:x": FeatureCounts(expected=_REFERENCE, counts=tuple(bins))},
    )
