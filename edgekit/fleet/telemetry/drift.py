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
    groups: dict[str, dict[tuple[float, ...], tuple[FeatureCounts, list[int], int]]] = {}
    for features in items:
        for name, feature in features.items():
            group = groups.setdefault(name, {})
            known = group.get(feature.expected)
            if known is None:
                group[feature.expected] = (feature, list(feature.counts), 1)
            else:
                first, sums, members = known
                for position, count in enumerate(feature.counts):
                    sums[position] += count
                group[feature.expected] = (first, sums, members + 1)
    merged = {}
    for name, group in groups.items():
        first, sums, _ = max(group.values(), key=lambda item: (item[2], sum(item[1])))
        merged[name] = replace(first, counts=tuple(sums))
    return merged
