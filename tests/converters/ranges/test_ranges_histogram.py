"""The counts: nothing is lost, whatever the order and the size of the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekit_converters.ranges.histogram import Histogram

FLOATS = arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))


@given(values=FLOATS)
def test_every_value_is_counted_in_a_bin_that_holds_it(values: Any) -> None:
    histogram = Histogram.of(values)
    finite = values[np.isfinite(values)].astype(np.float64)
    assert histogram.not_finite == values.size - finite.size
    assert histogram.total == finite.size
    bins = histogram.bins()
    assert (np.diff(bins.low) > 0).all()
    tiny = np.finfo(np.float32).tiny
    for value in finite:
        near = 0.0 if abs(value) < tiny else value
        assert ((bins.low <= near) & (near <= bins.high)).any()
    assert histogram.zeros == (np.abs(finite) < tiny).sum()


@given(first=FLOATS, second=FLOATS)
def test_merging_is_counting_both(first: Any, second: Any) -> None:
    merged = Histogram.of(first).merged(Histogram.of(second))
    together = Histogram.of(np.concatenate([second, first]))
    np.testing.assert_array_equal(merged.keys, together.keys)
    np.testing.assert_array_equal(merged.counts, together.counts)
    assert merged.not_finite == together.not_finite


def test_an_outlier_leaves_the_other_bins_as_fine_as_they_were() -> None:
    values = np.random.default_rng(1).uniform(0.5, 1, 1000).astype(np.float32)
    bins = Histogram.of(np.append(values, np.float32(1e30))).bins()
    assert (np.diff(bins.low)[:-2] < 0.01).all()


def test_the_size_has_a_bound() -> None:
    every = np.arange(0, 1 << 32, 1 << 12, dtype=np.uint64).astype(np.uint32).view(np.float32)
    histogram = Histogram.of(every)
    assert len(histogram.keys) <= 32_513
    assert histogram.bins().low[0] == -(2.0**128)
    assert histogram.bins().high[-1] == 2.0**128


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999, 1.0])
def test_quantiles_are_those_of_the_values(share: float) -> None:
    values = np.random.default_rng(2).normal(size=50_000).astype(np.float32)
    bins = Histogram.of(values).bins().within(float(values.min()), float(values.max()))
    assert bins.quantile(share) == pytest.approx(np.quantile(values, share), rel=0.02, abs=0.01)


def test_counts_below_an_edge() -> None:
    bins = Histogram.of(np.array([-3, -1, 0, 0, 2, 5], np.float32)).bins()
    assert bins.below(np.array([-4, -2, -0.5, 0.5, 3, 9])).tolist() == [0, 1, 2, 4, 5, 6]
    assert Histogram.of(np.array([], np.float32)).bins().below(np.array([1.0])).tolist() == [0]
    assert bins.without_zero().counts.tolist() == [1, 1, 1, 1]
