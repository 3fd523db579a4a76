"""Functions of one number against their values in double precision, over their whole domains."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import helper

node = helper.make_node
F = np.float32
TINY = float(np.finfo(F).tiny)


def spread(low: float, high: float, count: int = 4001) -> Any:
    """Numbers between two, dense around zero and towards both ends."""
    sizes = np.geomspace(1e-30, max(abs(low), abs(high)), count)
    near_ends = [
        end + sign * (high - low) * np.geomspace(1e-7, 0.1, 200)
        for end, sign in ((low, 1), (high, -1))
    ]
    values = np.concatenate([sizes, -sizes, np.linspace(low, high, count), *near_ends, [0.0]])
    return values[(values >= low) & (values <= high)].astype(F)


def erf(values: Any) -> Any:
    return np.array([math.erf(value) for value in values.tolist()])


def softplus(values: Any) -> Any:
    return np.maximum(values, 0) + np.log1p(np.exp(-np.abs(values)))


def mish(values: Any) -> Any:
    return values * np.tanh(softplus(values))


CURVES: list[tuple[str, Callable[[Any], Any], Any, float]] = [
    ("Asin", np.arcsin, spread(-1, 1), 1e-6),
    ("Acos", np.arccos, spread(-1, 1), 1e-6),
    ("Atan", np.arctan, spread(-1e30, 1e30), 1e-6),
    ("Asinh", np.arcsinh, spread(-3e38, 3e38), 1e-6),
    ("Acosh", np.arccosh, np.concatenate([spread(1, 3), spread(1, 3e38)]), 1e-6),
    ("Atanh", np.arctanh, spread(-0.999999, 0.999999), 1e-6),
    ("Sinh", np.sinh, spread(-89.4, 89.4), 1e-6),
    ("Cosh", np.cosh, spread(-89.4, 89.4), 1e-6),
    ("Tan", np.tan, spread(-1000, 1000), 1e-6),
    ("Erf", erf, spread(-10, 10), 1e-6),
    ("Softplus", softplus, spread(-80, 80), 4e-6),
    ("Mish", mish, spread(-80, 80), 4e-6),
    ("Softsign", lambda x: x / (1 + np.abs(x)), spread(-1e30, 1e30), 1e-6),
    ("Exp", np.exp, spread(-80, 88), 4e-6),
    # XNNPACK is half off from 2 ** 126 on.
    ("Sqrt", np.sqrt, spread(0, 8e37), 1e-6),
    ("Tanh", np.tanh, spread(-20, 20), 1e-6),
    ("Sigmoid", lambda x: 1 / (1 + np.exp(-x)), spread(-80, 80), 1e-6),
    ("Reciprocal", np.reciprocal, spread(1e-30, 1e30), 1e-6),
]  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "formula", "values", "tolerance"), CURVES, ids=[curve[0] for curve in CURVES]
)
def test_relative_precision(
    operator: str, formula: Any, values: Any, tolerance: float, evaluate: Any
) -> None:
    computed = evaluate(node(operator, ["x"], ["y"]), {"x": values}, opset=22, free=True).y
    expected = formula(values.astype(np.float64))
    # XNNPACK takes denormal numbers for zeros.
    normal = (np.abs(expected) >= TINY) & ((np.abs(values) >= TINY) | (values == 0))
    error = np.abs(computed - expected)[normal] / np.abs(expected)[normal]
    assert error.max() <= tolerance, values[normal][error.argmax()]
    assert np.all(np.abs(computed - expected)[~normal] <= 1e-7 * np.abs(expected)[~normal] + TINY)


def test_absolute_precision_of_what_xnnpack_rounds(evaluate: Any) -> None:
    for operator, formula, values in [
        ("Sin", np.sin, spread(-1e4, 1e4)),
        ("Cos", np.cos, spread(-1e4, 1e4)),
        ("Log", np.log, spread(1e-30, 1e30)),
    ]:
        computed = evaluate(node(operator, ["x"], ["y"]), {"x": values}, opset=22).y
        np.testing.assert_allclose(
            computed, formula(values.astype(np.float64)), rtol=1e-6, atol=5e-7
        )


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("Asin", [np.nan, np.nan, np.nan, np.nan, 0.0]),
        ("Acos", [np.nan, np.nan, np.nan, np.nan, math.pi / 2]),
        ("Atan", [np.nan, math.pi / 2, -math.pi / 2, math.atan(-2), 0.0]),
        ("Asinh", [np.nan, np.inf, -np.inf, math.asinh(-2), 0.0]),
        ("Acosh", [np.nan, np.inf, np.nan, np.nan, np.nan]),
        ("Atanh", [np.nan, np.nan, np.nan, np.nan, 0.0]),
        ("Sinh", [np.nan, np.inf, -np.inf, math.sinh(-2), 0.0]),
        ("Cosh", [np.nan, np.inf, np.inf, math.cosh(-2), 1.0]),
        ("Tan", [np.nan, np.nan, np.nan, math.tan(-2), 0.0]),
        ("Erf", [np.nan, 1.0, -1.0, math.erf(-2), 0.0]),
        ("Softplus", [np.nan, np.inf, 0.0, math.log1p(math.exp(-2)), math.log(2)]),
        ("Round", [np.nan, np.inf, -np.inf, -2, 0.0]),
        ("Sign", [np.nan, 1, -1, -1, 0]),
        ("Abs", [np.nan, np.inf, np.inf, 2, 0]),
        ("Relu", [np.nan, np.inf, 0, 0, 0]),
    ],
)
def test_what_is_not_finite(operator: str, expected: Any, evaluate: Any) -> None:
    values = F([np.nan, np.inf, -np.inf, -2, 0])
    computed = evaluate(node(operator, ["x"], ["y"]), {"x": values}, opset=22, plain=False).y
    np.testing.assert_allclose(computed, expected, rtol=1e-6)


@pytest.mark.parametrize(("operator", "at"), [("Atanh", 1), ("Acosh", 1), ("Acosh", -1e30)])
def test_ends_of_a_domain(operator: str, at: float, evaluate: Any) -> None:
    expected = {("Atanh", 1): np.inf, ("Acosh", 1): 0.0}.get((operator, int(at)), np.nan)
    computed = evaluate(node(operator, ["x"], ["y"]), {"x": F([at])}, opset=22, plain=False).y
    np.testing.assert_equal(computed[0], F(expected))


def test_halves_are_rounded_to_even(evaluate: Any) -> None:
    values = F([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 2.4999998, 1e9])
    computed = evaluate(node("Round", ["x"], ["y"]), {"x": values}).y
    np.testing.assert_array_equal(computed, np.round(values))


@pytest.mark.parametrize("operator", [curve[0] for curve in CURVES])
def test_half_precision_and_a_scalar(operator: str, evaluate: Any) -> None:
    formula = next(curve[1] for curve in CURVES if curve[0] == operator)
    values = np.float16([0.25, 0.5, 0.75]) + np.float16(1.0 if operator == "Acosh" else 0.0)
    computed = evaluate(node(operator, ["x"], ["y"]), {"x": values}, opset=22).y
    expected = formula(values.astype(np.float64)).astype(np.float16)
    np.testing.assert_allclose(computed, expected, rtol=2e-3)
    scalar = evaluate(node(operator, ["x"], ["y"]), {"x": np.asarray(values[0])}, opset=22).y
    assert scalar.shape == ()
    np.testing.assert_allclose(scalar, expected[0], rtol=2e-3)


@pytest.mark.parametrize("operator", ["Atan", "Erf", "Tan", "Asinh"])
def test_behind_a_convolution(operator: str, evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    image, weights = (
        rng.normal(size=(2, 3, 4, 5)).astype(F),
        rng.normal(size=(4, 3, 1, 1)).astype(F),
    )
    nodes = [node("Conv", ["x", "w"], ["c"]), node(operator, ["c"], ["y"])]
    found = evaluate(nodes, {"x": image}, constants={"w": weights}, free=True)
    formula = next(curve[1] for curve in CURVES if curve[0] == operator)
    convolved = np.einsum("oi,nihw->nohw", weights[:, :, 0, 0].astype(float), image)
    expected = formula(convolved.ravel()).reshape(convolved.shape)
    np.testing.assert_allclose(found.y, expected, rtol=1e-3, atol=1e-5)
    assert found.codes.count("TRANSPOSE") == 2
