"""Labels of two programs are compared as classes, and equal scores are no difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit_converters.sources.decision import DecidedSession, Decision
from edgekit_runtime.session import RuntimeInfo
from edgekit_runtime.tensors import TensorSpec


class Fixed:
    """A session that always answers the same."""

    runtime = RuntimeInfo(name="fixed", version="1", threads=1)
    inputs = (TensorSpec(name="x", dtype="float32", shape=(None, 1)),)

    def __init__(self, label: Any, scores: Any) -> None:
        self._answer = {"label": np.array(label), "scores": np.array(scores, dtype=np.float32)}
        self.outputs = tuple(
            TensorSpec(name=n, dtype=a.dtype.name, shape=a.shape) for n, a in self._answer.items()
        )

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._answer)

    def close(self) -> None:
        """Nothing to let go of."""


def _labels(label: Any, scores: Any, *classes: int | str) -> list[int]:
    decision = Decision(label="label", scores="scores", classes=classes)
    session = DecidedSession(Fixed(label, scores), decision)
    assert session.outputs[0].dtype == "int64"
    found: list[int] = session.run({})["label"].reshape(-1).tolist()
    return found


def test_of_equal_scores_the_first_counts() -> None:
    scores = [[0.5, 0.5, 0.0], [0.2, 0.4, 0.4000001], [0.1, 0.3, 0.6]]
    assert _labels([1, 2, 2], scores, 0, 1, 2) == [0, 1, 2]


def test_what_ties_do_not_explain_stays() -> None:
    assert _labels([2, 0], [[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]], 0, 1, 2) == [2, 0]


def test_numbers_stay_numbers_and_names_become_positions() -> None:
    scores = [[0.9, 0.1], [0.1, 0.9]]
    assert _labels([3, 7], scores, 3, 7) == [3, 7]
    assert _labels(["cold", "hot"], scores, "cold", "hot") == [0, 1]
    assert _labels(["cold", "warm"], scores, "cold", "hot") == [0, -1]
    assert _labels([3, 9], scores, 3, 7) == [3, 9]


def test_one_score_for_two_classes() -> None:
    assert _labels([[-1], [1], [1]], [[-0.5], [1e-7], [0.4]], -1, 1) == [-1, -1, 1]
    assert _labels([[-1], [-1], [1]], [[-0.5], [-1e-7], [0.4]], -1, 1) == [-1, -1, 1]
