"""Arithmetic in every type, against numpy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F = np.float32
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
NUMBERS = [*INTEGERS, "float16", "float32"]
SHAPES = [((2, 3), (2, 3)), ((2, 3, 4, 5), (3, 1, 1)), ((3,), ()), ((2, 1, 4), (5, 1))]


def numbers(dtype: str, shape: tuple[int, ...], seed: int = 1) -> Any:
    """Numbers over the whole range of a type, with its ends."""
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return rng.normal(scale=3, size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    values = rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    flat = values.reshape(-1)
    if flat.size > 3:
        flat[:3] = limits.min, limits.max, 0
    return values


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("dtype", [*NUMBERS, "float64"])
@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul"])
def test_arithmetic_wraps_around(operator: str, dtype: str, shapes: Any, evaluate: Any) -> None:
    first, second = numbers(dtype, shapes[0]), numbers(dtype, shapes[1], 2)
    formula = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[operator]
    with np.errstate(over="ignore"):
        expected = formula(first, second)
    computed = evaluate(node(operator, ["a", "b"], ["y"]), {"a": first, "b": second}).y
    np.testing.assert_array_equal(computed, expected)
    assert computed.dtype == dtype


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Max"])
@pytest.mark.parametrize("dtype", ["uint64", "float64"])
def test_wide_types_with_a_free_batch_and_a_constant(
    operator: str, dtype: str, evaluate: Any
) -> None:
    first, second = numbers(dtype, (4, 3)), numbers(dtype, (1, 3), 2)
    formula = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum}[operator]
    computed = evaluate(
        node(operator, ["a", "b"], ["y"]), {"a": first}, constants={"b": second}, free=True
    ).y
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(computed, formula(first, second))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_divide_towards_zero(dtype: str, constant: bool, evaluate: Any) -> None:
    first, second = numbers(dtype, (40, 5)), numbers(dtype, (40, 5), 2)
    small = np.arange(1, 201).reshape(40, 5) % 7 + 1
    second = np.where(small % 2, second, small.astype(dtype))
    second = np.where(second == 0, 3, second).astype(dtype)
    first[3, 3], second[3, 3] = np.iinfo(dtype).max, 1
    # Python's integers divide downwards, and never overflow.
    quotients = [
        abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        for a, b in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True)
    ]
    expected = np.array(quotients, dtype=object).reshape(first.shape)
    arrays, constants = {"a": first}, {}
    (constants if constant else arrays)["b"] = second
    computed = evaluate(node("Div", ["a", "b"], ["y"]), arrays, constants=constants).y
    fits = (expected >= np.iinfo(dtype).min) & (expected <= np.iinfo(dtype).max)
    np.testing.assert_array_equal(computed[fits], expected[fits].astype(dtype))


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_rests_of_integers(dtype: str, constant: bool, fmod: int, evaluate: Any) -> None:
    first, second = numbers(dtype, (20, 5)), numbers(dtype, (20, 5), 2)
    small = np.arange(1, 101).reshape(20, 5) % 7 + 1
    second = np.where(small % 2, second, small.astype(dtype))
    second = np.where(second == 0, 3, second).astype(dtype)
    if dtype.startswith("int"):
        # The processor cannot divide these two.
        first[1, 1], second[1, 1] = np.iinfo(dtype).min, -1
    pairs = list(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    rests = [a % b if not fmod else abs(a) % abs(b) * (-1 if a < 0 else 1) for a, b in pairs]
    arrays, constants = {"a": first}, {}
    (constants if constant else arrays)["b"] = second
    mod = node("Mod", ["a", "b"], ["y"], fmod=fmod)
    computed = evaluate(mod, arrays, constants=constants).y
    np.testing.assert_array_equal(computed.ravel(), np.array(rests, dtype=dtype))


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rests_of_floats(dtype: str, fmod: int, evaluate: Any) -> None:
    inf, nan = np.inf, np.nan
    first = np.array([-4.3, 7.2, 5, -1e-4, 3, -3, inf, nan, 1, 1, -0.0, 6], dtype=dtype)
    second = np.array([2.1, -3.4, 8, 1, inf, inf, 2, 2, nan, 0, 5, -2], dtype=dtype)
    with np.errstate(invalid="ignore"):
        expected = (np.fmod if fmod else np.mod)(first, second)
    mod = node("Mod", ["a", "b"], ["y"], fmod=fmod)
    # Floats without `fmod` came with a later opset.
    computed = evaluate(mod, {"a": first, "b": second}, opset=13 if fmod else 28).y
    np.testing.assert_allclose(computed, expected, rtol=1e-6)


@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 3), (3,)], [(2, 3), (1,), (4, 1, 1), (2, 1)]])
@pytest.mark.parametrize("operator", ["Sum", "Mean", "Max", "Min"])
def test_any_number_of_operands(operator: str, shapes: Any, evaluate: Any) -> None:
    arrays = {f"x{k}": numbers("float32", shape, k) for k, shape in enumerate(shapes)}
    formula = {"Max": np.maximum, "Min": np.minimum}.get(operator, np.add)
    expected = functools.reduce(formula, arrays.values())
    if operator == "Mean":
        expected = expected / F(len(shapes))
    computed = evaluate(node(operator, [*arrays], ["y"]), arrays).y
    np.testing.assert_allclose(computed, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [*NUMBERS, "float64"])
@pytest.mark.parametrize("operator", ["Max", "Min"])
def test_extremes_in_every_type(operator: str, dtype: str, evaluate: Any) -> None:
    first, second = numbers(dtype, (3, 4)), numbers(dtype, (4,), 2)
    computed = evaluate(node(operator, ["a", "b"], ["y"]), {"a": first, "b": second}).y
    formula = np.maximum if operator == "Max" else np.minimum
    np.testing.assert_array_equal(computed, formula(first, second))


@pytest.mark.parametrize("constant", ["", "a", "b"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("operator", ["Max", "Min"])
def test_extremes_of_nan_are_nan(operator: str, dtype: str, constant: str, evaluate: Any) -> None:
    nan, inf = np.nan, np.inf
    arrays = {
        "a": np.array([nan, 1, nan, inf, -inf, 2, 3, 0.5, nan], dtype=dtype),
        "b": np.array([1, nan, nan, nan, 1, 5, 2, -0.5, -inf], dtype=dtype),
    }
    formula = np.maximum if operator == "Max" else np.minimum
    expected = formula(arrays["a"], arrays["b"])
    constants = {constant: arrays.pop(constant)} if constant else {}
    computed = evaluate(node(operator, ["a", "b"], ["y"]), arrays, constants=constants).y
    np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("constant", ["", "a", "b"])
@pytest.mark.parametrize(
    "shapes",
    [((4, 5), ()), ((), (4, 5)), ((4, 5), (5,)), ((4, 5), (4, 1)), ((4, 1), (4, 5)),
     ((5,), (4, 5)), ((4, 1), (1, 5)), ((1, 5), (4, 1)), ((1,), (4, 5)), ((4, 1), (1, 1)),
     ((3, 1, 1), (2, 3, 4, 5)), ((2, 3, 4, 5), (3, 1, 1)), ((4,), (4,)), ((4,), (1,))],
)  # fmt: skip
def test_nan_on_either_side_of_a_broadcast(
    shapes: Any, constant: str, free: bool, evaluate: Any
) -> None:
    for nan in "ab":
        arrays = {"a": np.asarray(F(2) + np.zeros(shapes[0], F)), "b": np.ones(shapes[1], F)}
        if nan != constant:
            arrays[nan][...] = np.nan
        expected = np.maximum(arrays["a"], arrays["b"])
        constants = {constant: arrays.pop(constant)} if constant else {}
        maximum = node("Max", ["a", "b"], ["y"])
        computed = evaluate(maximum, arrays, constants=constants, free=free).y
        np.testing.assert_array_equal(computed, expected)


def test_the_operands_keep_the_layout_of_an_image(evaluate: Any) -> None:
    image, other = numbers("float32", (2, 3, 4, 5)), numbers("float32", (3, 1, 1), 2)
    weights = numbers("float32", (3, 3, 1, 1), 3)
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Max", ["c", "k"], ["m"]),
        node("Mod", ["m", "k"], ["y"], fmod=1),
    ]
    found = evaluate(nodes, {"x": image}, constants={"w": weights, "k": other}, free=True)
    convolved = np.einsum("oi,nihw->nohw", weights[:, :, 0, 0], image)
    expected = np.fmod(np.maximum(convolved, other), other)
    np.testing.assert_allclose(found.y, expected, rtol=1e-3, atol=1e-5)
    assert found.codes.count("TRANSPOSE") == 2


POWERS = {
    "int32": np.array([2, -2, 3, -1, 1, -1, 0, 7, 10, -1, 1, 5, -3]),
    "float32": np.array([2, -2, 3, 4.5, 1, -1, 0, 7, 10, -1, 1, 5, -3]),
}


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("exponents", [*INTEGERS, "float16", "float32"])
@pytest.mark.parametrize("bases", ["int32", "int64", "float16", "float32"])
def test_powers(bases: str, exponents: str, constant: bool, evaluate: Any) -> None:
    base = POWERS["float32" if bases.startswith("float") else "int32"].astype(bases)
    exponent = np.array([10, 3, 5, 2, 9, 99, 4, 1, 0, 100, 0, 6, 3]).astype(exponents)
    if bases == "float16":
        base, exponent = np.abs(base) / np.float16(4), np.minimum(exponent, 8).astype(exponents)
    arrays, constants = {"a": base}, {}
    (constants if constant else arrays)["b"] = exponent
    computed = evaluate(node("Pow", ["a", "b"], ["y"]), arrays, constants=constants).y
    expected = np.power(base.astype(np.float64), exponent.astype(np.float64)).astype(bases)
    assert computed.dtype == bases
    np.testing.assert_allclose(computed, expected, rtol=2e-3 if bases == "float16" else 1e-6)


def test_integer_powers_that_float32_cannot_hold(evaluate: Any) -> None:
    base = np.array([3, -3, 10, 2, -2, 7, 1, -1, 0, 5], dtype=np.int64)
    exponent = np.array([39, 39, 18, 62, 63, 22, -5, -5, 3, -2], dtype=np.int64)
    computed = evaluate(node("Pow", ["a", "b"], ["y"]), {"a": base, "b": exponent}).y
    expected = [3**39, -(3**39), 10**18, 2**62, -(2**63), 7**22, 1, -1, 0, 0]
    assert computed.tolist() == expected


@pytest.mark.parametrize("exponent", [1, 2, 3, 13, 17, 0, -1])
def test_a_constant_integer_power(exponent: int, evaluate: Any) -> None:
    base = np.array([1, 2, -3, 5, -1], dtype=np.int64)
    constants = {"b": np.array(exponent, dtype=np.int64)}
    computed = evaluate(node("Pow", ["a", "b"], ["y"]), {"a": base}, constants=constants).y
    expected = [
        int(b**exponent) if exponent >= 0 else {1: 1, -1: -1}.get(b, 0) for b in base.tolist()
    ]
    assert computed.tolist() == expected


def test_an_integer_to_a_broken_power(evaluate: Any) -> None:
    arrays = {"a": np.array([9, 8, 10], dtype=np.int32), "b": F([0.5, 0.34, -1.5])}
    assert evaluate(node("Pow", ["a", "b"], ["y"]), arrays).y.tolist() == [3, 2, 0]


@pytest.mark.parametrize("operator", ["Div", "Mod", "Pow"])
def test_double_precision_without_kernels_is_refused(operator: str, evaluate: Any) -> None:
    fmod = {"fmod": 1} if operator == "Mod" else {}
    values = np.array([1.5, 2.5])
    with pytest.raises(UnsupportedModelError, match=f"culprit \\({operator}\\).*float64"):
        evaluate(
            node(operator, ["a", "b"], ["y"], name="culprit", **fmod), {"a": values, "b": values}
        )
