"""The shipped profiles are what the carried measurements make, and their bands hold."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_benchmarks.features import FEATURES, Counting, features_of
from edgekit_benchmarks.fit import (
    Measured,
    band_of,
    fit_profiles,
    left_out_ratios,
    read_measurements,
)
from edgekit_benchmarks.profile import Calibration, Profile, list_profiles
from edgekit_runtime.graph.workload import Workload


@pytest.fixture(scope="module")
def fitted() -> dict[str, Profile]:
    return fit_profiles()


@pytest.fixture(scope="module")
def groups() -> Mapping[tuple[str, str, int, str], list[Measured]]:
    found = defaultdict(list)
    for row in read_measurements():
        found[row.board, row.runtime, row.threads, row.dtype].append(row)
    return found


def calibrations() -> list[tuple[str, Calibration]]:
    return [(board.name, c) for board in list_profiles() for c in board.calibrations]


def test_the_shipped_profiles_are_what_fit_makes(fitted: dict[str, Profile]) -> None:
    shipped = {profile.name: profile for profile in list_profiles()}
    assert shipped.keys() == fitted.keys()
    for name, profile in fitted.items():
        assert_same(dataclasses.asdict(shipped[name]), dataclasses.asdict(profile), name)


@pytest.mark.parametrize(
    ("board", "calibration"), calibrations(), ids=lambda v: v if isinstance(v, str) else None
)
def test_the_band_covers_nine_in_ten_of_a_family_left_out(
    board: str,
    calibration: Calibration,
    groups: Mapping[tuple[str, str, int, str], list[Measured]],
) -> None:
    key = (board, calibration.runtime, calibration.threads, calibration.dtype)
    rows = groups[key]
    assert len(rows) == calibration.measurements
    assert len({row.family for row in rows}) == calibration.families
    richer = None
    if "all times one factor" in calibration.method:
        richer = max((g for k, g in groups.items() if k[:3] == key[:3] and k != key), key=len)
    ratios = left_out_ratios(rows, richer)
    inside = [1 / calibration.band * 0.999 <= r <= calibration.band * 1.001 for r in ratios]
    assert np.mean(inside) >= 0.87
    mape = np.mean([abs(1 / ratio - 1) for ratio in ratios])
    assert calibration.lofo_mape == pytest.approx(mape, rel=1e-3)


def test_left_out_means_left_out() -> None:
    """A family with latencies of its own must not be able to pull its own prediction."""
    rows = [row for row in read_measurements() if row.board == "raspberrypi4"]
    rows = [row for row in rows if (row.runtime, row.threads, row.dtype) == ("ncnn", 1, "float32")]
    ordered = sorted(rows, key=lambda row: row.family)
    before = left_out_ratios(rows)
    changed = [
        dataclasses.replace(row, latency_ms=row.latency_ms * 7) if row.family == "vgg16" else row
        for row in rows
    ]
    after = left_out_ratios(changed)
    position = [row.family for row in ordered].index("vgg16")
    assert after[position] == pytest.approx(before[position] * 7)


@given(st.lists(st.floats(0.2, 5.0), min_size=1, max_size=60))
def test_a_band_covers_its_own_errors(ratios: list[float]) -> None:
    band = band_of(ratios)
    inside = sum(1 / band * (1 - 1e-9) <= ratio <= band * (1 + 1e-9) for ratio in ratios)
    assert inside >= math.ceil(0.9 * len(ratios)) or inside == len(ratios)


def test_few_errors_make_the_band_wider_than_any() -> None:
    assert band_of([1.2, 0.9]) == pytest.approx(1.2**1.25)


def test_measurements_name_their_origin() -> None:
    rows = read_measurements()
    boards = {profile.name for profile in list_profiles()}
    assert {row.board for row in rows} == boards
    for row in rows:
        assert row.latency_ms > 0
        assert row.source.startswith("https://github.com/")
        assert row.year.isdigit()
    keys = [(r.board, r.runtime, r.threads, r.dtype, r.model) for r in rows]
    assert len(keys) == len(set(keys))


def test_a_users_model_is_counted_as_the_measured_ones_were() -> None:
    workload = Workload(
        conv3x3_stride1_macs=1,
        conv_other_macs=20,
        pointwise_macs=300,
        fc_macs=4000,
        matmul_macs=50_000,
        recurrent_macs=600_000,
        depthwise_macs=7,
        weight_elements=8,
        conv_activation_elements=10,
        elementwise_elements=200,
        traffic_elements=3000,
        op_count=5,
        layer_count=6,
    )
    assert features_of(workload, Counting.OPERATORS) == (1, 20, 654_300, 7, 210, 8, 5)
    assert features_of(workload, Counting.LAYERS) == (1, 20, 654_300, 7, 3010, 8, 6)
    assert len(features_of(workload, Counting.LAYERS)) == len(FEATURES)


def assert_same(shipped: object, made: object, where: str) -> None:
    """Equal, but for the last digits that differ between linear algebra libraries."""
    if isinstance(made, dict):
        assert isinstance(shipped, dict)
        assert shipped.keys() == made.keys(), where
        for name in made:
            assert_same(shipped[name], made[name], f"{where}.{name}")
    elif isinstance(made, tuple):
        assert isinstance(shipped, tuple)
        assert len(shipped) == len(made), where
        for position, (left, right) in enumerate(zip(shipped, made, strict=True)):
            assert_same(left, right, f"{where}[{position}]")
    elif isinstance(made, float):
        assert shipped == pytest.approx(made, rel=2e-3), where
    else:
        assert shipped == made, where
