"""Comparisons, logic and choices in every type, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

node = helper.make_node
F = np.float32
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64"]
COMPARISONS = {
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
}
LOGIC = {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}


def edges(dtype: str) -> Any:
    """Numbers near the ends of a type, all of which differ in few bits."""
    if dtype.startswith("float"):
        limits = np.finfo(dtype)
        numbers = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1, -1, limits.max, limits.min]
        numbers += [1 + limits.eps, float(limits.tiny)]
        return np.array(numbers, dtype=dtype)
    limits = np.iinfo(dtype)
    middle = (limits.max - limits.min) // 2
    numbers = [limits.min, limits.min + 1, limits.max, limits.max - 1, 0, 1, 2]
    return np.array([*numbers, middle, middle + limits.min], dtype=dtype)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
@pytest.mark.parametrize("operator", COMPARISONS)
def test_comparison_of_all_pairs(operator: str, dtype: str, constant: bool, evaluate: Any) -> None:
    values = edges(dtype)
    arrays, constants = {"a": values[:, None]}, {}
    (constants if constant else arrays)["b"] = values
    compare = node(operator, ["a", "b"], ["y"])
    computed = evaluate(compare, arrays, constants=constants, opset=19, free=True).y
    np.testing.assert_array_equal(computed, COMPARISONS[operator](values[:, None], values))
    assert computed.dtype == bool


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((2, 3, 4), (3, 1)), ((3,), ())])
@pytest.mark.parametrize("operator", [*LOGIC, "Equal"])
def test_logic(operator: str, shapes: Any, evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.integers(0, 2, shape).astype(bool) for shape in shapes)
    second = np.asarray(second)
    computed = evaluate(node(operator, ["a", "b"], ["y"]), {"a": first, "b": second}).y
    np.testing.assert_array_equal(computed, {**LOGIC, **COMPARISONS}[operator](first, second))


def test_negation(evaluate: Any) -> None:
    assert evaluate(node("Not", ["a"], ["y"]), {"a": np.array([True, False])}).y.tolist() == [
        False,
        True,
    ]


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, "bool"])
def test_choice_in_every_type(dtype: str, evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    first = rng.integers(0, 2 if dtype == "bool" else 99, (2, 3, 4)).astype(dtype)
    second = rng.integers(0, 2 if dtype == "bool" else 99, (4,)).astype(dtype)
    condition = rng.integers(0, 2, (3, 1)).astype(bool)
    arrays = {"c": condition, "a": first, "b": second}
    computed = evaluate(node("Where", ["c", "a", "b"], ["y"]), arrays).y
    np.testing.assert_array_equal(computed, np.where(condition, first, second))
    assert computed.dtype == dtype


def test_choices_behind_a_convolution(evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    image, weights = (
        rng.normal(size=(2, 3, 4, 5)).astype(F),
        rng.normal(size=(4, 3, 1, 1)).astype(F),
    )
    other = rng.normal(size=(4, 1, 1)).astype(F)
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Greater", ["c", "k"], ["m"]),
        node("Where", ["m", "c", "k"], ["y"]),
    ]
    found = evaluate(nodes, {"x": image}, constants={"w": weights, "k": other}, free=True)
    convolved = np.einsum("oi,nihw->nohw", weights[:, :, 0, 0], image)
    np.testing.assert_allclose(found.y, np.maximum(convolved, other), rtol=1e-4, atol=1e-5)
    assert found.codes.count("TRANSPOSE") == 2


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_no_number(dtype: str, evaluate: Any) -> None:
    values = edges(dtype)
    computed = evaluate(node("IsNaN", ["x"], ["y"]), {"x": values}, opset=20).y
    np.testing.assert_array_equal(computed, np.isnan(values))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("positive", "negative"), [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_what_is_infinite(dtype: str, positive: int, negative: int, evaluate: Any) -> None:
    values = edges(dtype)
    is_inf = node("IsInf", ["x"], ["y"], detect_positive=positive, detect_negative=negative)
    computed = evaluate(is_inf, {"x": values}, opset=20, free=True).y
    expected = (np.isposinf(values) & bool(positive)) | (np.isneginf(values) & bool(negative))
    np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
@pytest.mark.parametrize("operator", ["Abs", "Neg", "Sign"])
def test_signs_in_every_type(operator: str, dtype: str, evaluate: Any) -> None:
    if operator == "Neg" and dtype.startswith("uint"):
        pytest.skip("ONNX has no negative of unsigned numbers")
    values = edges(dtype)
    formula = {"Abs": np.abs, "Neg": np.negative, "Sign": np.sign}[operator]
    with np.errstate(all="ignore"):
        expected = formula(values)
    computed = evaluate(node(operator, ["x"], ["y"]), {"x": values}).y
    np.testing.assert_array_equal(computed, expected)
    assert computed.dtype == dtype
