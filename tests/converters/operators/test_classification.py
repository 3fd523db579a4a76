"""Softmax, Hardmax and normalisation along any axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

node = helper.make_node
F = np.float32


def hardmax(values: Any, axis: int) -> Any:
    winner = np.expand_dims(values.argmax(axis), axis)
    places = np.arange(values.shape[axis])
    shape = [1] * values.ndim
    shape[axis] = -1
    return (places.reshape(shape) == winner).astype(values.dtype)


def softmax(values: Any, axis: int) -> Any:
    shifted = np.exp(values - values.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


@pytest.mark.parametrize("convolved", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
@pytest.mark.parametrize("operator", ["Hardmax", "Softmax", "LogSoftmax"])
def test_along_any_axis(operator: str, axis: int, convolved: bool, evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    # Whole numbers, so that there are ties.
    values = rng.integers(-2, 3, (3, 4, 5, 6)).astype(F)
    nodes = [node(operator, ["c" if convolved else "x"], ["y"], axis=axis)]
    if convolved:
        nodes.insert(0, node("Conv", ["x", "w"], ["c"]))
    constants = {"w": np.eye(4, dtype=F)[:, :, None, None]} if convolved else {}
    computed = evaluate(nodes, {"x": values}, constants=constants, free=True).y
    expected = hardmax(values, axis) if operator == "Hardmax" else softmax(values, axis)
    if operator == "LogSoftmax":
        expected = np.log(expected)
    np.testing.assert_allclose(computed, expected, rtol=1e-5, atol=1e-6)


def test_hardmax_of_ties_is_the_first(evaluate: Any) -> None:
    values = F([[3, 3, 3, 1], [0, 7, 7, -1], [-np.inf, -np.inf, -np.inf, -np.inf]])
    computed = evaluate(node("Hardmax", ["x"], ["y"]), {"x": values}, opset=13).y
    assert computed.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]


def test_hardmax_along_a_free_axis(evaluate: Any) -> None:
    values = F([[3, 1, 3, 1], [0, 7, 7, -1], [2, 9, 1, 4]])
    computed = evaluate(node("Hardmax", ["x"], ["y"], axis=0), {"x": values}, free=True).y
    np.testing.assert_array_equal(computed, hardmax(values, 0))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 3, -1, -3])
def test_lp_normalization(axis: int, power: int, dtype: str, evaluate: Any) -> None:
    values = np.random.default_rng(1).normal(size=(3, 4, 5, 6)).astype(dtype)
    values[:, 2] = 0
    values[:, :, 1] = 0
    normalize = node("LpNormalization", ["x"], ["y"], axis=axis, p=power)
    computed = evaluate(normalize, {"x": values}, opset=22, free=True).y
    norm = (np.abs(values.astype(float)) ** power).sum(axis, keepdims=True) ** (1 / power)
    expected = values / np.where(norm == 0, 1, norm)
    np.testing.assert_allclose(
        computed, expected, rtol=3e-3 if dtype == "float16" else 1e-6, atol=1e-7
    )


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("axis", [0, 3, -1])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Hardmax", "LpNormalization"])
def test_more_axes_than_xnnpack_has(operator: str, axis: int, free: bool, evaluate: Any) -> None:
    values = np.random.default_rng(1).normal(size=(2, 1, 3, 2, 2, 1, 2)).astype(F)
    computed = evaluate(node(operator, ["x"], ["y"], axis=axis), {"x": values}, free=free).y
    expected = {
        "Softmax": softmax(values, axis),
        "LogSoftmax": np.log(softmax(values, axis)),
        "Hardmax": hardmax(values, axis),
        "LpNormalization": values / np.sqrt((values**2).sum(axis, keepdims=True)),
    }[operator]
    np.testing.assert_allclose(computed, expected, rtol=1e-5, atol=1e-6)
