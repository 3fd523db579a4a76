"""Metrics, paired figures and budgets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_converters.accuracy import AccuracyBudget, compare_answers, metric_named
from edgekit_runtime.errors import UsageError

SCORES = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]], np.float32)


def test_top1_and_what_was_lost() -> None:
    worse = SCORES[:, ::-1].copy()
    worse[0] = SCORES[0]
    labels = np.array([1, 0, 0, 0])
    found = compare_answers(metric_named("top1"), {"y": SCORES}, {"y": worse}, labels)
    assert (found.before, found.after) == (0.75, 0.5)
    assert (found.drop, found.lost, found.gained) == (0.25, 2, 1)
    assert found.agreement == 0.25
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.drop < found.high
    assert found.to_json()["quantized"] == 0.5


def test_top5_counts_ties_against_the_model() -> None:
    scores = np.zeros((1, 7), np.float32)
    assert metric_named("top5").value({"y": scores}, np.array([3])) == 0
    scores[0, :5] = 1
    assert metric_named("top5").value({"y": scores}, np.array([3])) == 1
    with pytest.raises(UsageError, match="top5 says nothing"):
        metric_named("top5").value({"y": SCORES}, np.array([0, 1, 0, 1]))


@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_auc_is_that_of_scikit_learn(seed: int, classes: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn, to compare with")
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random((60, classes)), 1)
    labels = np.arange(60) % classes
    if classes == 2:
        expected = sklearn.roc_auc_score(labels, scores[:, 1] - scores[:, 0])
    else:
        parts = [
            sklearn.roc_auc_score(labels == number, scores[:, number]) for number in range(classes)
        ]
        expected = float(np.mean(parts))
    assert metric_named("auc").value({"y": scores}, labels) == pytest.approx(expected)


def test_auc_of_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="one class"):
        metric_named("auc").value({"y": SCORES}, np.zeros(4, np.int64))


def test_errors_drop_relative_to_the_float_model() -> None:
    labels = np.array([[1.0], [2.0]], np.float32)
    before, after = labels + 0.1, labels + 0.2
    found = compare_answers(metric_named("mae"), {"y": before}, {"y": after}, labels)
    assert found.drop == pytest.approx(1.0, rel=1e-5)
    assert found.low == pytest.approx(1.0, rel=1e-5)
    squared = compare_answers(metric_named("mse"), {"y": before}, {"y": after}, labels)
    assert squared.drop == pytest.approx(3.0, rel=1e-4)


def test_agreement_needs_no_labels() -> None:
    found = compare_answers(metric_named("agreement"), {"y": SCORES}, {"y": 1 - SCORES}, None)
    assert (found.before, found.after, found.drop) == (1.0, 0.0, 1.0)
    with pytest.raises(UsageError, match="needs labels"):
        compare_answers(metric_named("top1"), {"y": SCORES}, {"y": SCORES}, None)


def test_a_users_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metric.py").write_text(
        "def worst(outputs, labels):\n"
        "    return abs(outputs['y'][:, 0] - labels).max()\n"
        "worst.lower_is_better = True\n"
        "def fails(outputs, labels):\n"
        "    return outputs['z']\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_metric", raising=False)
    metric = metric_named("own_metric:worst")
    labels = np.array([0.0, 1.0, 0.0, 1.0])
    assert not metric.higher_is_better
    assert metric.value({"y": SCORES}, labels) == pytest.approx(0.4)
    for name, message in (
        ("own_metric:fails", "failed"),
        ("own_metric:number", "no function"),
        ("own_metric:none", "cannot be imported"),
        ("none_such:f", "cannot be imported"),
        ("f1", "there is no metric"),
    ):
        with pytest.raises(UsageError, match=message):
            metric_named(name).value({"y": SCORES}, labels)


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        ("top1", np.array([0, 1])),
        ("top1", np.array([0, 1, 2, 0])),
        ("top1", np.array([0, 1, -1, 0])),
        ("top1", np.array([0.0, 1, 1, 0])),
        ("mae", np.array([0.0, 1, 1, 0])),
        ("mse", np.full((4, 2), np.nan)),
        ("mse", np.array(["a", "b", "c", "d"])),
    ],
)
def test_labels_that_do_not_fit(metric: str, labels: np.ndarray) -> None:
    with pytest.raises(UsageError, match="labels"):
        metric_named(metric).value({"y": SCORES}, labels)


def test_answers_of_different_samples_cannot_be_paired() -> None:
    with pytest.raises(UsageError, match="cannot be paired"):
        compare_answers(metric_named("agreement"), {"y": SCORES}, {"y": SCORES[:2]}, None)


def test_answers_that_are_no_numbers_are_wrong() -> None:
    labels = np.array([0, 1])
    right = np.array([[2.0, 1.0], [0.0, 3.0]])
    broken = np.array([[np.nan, 1.0], [0.0, 3.0]])
    found = compare_answers(metric_named("top1"), {"y": right}, {"y": broken}, labels)
    assert (found.drop, found.lost) == (0.5, 1)
    assert compare_answers(metric_named("agreement"), {"y": right}, {"y": broken}, None).drop == 0.5
    wanted = np.array([[1.0, 1.0], [0.0, 2.0]])
    error = compare_answers(metric_named("mae"), {"y": right}, {"y": broken}, wanted)
    assert error.drop == np.inf
    assert not AccuracyBudget(drop=1.0).holds(error.drop)
    document = json.loads(json.dumps(error.to_json(), allow_nan=False))
    assert (document["quantized"], document["drop"], document["drop_low"]) == (None, None, None)


def test_budgets() -> None:
    assert AccuracyBudget.parse("0.5%") == AccuracyBudget.parse("0.005")
    budget = AccuracyBudget.parse(" 1 % ")
    assert budget.holds(0.01)
    assert not budget.holds(0.0101)
    assert budget.describe(metric_named("top1")) == "1 points of top1"
    assert budget.describe(metric_named("mae")) == "1 % of the float model's mae"
    for text in ("", "much", "-1%", "2", "nan"):
        with pytest.raises(UsageError, match="not a drop"):
            AccuracyBudget.parse(text)
