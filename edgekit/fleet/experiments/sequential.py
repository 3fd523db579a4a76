"""Tests that stay valid however often somebody looks, and whenever he stops.

The mixture sequential probability ratio test for a difference of means, and its inversion, a
confidence sequence: Robbins, Statistical methods related to the law of the iterated logarithm,
Ann. Math. Statist. 41 (1970); Johari, Koomen, Pekelis, Walsh, Always valid inference: continuous
monitoring of A/B tests, Operations Research 70 (2022), eq. 16. With an estimate d of a difference
and its variance v, and a normal mixture of variance t^2 over the alternatives,

    L = sqrt(v / (v + t^2)) * exp(t^2 * (d - d0)^2 / (2 * v * (v + t^2)))

is a martingale under d0 for estimates with independent increments of information, which sums over
time of clusters (devices) with effects of their own are; so it exceeds 1 / alpha at any time with
probability at most alpha (Ville). The variance is estimated, from clusters of which there may be
few: t is turned into the normal deviate of the same probability (Wallace, Ann. Math. Statist. 30
(1959), eq. 5.7) before the ratio is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_STEPS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioEstimate:
    """A mean per unit, from clusters of units.

    Attributes:
        value: Sum of the numerators over sum of the denominators.
        variance: Of the value, between clusters.
        clusters: How many equal clusters would tell as much: (sum n)^2 / sum n^2.
        units: Sum of the denominators.
    """

    value: float
    variance: float
    clusters: float
    units: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A range that holds the truth at all times together, with the given confidence."""

    low: float
    high: float

    def intersect(self, other: Interval) -> Interval:
        """What both allow; this one alone where they exclude each other."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        return Interval(low=low, high=high) if low <= high else self


def ratio_estimate(clusters: Sequence[tuple[float, float]]) -> RatioEstimate | None:
    """A ratio of sums with its variance by linearisation; None from fewer than two clusters.

    Units of one cluster resemble each other, so clusters are what varies independently (Deng,
    Knoblich, Lu, Applying the delta method in metric analytics, KDD 2018, section 4).

    Args:
        clusters: Numerator and denominator of each; those without units do not count.
    """
    known = [(top, units) for top, units in clusters if units > 0]
    total = sum(units for _, units in known)
    if len(known) < 2:  # noqa: PLR2004
        return None
    value = sum(top for top, _ in known) / total
    spread = sum((top - value * units) ** 2 for top, units in known)
    return RatioEstimate(
        value=value,
        variance=spread / total**2 * len(known) / (len(known) - 1),
        clusters=total**2 / sum(units**2 for _, units in known),
        units=total,
    )


def difference_interval(
    first: RatioEstimate,
    second: RatioEstimate,
    *,
    alpha: float,
    scale: float,
    floor: float = 0.0,
) -> Interval | None:
    """A confidence sequence's present interval for second minus first; None if nothing is known.

    Args:
        first: One version.
        second: The other.
        alpha: The probability that the truth is ever outside.
        scale: The size of a difference that matters: t of the mixture. Valid for any value that
            was fixed before; the test is quickest for differences of about this size.
        floor: The variance is taken to be no less.
    """
    freedom = first.clusters + second.clusters - 2
    variance = max(first.variance + second.variance, floor)
    if freedom < 1 or variance <= 0:
        return None
    mixture = scale**2
    # The normal deviate beyond which L exceeds 1 / alpha, and the t of the same probability.
    deviate = math.sqrt(
        2 * (variance + mixture) / mixture * math.log(math.sqrt(1 + mixture / variance) / alpha)
    )
    half = student_of_normal(deviate, freedom) * math.sqrt(variance)
    difference = second.value - first.value
    return Interval(low=difference - half, high=difference + half)


def student_of_normal(deviate: float, freedom: float) -> float:
    """The value of Student's t that is as improbable as a normal deviate."""
    shrunk = deviate * (8 * freedom + 3) / (8 * freedom + 1)
    exponent = shrunk**2 / freedom
    return math.sqrt(freedom * math.expm1(exponent)) if exponent < 700 else math.inf  # noqa: PLR2004


def share_interval(hits: int, misses: int, *, alpha: float) -> Interval:
    """A confidence sequence's present interval for a probability, exact for any number.

    The uniform mixture of the binomial likelihood ratio (Robbins 1970; Darling, Robbins,
    Confidence sequences for mean, variance, and median, PNAS 58 (1967)).

    Args:
        hits: So far.
        misses: So far.
        alpha: The probability that the truth is ever outside.
    """
    mixture = math.lgamma(hits + 1) + math.lgamma(misses + 1) - math.lgamma(hits + misses + 2)

    def excluded(p: float) -> bool:
        likelihood = (hits * math.log(p) if hits else 0.0) + (
            misses * math.log1p(-p) if misses else 0.0
        )
        return mixture - likelihood >= -math.log(alpha)

    centre = hits / (hits + misses) if hits + misses else 0.5
    low = _edge(excluded, 0.0, centre) if hits else 0.0
    high = _edge(excluded, 1.0, centre) if misses else 1.0
    return Interval(low=low, high=high)


def _edge(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    for _ in range(_STEPS):
        middle = (outside + inside) / 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside
