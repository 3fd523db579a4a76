"""Declarative steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_runtime.bundle.manifest import Step
from edgekit_runtime.errors import InvalidBundleError
from edgekit_runtime.processing import apply_steps


def test_steps_run_in_order_on_their_tensor() -> None:
    steps = (
        Step(op="affine", tensor="x", parameters={"scale": 2.0}),
        Step(op="affine", tensor="x", parameters={"offset": 1}),
    )
    arrays = {"x": np.array([1, 2], dtype=np.uint8), "y": np.array([5])}
    result = apply_steps(steps, arrays)
    assert result["x"].tolist() == [3.0, 5.0]
    assert result["x"].dtype == np.float32
    assert result["y"].tolist() == [5]
    assert arrays["x"].tolist() == [1, 2]


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8))
def test_softmax_gives_probabilities_in_the_same_order(scores: list[float]) -> None:
    array = np.array([scores])
    result = apply_steps((Step(op="softmax", tensor="y"),), {"y": array})["y"]
    assert result.sum() == pytest.approx(1.0)
    assert (result >= 0).all()
    assert result.argmax() == array.argmax() or result[0, array.argmax()] == result.max()


def test_unknown_steps_and_parameters_are_refused() -> None:
    with pytest.raises(InvalidBundleError, match="unknown processing step 'magic'"):
        apply_steps((Step(op="magic", tensor="x"),), {"x": np.zeros(1)})
    with pytest.raises(InvalidBundleError, match="'scale' must be a number"):
        apply_steps((Step(op="affine", tensor="x", parameters={"scale": "2"}),), {"x": np.zeros(1)})
