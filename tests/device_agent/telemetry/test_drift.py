"""Drift in fixed memory, compared with scipy and with what is known of the measures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats

from edgekit_agent.telemetry.counting import MOST_VALUES, ValueCounter
from edgekit_agent.telemetry.references import (
    Reference,
    bins_of_classes,
    bins_of_quantiles,
    load_references,
)
from edgekit_agent.telemetry.watching import LEAST_REQUESTS, DriftWatch, measure_drift
from edgekit_runtime.bundle.manifest import parse_manifest
from edgekit_runtime.telemetry import FeatureCounts, ModelCounts
from tests.simulators.tiny_bundles import affine_bundle

SHARES = np.linspace(0, 1, 21)
# Few different values: ties are where quantiles are hard.
VALUES = hnp.arrays(np.float64, st.integers(20, 300), elements=st.integers(-5, 5).map(float))


def reference_of(values: NDArray[np.float64]) -> Reference:
    # Quantiles that are values: what is known of the reference's shares is then exact.
    return bins_of_quantiles(np.quantile(values, SHARES, method="inverted_cdf").tolist())


def count(reference: Reference, values: NDArray[np.float64]) -> FeatureCounts:
    counter = ValueCounter({"input:x": reference})
    for start in range(0, len(values), MOST_VALUES):
        counter.count({"x": values[start : start + MOST_VALUES]}, {})
    return reference.counted(counter.counts["input:x"].tolist())


@given(VALUES, VALUES)
def test_kolmogorov_smirnov_is_scipys_up_to_two_shares(
    made_with: NDArray[np.float64], seen: NDArray[np.float64]
) -> None:
    ours = count(reference_of(made_with), seen).kolmogorov_smirnov()
    theirs = stats.ks_2samp(seen, made_with, method="asymp").statistic
    assert ours == pytest.approx(theirs, abs=0.1 + 1e-5)


@given(VALUES, VALUES, VALUES)
def test_counts_of_two_places_are_those_of_both(
    made_with: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64]
) -> None:
    reference = reference_of(made_with)
    together = count(reference, np.concatenate([first, second]))
    assert count(reference, first).merge(count(reference, second)) == together
    assert together.total == len(first) + len(second)


@given(VALUES)
def test_shares_of_the_reference_sum_to_one(values: NDArray[np.float64]) -> None:
    reference = reference_of(values)
    assert sum(reference.expected) == pytest.approx(1.0, abs=1e-4)
    assert len(reference.expected) == len(reference.bounds) + 1


@given(st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(any), st.data())
def test_psi_is_its_definition_and_never_negative(counts: list[int], data: st.DataObject) -> None:
    live = data.draw(st.lists(st.integers(0, 50), min_size=len(counts), max_size=len(counts)))
    psi = bins_of_classes(counts).counted(live).psi()
    assert psi >= -1e-12
    if not all(counts) or not all(live):
        return
    a, e = np.array(live) / sum(live), np.array(counts) / sum(counts)
    # Below half a value, a share of the reference says no more than an empty bin.
    if e.min() >= 0.5 / sum(live):
        assert psi == pytest.approx(float(((a - e) * np.log(a / e)).sum()), rel=1e-3, abs=1e-6)


def test_psi_of_equal_distributions_is_what_chance_makes_it() -> None:
    random = np.random.default_rng(1)
    reference = reference_of(random.normal(size=100_000))
    seen = [count(reference, random.normal(size=500)).psi() for _ in range(200)]
    # (bins - 1) / n: Yurdakul and Naranjo, 2020.
    assert np.mean(seen) == pytest.approx(20 / 500, rel=0.2)


def test_a_shift_is_found_and_the_same_again_is_not() -> None:
    random = np.random.default_rng(2)
    reference = reference_of(random.normal(size=100_000))
    for shift, drifted in ((0.0, False), (0.2, False), (1.0, True)):
        seen = {"input:x": count(reference, random.normal(shift, size=2000))}
        (found,) = measure_drift(seen, requests=2000).values()
        assert found.drifted is drifted, shift
    assert found.kolmogorov_smirnov == pytest.approx(0.38, abs=0.05)


def test_class_shares_are_compared_too() -> None:
    counter = ValueCounter({"largest:y": bins_of_classes([50, 30, 20])})
    for answer in ([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, 1.0]):
        counter.count({}, {"y": np.array([answer])})
    assert counter.counts["largest:y"].tolist() == [1, 1, 2]


def test_of_a_large_tensor_every_value_has_its_turn() -> None:
    counter = ValueCounter({"input:x": bins_of_quantiles([0.0, 1.0])})
    image = np.zeros((1, 40, 40))
    image[0, 7, 7] = 5.0
    for _ in range(20):
        counter.count({"x": image}, {})
    counts = counter.counts["input:x"].tolist()
    assert counts[2] >= 1
    assert sum(counts) <= 20 * MOST_VALUES


def windows(random: np.random.Generator, shift: float, number: int) -> list[ModelCounts]:
    reference = reference_of(np.random.default_rng(0).normal(size=10_000))
    return [
        ModelCounts(
            requests=100, features={"input:x": count(reference, random.normal(shift, size=100))}
        )
        for _ in range(number)
    ]


def test_the_watch_waits_for_enough_and_forgets_what_is_old() -> None:
    random = np.random.default_rng(3)
    watch = DriftWatch()
    watch.add(windows(random, 2.0, 1)[0])
    assert watch.judge() == {}
    for window in windows(random, 2.0, 5):
        watch.add(window)
    assert watch.judge()["input:x"].drifted
    assert sum(each.requests for each in watch._windows) == LEAST_REQUESTS
    for window in windows(random, 0.0, 2):
        watch.add(window)
    assert not watch.judge()["input:x"].drifted


def test_references_are_read_from_what_a_bundle_holds(tmp_path: Path) -> None:
    from edgekit.bundling.statistics import reference_statistics

    files = affine_bundle("double", "1.0.0", 2.0)
    manifest = parse_manifest(files["manifest.json"], where="test")
    rows = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    (tmp_path / "statistics.json").write_bytes(reference_statistics({"x": rows}, {"y": 2 * rows}))
    found = load_references(lambda name: (tmp_path / name).read_bytes(), manifest)
    assert set(found) == {"input:x", "output:y", "largest:y"}
    assert len(found["largest:y"].expected) == 4
    counter = ValueCounter(found)
    for row in rows:
        counter.count({"x": row[None]}, {"y": 2 * row[None]})
    for name, reference in found.items():
        assert reference.counted(counter.counts[name].tolist()).psi() < 0.01


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"[]",
        b'{"format": "other"}',
        json.dumps(
            {
                "format": "edgekit-statistics",
                "format_version": 1,
                "inputs": {"x": {"quantiles": [3, 2, 1]}},
                "outputs": {"y": {"quantiles": [1, "2"]}},
                "largest": {"y": [0, 0]},
            }
        ).encode(),
    ],
)
def test_statistics_of_another_form_are_left_out(tmp_path: Path, content: bytes) -> None:
    manifest = parse_manifest(affine_bundle("d", "1.0.0", 2.0)["manifest.json"], where="test")
    (tmp_path / "statistics.json").write_bytes(content)
    assert load_references(lambda name: (tmp_path / name).read_bytes(), manifest) == {}
