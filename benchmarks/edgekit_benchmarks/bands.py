"""How wide a prediction's band must be, from errors on models that were left out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

COVERAGE: Final = 0.9
# With fewer errors than this, one of them decides the quantile: what the same engine and dtype did
# on other boards then counts as well.
_ENOUGH: Final = 20
# How many errors of its own weigh as much as all of the other boards', and how much wider a band is
# made because few errors say little about their width: this share of it, divided by their number.
# Chosen on the boards with many: bands from 5, 8 or 15 of their errors, and from other boards',
# hold 91, 90 and 90 % of their other errors, and no board's less than 83 %.
_EQUAL_WEIGHT: Final = 2
_WIDER: Final = 0.6
_MOST_ANCHORS: Final = 3
_MOST_PAIRINGS: Final = 20_000
_SEED: Final = 7


def band_of(ratios: Sequence[float], others: Sequence[float] = ()) -> float:
    """The factor that nine in ten new ratios stay within, on either side of 1.

    Conformal: a quantile of |log ratio| over models that the prices had not seen (Vovk et al.,
    "Algorithmic Learning in a Random World", 2005), halfway to the next larger one.

    Args:
        ratios: Measured over predicted, families left out, at least one.
        others: The same on other boards with the same engine and dtype.
    """
    own = np.abs(np.log(ratios))
    if len(own) >= _ENOUGH or not len(others):
        return float(np.exp(_quantile(own)))
    pooled = np.abs(np.log(others))
    # The shape of the distribution from all boards, its width mostly from this one.
    weight = len(own) / (len(own) + _EQUAL_WEIGHT)
    scale = np.sqrt(
        weight * np.mean(own**2) / np.mean(pooled**2) + 1 - weight if pooled.any() else 1.0
    )
    return float(np.exp(_quantile(pooled) * scale * (1 + _WIDER / len(own))))


def coverage_of(ratios: Sequence[float], band: float) -> float:
    """The share of ratios within a band."""
    return float(np.mean(np.abs(np.log(ratios)) <= np.log(band) * (1 + 1e-9)))


def anchored_bands(ratios: Sequence[float], families: Sequence[str]) -> tuple[float, ...]:
    """The bands that remain when one, two or three models were measured on the very device.

    A prediction is then corrected by the mean ratio of those; the models that it is made for are
    of other families. Empty where there are too few families for that.
    """
    logs = np.log(ratios)
    generator = np.random.default_rng(_SEED)
    bands = []
    for count in range(1, _MOST_ANCHORS + 1):
        errors = _anchored_errors(logs, families, count, generator)
        if not len(errors):
            break
        bands.append(float(np.exp(_quantile(np.abs(errors)))))
    return tuple(bands)


def _anchored_errors(
    logs: NDArray[np.float64],
    families: Sequence[str],
    count: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    if len(logs) <= count:
        return np.array([])
    every = list(itertools.combinations(range(len(logs)), count))
    if len(every) > _MOST_PAIRINGS // len(logs):
        chosen = generator.choice(len(every), size=_MOST_PAIRINGS // len(logs), replace=False)
        every = [every[index] for index in sorted(chosen)]
    errors = []
    for anchors in every:
        known = {families[index] for index in anchors}
        correction = float(np.mean([logs[index] for index in anchors]))
        errors += [
            float(log) - correction
            for log, family in zip(logs, families, strict=True)
            if family not in known
        ]
    return np.array(errors)


def _quantile(sizes: NDArray[np.float64]) -> float:
    ordered = np.sort(sizes)
    rank = int(np.ceil(COVERAGE * len(ordered)))
    following = ordered[min(rank, len(ordered) - 1)]
    return float((ordered[rank - 1] + following) / 2)
