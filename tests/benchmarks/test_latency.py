"""Latency statistics agree with numpy's, and hold in every corner."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_benchmarks.latency import describe_latencies, median_interval, quantile
from edgekit_runtime.errors import UsageError

LATENCIES = st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=200)


@given(LATENCIES)
def test_statistics_are_numpys(latencies: list[float]) -> None:
    found = describe_latencies(latencies)
    assert found.runs == len(latencies)
    assert found.median_ms == pytest.approx(float(np.median(latencies)), rel=1e-9)
    assert found.mean_ms == pytest.approx(float(np.mean(latencies)), rel=1e-9)
    assert found.p90_ms == pytest.approx(float(np.percentile(latencies, 90)), rel=1e-9)
    assert found.p99_ms == pytest.approx(float(np.percentile(latencies, 99)), rel=1e-9)
    deviation = float(np.std(latencies, ddof=1)) if len(latencies) > 1 else 0.0
    assert found.deviation_ms == pytest.approx(deviation, rel=1e-6, abs=1e-9 * found.mean_ms)
    assert found.throughput_per_s * found.mean_ms == pytest.approx(1000)


@given(LATENCIES, st.randoms())
def test_order_does_not_matter(latencies: list[float], random: object) -> None:
    shuffled = list(latencies)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert describe_latencies(shuffled) == describe_latencies(latencies)


@given(LATENCIES)
def test_quantiles_are_ordered_and_within_the_data(latencies: list[float]) -> None:
    found = describe_latencies(latencies)
    steps = [found.minimum_ms, found.median_ms, found.p90_ms, found.p99_ms, found.maximum_ms]
    for lower, upper in itertools.pairwise(steps):
        assert lower <= upper or math.isclose(lower, upper)


def test_quantile_is_linear_between_neighbours() -> None:
    assert quantile([1.0, 2.0, 4.0], 0.75) == 3.0
    assert quantile([5.0], 0.9) == 5.0


def test_no_latency_is_refused() -> None:
    with pytest.raises(UsageError, match="no latency"):
        describe_latencies([])


@given(st.integers(1, 5000))
def test_the_medians_interval_lies_around_the_median(runs: int) -> None:
    low, high = median_interval(runs)
    assert 0 <= low <= (runs - 1) / 2 <= high <= runs - 1


def test_the_medians_interval_holds_nineteen_times_in_twenty() -> None:
    generator = np.random.default_rng(3)
    inside = 0
    for _ in range(2000):
        found = describe_latencies(list(generator.lognormal(0, 1, 60)))
        inside += found.median_low_ms <= 1.0 <= found.median_high_ms
    assert 0.93 <= inside / 2000 <= 0.985
