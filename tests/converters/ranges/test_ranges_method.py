"""The ranges that methods choose, beside what is known or follows from the values themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit_converters.quantize.affine import UINT8, affine_of
from edgekit_converters.quantize.plan import Range
from edgekit_converters.ranges.histogram import Histogram
from edgekit_converters.ranges.method import (
    RangeMethod,
    entropy_range,
    error_range,
    percentile_range,
)
from edgekit_converters.ranges.statistics import RangeStatistics

RNG = np.random.default_rng(7)
SHAPES: dict[str, Any] = {
    "normal": RNG.normal(size=100_000),
    "laplace": RNG.laplace(size=100_000),
    "relu": np.maximum(RNG.normal(size=100_000), 0),
    "uniform": RNG.uniform(-1, 3, 100_000),
    "one-sided tail": np.append(RNG.uniform(-1, 1, 100_000), [30.0] * 20),
    "gelu": np.append(RNG.uniform(-0.17, 0, 30_000), np.abs(RNG.normal(size=70_000))),
    "below zero": -RNG.gamma(2.0, size=100_000),
    "far from zero": RNG.uniform(10, 11, 50_000),
    "few values": RNG.choice([-1.0, 0.0, 0.25, 7.0], 1000),
}


def statistics(values: Any) -> RangeStatistics:
    values = np.asarray(values, np.float32)
    low, high = float(values.min()), float(values.max())
    return RangeStatistics(
        low=low, high=high, average=Range(low=low / 2, high=high / 2),
        channel_axis=None, channel_low=np.array([low], np.float32),
        channel_high=np.array([high], np.float32), channel_mean=np.zeros(1),
        histogram=Histogram.of(values), finite=True, batches=1,
    )  # fmt: skip


def error(values: Any, kept: Range) -> float:
    """The squared error, from the values themselves and the integers that are written."""
    affine = affine_of(kept, UINT8)
    back = (affine.integers(values) - affine.zero_point) * float(affine.scale)
    return float(np.mean((values - back) ** 2))


@pytest.mark.parametrize("name", SHAPES)
def test_mse_is_never_worse_than_the_other_methods(name: str) -> None:
    values = SHAPES[name].astype(np.float32)
    seen = statistics(values)
    chosen = error(values, seen.range(RangeMethod.MSE))
    for method in RangeMethod:
        assert chosen <= error(values, seen.range(method)) * 1.02 + 1e-12, method


@pytest.mark.parametrize("name", ["normal", "laplace", "gelu", "one-sided tail"])
def test_mse_finds_about_what_trying_all_ranges_finds(name: str) -> None:
    values = SHAPES[name].astype(np.float32)
    low, high = float(values.min()), float(values.max())
    best = min(
        error(values, Range(low=low * share, high=high * other))
        for share in np.linspace(0.1, 1, 19)
        for other in (0.04, *np.linspace(0.1, 1, 19))
    )
    assert error(values, statistics(values).range(RangeMethod.MSE)) <= best * 1.03


def test_a_normal_distribution_is_clipped_where_theory_says() -> None:
    # Banner et al., "Post training 4-bit quantization" (2019): 2.55 sigma for 4 bits, 3.92 for 8.
    values = RNG.normal(size=1_000_000).astype(np.float32)
    bins = Histogram.of(values).bins()
    full = Range(low=float(values.min()), high=float(values.max()))
    assert error_range(bins, full, steps=15).high == pytest.approx(2.55, rel=0.05)
    assert error_range(bins, full, steps=255).high == pytest.approx(3.92, rel=0.05)


@pytest.mark.parametrize("outlier", [50.0, 1e4, 1e12, -1e6])
@pytest.mark.parametrize("method", [RangeMethod.PERCENTILE, RangeMethod.ENTROPY])
def test_an_outlier_is_clipped_and_the_rest_kept(outlier: float, method: RangeMethod) -> None:
    values = np.append(RNG.normal(size=200_000), outlier)
    kept = statistics(values).range(method)
    assert 2.5 < kept.high < 6
    assert -6 < kept.low < -2.5


def test_the_squared_error_keeps_an_outlier_that_costs_more_than_the_rest() -> None:
    values = np.append(RNG.normal(size=1000), 1e4)
    assert statistics(values).range(RangeMethod.MSE).high > 9e3


def test_percentiles_cut_both_ends_alike() -> None:
    bins = Histogram.of(np.linspace(-1, 1, 100_001).astype(np.float32)).bins()
    kept = percentile_range(bins, 90)
    assert (kept.low, kept.high) == (pytest.approx(-0.9, abs=0.01), pytest.approx(0.9, abs=0.01))
    assert percentile_range(bins, 100).high == pytest.approx(1, abs=0.02)
    with pytest.raises(ValueError, match="percentile"):
        percentile_range(bins, 0)


@settings(max_examples=40)
@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30),
    method=st.sampled_from(RangeMethod),
)
def test_a_range_never_goes_beyond_what_was_seen(values: list[float], method: RangeMethod) -> None:
    seen = statistics(values)
    kept = seen.range(method)
    if method is not RangeMethod.MOVING_AVERAGE:
        assert seen.low <= kept.low <= kept.high <= seen.high


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0, 1e-42])
@pytest.mark.parametrize("method", RangeMethod)
def test_constant_values(value: float, method: RangeMethod) -> None:
    kept = statistics([value] * 9).range(method)
    if method is not RangeMethod.MOVING_AVERAGE:
        assert kept == statistics([value]).range(RangeMethod.MIN_MAX)


def test_nothing_but_zeros_has_no_threshold() -> None:
    bins = Histogram.of(np.zeros(5, np.float32)).bins()
    full = Range(low=0.0, high=0.0)
    assert entropy_range(bins, full) == error_range(bins, full) == full


def test_saturation_is_the_share_that_is_clipped() -> None:
    seen = statistics(np.arange(1000))
    assert seen.saturation(Range(low=0, high=899.5)) == pytest.approx(0.1, abs=0.01)
    assert seen.saturation(seen.range(RangeMethod.MIN_MAX)) == 0


@pytest.mark.parametrize("method", [RangeMethod.MSE, RangeMethod.ENTROPY])
def test_nothing_is_clipped_where_steps_are_as_fine_as_with_16_bits(method: RangeMethod) -> None:
    seen = statistics(SHAPES["one-sided tail"])
    full = seen.range(RangeMethod.MIN_MAX)
    assert seen.range(method, steps=65534) == full
    assert seen.range(method) != full
