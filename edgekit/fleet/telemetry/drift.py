"""How far live values have moved from those that a model was made with.

A device counts its values in bins bounded by quantiles of the reference; counts of several
devices add up without loss. The population stability index of the sum is the measure:
PSI = sum((a - e) * ln(a / e)) over the bins, a the live and e the reference shares. Below 0.1 is
commonly called stable, above 0.25 a shift (Siddiqi, Credit Risk Scorecards, 2006, p. 137). Of
equal distributions it is about (bins - 1) / n (Yurdakul, Naranjo, Statistical properties of the
population stability index, Journal of Risk Model Validation 14:4, 2020), so few values prove
nothing: a drift counts only beyond that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

# What an empty bin counts as, in values: a share of none has no logarithm.
_EMPTY: Final = 0.5
# PSI * n of equal distributions is chi-squared with bins - 1 degrees of freedom; the mean plus
# four standard deviations of it is passed by chance once in some thousand looks.
_DEVIATIONS: Final = 4.0


@dataclass(frozen=True, slots=True)
class BinCounts:
    """One feature: how many values fell into which bin of the reference.

    Attributes:
        expected: The reference's share of each bin; sums to 1.
        counts: Of live values, for each bin.
    """

    expected: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many values were seen."""
        return sum(self.counts)

    def psi(self) -> float:
        """The population stability index; 0 for no values."""
        total = self.total
        if not total:
            return 0.0
        index = 0.0
        for expected, count in zip(self.expected, self.counts, strict=True):
            share = max(count, _EMPTY) / total
            reference = max(expected, _EMPTY / total)
            index += (share - reference) * math.log(share / reference)
        return index

    def noise(self) -> float:
        """The index that so many values of the very reference would stay below, all but surely."""
        freedom = max(len(self.counts) - 1, 1)
        if not self.total:
            return math.inf
        return (freedom + _DEVIATIONS * math.sqrt(2 * freedom)) / self.total


def merge_bins(items: Iterable[BinCounts]) -> BinCounts | None:
    """The sum of one feature over devices; None for nothing, or for different references.

    Items with other bins than the first are left out: they belong to another version's reference.
    """
    merged: BinCounts | None = None
    sums: list[int] = []
    for item in items:
        if merged is None:
            merged, sums = item, list(item.counts)
        elif item.expected == merged.expected:
            for position, count in enumerate(item.counts):
                sums[position] += count
    return BinCounts(merged.expected, tuple(sums)) if merged is not None else None


def drifted(features: Mapping[str, BinCounts], *, limit: float) -> dict[str, float]:
    """The features whose index is above a limit, and more than chance makes it: the worst first."""
    found = {
        name: psi for name, bins in features.items() if (psi := bins.psi()) > limit + bins.noise()
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
