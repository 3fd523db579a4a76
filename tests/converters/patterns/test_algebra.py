from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Left = Callable[..., dict[str, int]]

NUMBERS = """float zero = {0.0}, float one = {1.0}, float two = {2.0}, float half = {0.5},
    float three = {3.0}, float tiny = {1e-40}, float[4] row = {1.0, 2.0, 3.0, 4.0},
    float[4] ones = {1.0, 1.0, 1.0, 1.0}, float[1,1,1] wide = {1.0}, float large = {1e30},
    float mixed = {1.5}, float[4] zeros = {0.0, 0.0, 0.0, 0.0}"""


def graph(body: str, result: str = "n,4") -> str:
    return f"(float[n,4] x) => (float[{result}] y) <{NUMBERS}> {{ {body} }}"


@pytest.mark.parametrize(
    "body",
    ["a = Mul(x, one) y = Relu(a)", "a = Div(x, ones) y = Relu(a)", "a = Add(zero, x) y = Relu(a)",
     "a = Sub(x, zeros) y = Relu(a)", "a = Pow(x, one) y = Relu(a)",
     "a = Cast<to = 1>(x) y = Relu(a)"],
)  # fmt: skip
def test_what_does_nothing_goes(body: str, left: Left) -> None:
    assert left(graph(body)) == {"Relu": 1}


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("a = Sub(zero, x) y = Relu(a)", "n,4"),
        ("a = Div(one, x) y = Relu(a)", "n,4"),
        ("a = Mul(x, wide) y = Relu(a)", "1,n,4"),
        ("y = Mul(x, one)", "n,4"),
    ],
    ids=["from zero", "one over", "adds an axis", "between border and border"],
)
def test_what_only_looks_as_if_it_did_nothing_stays(body: str, result: str, left: Left) -> None:
    assert sum(left(graph(body, result), low=1, high=2).values()) == body.count("=")


def test_a_neutral_constant_that_widens_stays(left: Left) -> None:
    text = f"(float[n,1] x) => (float[n,4] y) <{NUMBERS}> {{ a = Mul(x, ones) y = Relu(a) }}"
    assert left(text) == {"Mul": 1, "Relu": 1}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Pow(x, two)", {"Mul": 1}),
        ("y = Pow(x, half)", {"Sqrt": 1}),
        ("y = Pow(x, three)", {"Pow": 1}),
        ("y = Div(x, row)", {"Mul": 1}),
        ("y = Div(x, zero)", {"Div": 1}),
        ("y = Div(one, x)", {"Reciprocal": 1}),
        ("a = Mul(x, two) y = Mul(row, a)", {"Mul": 1}),
        ("a = Sub(x, two) y = Add(a, row)", {"Add": 1}),
        ("a = Add(x, two) y = Sub(a, row)", {"Add": 1}),
        ("a = Mul(x, two) b = Sub(a, row) y = Mul(b, three)", {"Mul": 1, "Add": 1}),
        ("a = Mul(x, large) y = Mul(a, large)", {"Mul": 2}),
        ("y = Max(x, zero)", {"Relu": 1}),
        ("y = Min(x, two)", {"Clip": 1}),
        ("a = Max(x, zero) y = Min(a, two)", {"Clip": 1}),
        ("a = Relu(x) y = Clip(a, half, two)", {"Clip": 1}),
        ("a = Clip(x, zero, three) b = Clip(a, one, two) y = Relu(b)", {"Clip": 1}),
        ("y = Clip(x, zero)", {"Relu": 1}),
        ("a = Max(x, row) y = Min(a, two)", {"Max": 1, "Clip": 1}),
    ],
)
def test_plainer_forms(body: str, expected: dict[str, int], left: Left) -> None:
    with np.errstate(all="ignore"):
        assert left(graph(body), low=1e-3, high=4) == expected


def test_crossed_bounds_are_joined_as_they_are_applied(left: Left) -> None:
    # Every value is cut to two, and then raised to three.
    assert left(graph("a = Clip(x, zero, two) y = Clip(a, three)")) == {"Clip": 1}


def test_integers_keep_their_powers_and_divisions(left: Left) -> None:
    text = """(int32[n,4] x) => (int32[n,4] y)
    <int32 two = {2}, float half = {0.5}, int32 three = {3}>
    { a = Pow(x, half) b = Pow(a, two) y = Div(b, three) }"""
    assert left(text, low=1, high=90) == {"Pow": 2, "Div": 1}


def test_a_broadcast_root_is_inverted_before_it_is_wide(left: Left) -> None:
    text = """(float[n,4] x) => (float[n,4] y)
    { q = Mul(x, x) s = ReduceMean<axes = [1]>(q) r = Sqrt(s) y = Div(x, r) }"""
    assert left(text)["Reciprocal"] == 1


def test_a_value_that_is_read_twice_is_not_taken_from_its_reader(left: Left) -> None:
    text = f"""(float[n,4] x) => (float[n,4] y, float[n,4] a) <{NUMBERS}>
    {{ a = Mul(x, two) y = Mul(a, row) }}"""
    assert left(text) == {"Mul": 2}


def test_outputs_keep_their_names(simplified: Any) -> None:
    model = simplified(
        f"(float[n,4] x) => (float[n,4] y) <{NUMBERS}> {{ a = Relu(x) y = Mul(a, one) }}"
    )
    assert [list(node.output) for node in model.graph.node] == [["y"]]
