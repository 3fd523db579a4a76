"""What is held out is never calibrated with, however large the data is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_converters.calibration import CalibrationSet, survey
from edgekit_converters.calibration.held_out import excerpt_of, hold_out
from edgekit_converters.calibration.labels import LabelNumbers
from edgekit_runtime.tensors import TensorSpec

SPEC = TensorSpec(name="x", dtype="float32", shape=(None, 4))


def _rows(data: CalibrationSet) -> list[list[float]]:
    rows = np.concatenate([batch["x"] for batch in data.batches()])[: data.count]
    return sorted(rows.tolist())


def _loaded(folder: Path, array: Any, **more: Any) -> CalibrationSet:
    np.savez(folder / "a.npz", x=array.astype(np.float32), **more)
    return CalibrationSet.load(folder / "a.npz", [SPEC])


@pytest.fixture(params=["all of it in memory", "an excerpt in memory"])
def _memory(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "an excerpt in memory":
        monkeypatch.setattr(survey, "_EXCERPT_BYTES", 16 * 40)
        monkeypatch.setattr(survey, "_LARGE_BYTES", 16 * 40)


@pytest.mark.usefixtures("_memory")
def test_the_two_parts_are_the_whole(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    labels = np.arange(300) % 7
    whole = _loaded(tmp_path, array, labels=labels)
    parts = hold_out(whole, [SPEC])
    assert parts is not None
    rest, held = parts
    assert rest.count + held.count == 300
    assert 8 <= held.count <= 90
    assert sorted(_rows(rest) + _rows(held)) == sorted(array.tolist())
    assert rest.overlap(held.digests) == 0
    for part in parts:
        assert part.labels is not None
        assert len(part.labels) == part.count == len(part.digests)
        # The labels went with their samples.
        by_row = {tuple(row): label for row, label in zip(array.tolist(), labels, strict=True)}
        excerpt = part.samples
        assert excerpt.labels is not None
        for row, label in zip(excerpt.arrays["x"].tolist(), excerpt.labels, strict=True):
            assert by_row[tuple(row)] == label
    assert rest.source.sha256() == whole.source.sha256()
    assert rest.source.doubts == ()


@pytest.mark.usefixtures("_memory")
def test_what_is_the_same_goes_together(tmp_path: Path) -> None:
    array = np.repeat(np.random.default_rng(0).normal(size=(30, 4)), 10, axis=0)
    parts = hold_out(_loaded(tmp_path, array), [SPEC])
    assert parts is not None
    rest, held = parts
    assert not set(map(tuple, _rows(rest))) & set(map(tuple, _rows(held)))


@pytest.mark.parametrize("array", [np.ones((40, 4)), np.arange(28.0).reshape(7, 4)])
def test_nothing_can_be_held_out(array: Any, tmp_path: Path) -> None:
    assert hold_out(_loaded(tmp_path, array), [SPEC]) is None


@pytest.mark.usefixtures("_memory")
def test_an_excerpt_is_a_set_of_its_own(tmp_path: Path) -> None:
    whole = _loaded(tmp_path, np.random.default_rng(0).normal(size=(300, 4)))
    excerpt = excerpt_of(whole, [SPEC])
    assert excerpt.count == whole.samples.count == len(excerpt.digests)
    assert whole.overlap(excerpt.digests) == excerpt.count
    assert len(_rows(excerpt)) == excerpt.count


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1))
def test_numbers_that_are_spelled(numbers: list[int]) -> None:
    texts = np.array([str(number) for number in numbers])
    found = LabelNumbers(texts)
    assert found.remark == ""
    assert found.of(texts).tolist() == numbers  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("labels", "numbers", "remark"),
    [
        (["b", "a", "b"], [1, 0, 1], "a = 0, b = 1"),
        (["10", "9", "x"], [0, 1, 2], "10 = 0, 9 = 1, x = 2"),
        (["d", "c", "b", "a"], [3, 2, 1, 0], "a = 0, b = 1, c = 2, ..."),
        (["0.5", "1e3"], [0.5, 1000.0], ""),
        ([0.5, 1.5], [0.5, 1.5], ""),
        ([True, False], [True, False], ""),
    ],
)
def test_names_are_numbered_in_their_order(labels: Any, numbers: Any, remark: str) -> None:
    array = np.array(labels)
    found = LabelNumbers(array)
    assert found.of(array).tolist() == numbers  # type: ignore[union-attr]
    assert found.remark.endswith(remark)
    assert bool(found.remark) is bool(remark)


def test_no_labels() -> None:
    found = LabelNumbers(None)
    assert found.of(None) is None
