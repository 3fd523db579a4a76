"""Have a model's inputs or outputs drifted? Pure: from the counts of the last windows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from edgekit_runtime.telemetry import FeatureCounts, ModelCounts

# Siddiqi, Credit Risk Scorecards (2006), p. 137.
SHIFT_PSI: Final = 0.25
# Fewer requests prove nothing; more than so many windows are not looked back on.
LEAST_REQUESTS: Final = 200
_MOST_WINDOWS: Final = 60
# For equal distributions PSI * n is chi-squared with bins - 1 degrees of freedom. Four standard
# deviations above its mean; n are requests, because the values of one request belong together.
_DEVIATIONS: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far one feature is from its reference.

    Attributes:
        psi: Population stability index.
        kolmogorov_smirnov: See `FeatureCounts.kolmogorov_smirnov`.
        drifted: Whether that is a shift, and no chance.
    """

    psi: float
    kolmogorov_smirnov: float
    drifted: bool


@dataclass(slots=True)
class DriftWatch:
    """The last windows of one version, as many as are needed to judge."""

    _windows: deque[ModelCounts] = field(default_factory=deque)

    def add(self, window: ModelCounts) -> None:
        """Look at one window more, and forget those that are not needed any more."""
        self._windows.append(window)
        spare = sum(each.requests for each in self._windows) - LEAST_REQUESTS
        while len(self._windows) > 1 and (
            spare >= self._windows[0].requests or len(self._windows) > _MOST_WINDOWS
        ):
            spare -= self._windows.popleft().requests

    def judge(self) -> dict[str, Drift]:
        """Each feature's drift; nothing while there are too few requests."""
        requests = sum(each.requests for each in self._windows)
        if requests < LEAST_REQUESTS:
            return {}
        merged = ModelCounts()
        for each in self._windows:
            merged = merged.merge(each)
        return measure_drift(merged.features, requests=requests)


def measure_drift(
    features: Mapping[str, FeatureCounts], *, requests: int, limit: float = SHIFT_PSI
) -> dict[str, Drift]:
    """Compare counts with their references.

    Args:
        features: By name.
        requests: How many requests they come from; at least one.
        limit: The index that counts as a drift, beyond what chance makes.
    """
    return {
        name: Drift(
            psi=psi,
            kolmogorov_smirnov=counts.kolmogorov_smirnov(),
            drifted=psi > limit + _chance(len(counts.counts), requests),
        )
        for name, counts in features.items()
        if counts.total
        for psi in (counts.psi(),)
    }


def _chance(bins: int, requests: int) -> float:
    freedom = max(bins - 1, 1)
    return (freedom + _DEVIATIONS * math.sqrt(2 * freedom)) / requests
