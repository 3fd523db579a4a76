"""When live values have moved from those that a model was made with, and not by chance.

The measure is the population stability index of `edgekit_runtime.telemetry.FeatureCounts`, whose
counts of several devices add up without loss. Below 0.1 is commonly called stable, above 0.25 a
shift (Siddiqi, Credit Risk Scorecards, 2006). Of equal distributions it is chi-squared with
bins - 1 degrees of freedom, divided by the number of values (Yurdakul, Naranjo, Statistical
properties of the population stability index, Journal of Risk Model Validation 14:4, 2020): few
values show an index of any size, so a drift counts only beyond what chance makes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from edgekit_runtime.telemetry import FeatureCounts

# Mean plus four standard deviations: passed by chance once in some thousand looks.
_DEVIATIONS: Final = 4.0


def noise(feature: FeatureCounts) -> float:
    """The index that so many values of the very reference stay below, all but surely."""
    freedom = max(len(feature.counts) - 1, 1)
    if not feature.total:
        return math.inf
    return (freedom + _DEVIATIONS * math.sqrt(2 * freedom)) / feature.total


def drifted(features: Mapping[str, FeatureCounts], *, limit: float) -> dict[str, float]:
    """The features whose index is above a limit, and more than chance makes it: the worst first."""
    found = {
        name: psi
        for name, feature in features.items()
        if (psi := feature.psi()) > limit + noise(feature)
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def merge_features(items: Iterable[Mapping[str, FeatureCounts]]) -> dict[str, FeatureCounts]:
    """The sum of every feature, over those items that share its most common reference.

    Whoever reports another reference than all the others, by mistake or to hide something, is
    left out.
    """
    groups: dict[str, dict[tuple[float, ...], FeatureSum]] = {}
    for features in items:
        for name, feature in features.items():
            group = groups.setdefault(name, {})
            if feature.expected not in group:
                group[feature.expected] = FeatureSum(feature)
            group[feature.expected].add(feature)
    return {name: largest(group.values()) for name, group in groups.items()}


class FeatureSum:
    """The sum of a feature over those who share its reference.

    Args:
        feature: One that has the reference; it is not counted yet.
    """

    __slots__ = ("_first", "_nonfinite", "_sums", "members")

    def __init__(self, feature: FeatureCounts) -> None:
        self._first = feature
        self._sums = [0] * len(feature.counts)
        self._nonfinite = 0
        self.members = 0

    def add(self, feature: FeatureCounts, *, sign: int = 1) -> None:
        """Count one, or with a sign of -1 count it no more."""
        self.members += sign
        self._nonfinite += sign * feature.nonfinite
        for position, count in enumerate(feature.counts):
            self._sums[position] += sign * count

    @property
    def weight(self) -> tuple[int, int]:
        """How many have the reference, and then how much they counted."""
        return self.members, sum(self._sums)

    @property
    def total(self) -> FeatureCounts:
        """All together."""
        return replace(self._first, counts=tuple(self._sums), nonfinite=self._nonfinite)


def largest(sums: Iterable[FeatureSum]) -> FeatureCounts:
    """Of a feature's sums, that of the most common reference."""
    return max(sums, key=lambda item: item.weight).total
