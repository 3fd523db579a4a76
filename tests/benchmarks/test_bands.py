"""Bands: nine in ten, with and without the help of other boards."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_benchmarks.bands import anchored_bands, band_of, coverage_of

RATIOS = st.lists(st.floats(0.2, 5.0), min_size=20, max_size=60)


@given(RATIOS)
def test_a_band_covers_its_own_errors(ratios: list[float]) -> None:
    band = band_of(ratios)
    assert band >= 1
    assert coverage_of(ratios, band) >= 0.9 - 1e-9


@given(st.lists(st.floats(1.0, 5.0), min_size=1, max_size=60))
def test_too_slow_and_too_quick_are_the_same(sizes: list[float]) -> None:
    assert band_of(sizes) == pytest.approx(band_of([1 / size for size in sizes]))


def test_few_errors_lean_on_other_boards() -> None:
    quiet, loud = [1.01] * 4, list(np.exp(np.linspace(-1, 1, 100)))
    assert band_of(quiet) == pytest.approx(1.01)
    assert band_of(quiet * 2, loud) < band_of(quiet, loud)
    assert band_of(quiet, loud) > 1.5
    assert band_of([1.01] * 40, loud) == pytest.approx(1.01)


@pytest.mark.parametrize("count", [5, 8, 15])
def test_bands_from_few_errors_hold_nine_times_in_ten(count: int) -> None:
    """Boards differ in how far they are off, and few errors say little about that."""
    generator = np.random.default_rng(3)
    held = []
    for _ in range(400):
        width = 0.15 * generator.lognormal(0, 0.4)
        own, new = np.exp(generator.normal(0, width, (2, count)))
        others = np.exp(generator.normal(0, 0.15 * generator.lognormal(0, 0.4, 200)))
        held.append(coverage_of(list(new), band_of(list(own), list(others))))
    assert 0.87 <= np.mean(held) <= 0.95


def test_anchoring_takes_away_what_all_models_share() -> None:
    spread = [0.9, 0.95, 1.0, 1.06, 1.12, 1.0] * 4
    families = [str(index) for index in range(24)]
    shifted = [2 * ratio for ratio in spread]
    assert anchored_bands(shifted, families) == pytest.approx(anchored_bands(spread, families))
    one, two, three = anchored_bands(spread, families)
    assert 1 < min(one, two, three) <= max(one, two, three) < band_of(shifted)
    assert one > three


def test_a_family_does_not_anchor_itself() -> None:
    assert anchored_bands([1.0, 1.1, 1.2], ["a", "a", "a"]) == ()
    assert anchored_bands([1.0, 2.0], ["a", "b"]) == pytest.approx((2.0,))


def test_a_share_is_counted_on_the_logarithm() -> None:
    assert coverage_of([0.5, 1.0, 2.0, math.e], 2.0) == pytest.approx(0.75)
