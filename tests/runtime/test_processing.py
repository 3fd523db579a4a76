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


def step(op: str, array: object, **parameters: object) -> np.ndarray[tuple[int, ...], np.dtype]:
    given = {"x": np.asarray(array)}
    return apply_steps((Step(op=op, tensor="x", parameters=parameters),), given)["x"]


def test_a_scale_for_each_channel() -> None:
    image = np.ones((1, 2, 2, 3), np.uint8)
    made = step("affine", image, scale=[1, 2, 3], offset=0.5)
    assert made[0, 0, 0].tolist() == [1.5, 2.5, 3.5]
    made = step("affine", image.transpose(0, 3, 1, 2), scale=[1, 2, 3], axis=1)
    assert made[0, :, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"scale": [1, 2]}, "2 numbers for an axis of 3"),
        ({"scale": [1, 2, 3], "axis": 2}, "no axis of 2"),
        ({"scale": [1, "2", 3]}, "must hold numbers"),
        ({"offset": []}, "must hold numbers"),
    ],
)
def test_channels_that_do_not_fit_are_named(parameters: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidBundleError, match=text):
        step("affine", np.zeros((1, 3)), **parameters)


def test_casting_rounds_and_keeps_to_the_range() -> None:
    made = step("cast", [-1000.0, -0.5, 0.5, 1.5, 1000.0, 3e9], dtype="int8")
    assert made.tolist() == [-128, 0, 0, 2, 127, 127]
    assert step("cast", np.array([3e9], np.float32), dtype="int32").tolist() == [2**31 - 1]
    with pytest.raises(InvalidBundleError, match="'dtype' must be one of"):
        step("cast", [1.0], dtype="object")


def test_clip_argmax_and_files_as_they_are() -> None:
    assert step("clip", np.array([-2, 0, 9], np.int8), low=-1, high=3).tolist() == [-1, 0, 3]
    with pytest.raises(InvalidBundleError, match="'low' must be a number"):
        step("clip", [1.0], high=2)
    assert step("argmax", [[1.0, 3.0, 2.0], [5.0, 1.0, 1.0]]).tolist() == [1, 0]
    assert step("image", [[1, 2]], colour="rgb").tolist() == [[1, 2]]


@given(st.floats(-1e30, 1e30))
def test_sigmoid_never_overflows(value: float) -> None:
    made = step("sigmoid", np.array([value, -value]))
    assert made.sum() == pytest.approx(1.0)
    assert (made >= 0).all()
