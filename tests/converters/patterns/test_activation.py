from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Left = Callable[..., dict[str, int]]

NUMBERS = """float half = {0.5}, float one = {1.0}, float root = {0.70710678},
    float two = {1.4142135}, float minus = {-0.70710678}, float three = {3.0},
    float six = {6.0}, float zero = {0.0},
    float cube = {0.044715}, float tanh_scale = {0.7978845608}, float sixth = {0.16666667},
    float fifth = {0.2}, float twenty = {20.0}, float ten = {10.0}"""


def graph(body: str, shape: str = "n,5") -> str:
    return f"(float[{shape}] x) => (float[{shape}] y) <{NUMBERS}> {{ {body} }}"


@pytest.mark.parametrize(
    "body",
    [
        "a = Div(x, two) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)",
        "a = Mul(root, x) b = Erf(a) c = Add(one, b) d = Mul(half, x) y = Mul(d, c)",
        "a = Mul(x, root) b = Erf(a) c = Mul(b, half) d = Add(c, half) y = Mul(d, x)",
        "a = Mul(x, minus) b = Erf(a) c = Sub(one, b) d = Mul(half, c) y = Mul(x, d)",
        "a = Neg(x) e = Mul(a, root) b = Erf(e) c = Sub(one, b) d = Mul(x, c) y = Mul(half, d)",
    ],
    ids=["torch", "tf2onnx", "shared half", "jax erfc", "negated"],
)
def test_gelu(body: str, left: Left) -> None:
    assert left(graph(body)) == {"Gelu": 1}


@pytest.mark.parametrize(
    "body",
    [
        """p = Pow(x, three) q = Mul(p, cube) s = Add(x, q) i = Mul(s, tanh_scale) t = Tanh(i)
        o = Add(t, one) h = Mul(x, half) y = Mul(h, o)""",
        """p = Mul(x, x) q = Mul(p, cube) r = Add(q, one) s = Mul(x, tanh_scale) i = Mul(s, r)
        t = Tanh(i) o = Add(one, t) h = Mul(x, o) y = Mul(half, h)""",
        """p = Mul(x, x) c = Mul(p, x) q = Mul(cube, c) s = Add(q, x) i = Mul(tanh_scale, s)
        t = Tanh(i) o = Add(one, t) h = Mul(half, o) y = Mul(h, x)""",
    ],
    ids=["cube by Pow", "factored", "cube by Mul"],
)
def test_gelu_by_tanh(body: str, simplified: Any) -> None:
    (node,) = simplified(graph(body)).graph.node
    assert node.op_type == "Gelu"
    assert node.attribute[0].s == b"tanh"


@pytest.mark.parametrize(
    "body",
    [
        "a = Mul(x, half) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)",
        "a = Mul(x, root) b = Erf(a) c = Add(b, half) d = Mul(x, c) y = Mul(d, half)",
        "a = Mul(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, six)",
        "a = Mul(x, root) b = Erf(a) c = Sub(one, b) d = Mul(x, c) y = Mul(d, half)",
        "a = Mul(x, root) b = Erf(a) c = Sub(b, one) d = Mul(x, c) y = Mul(d, half)",
        """p = Pow(x, three) q = Mul(p, half) s = Add(x, q) i = Mul(s, tanh_scale) t = Tanh(i)
        o = Add(t, one) h = Mul(x, half) y = Mul(h, o)""",
    ],
    ids=["another root", "another one", "another half", "minus", "minus one", "another cube"],
)
def test_what_only_looks_like_gelu_stays(body: str, left: Left) -> None:
    assert "Gelu" not in left(graph(body))


def test_gelu_of_another_value_stays(left: Left) -> None:
    text = f"""(float[n,5] x, float[n,5] z) => (float[n,5] y) <{NUMBERS}>
    {{ a = Mul(x, root) b = Erf(a) c = Add(b, one) d = Mul(z, c) y = Mul(d, half) }}"""
    assert "Gelu" not in left(text)


def test_gelu_whose_inner_value_is_needed_stays(left: Left) -> None:
    text = f"""(float[n,5] x) => (float[n,5] y, float[n,5] b) <{NUMBERS}>
    {{ a = Mul(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half) }}"""
    assert "Gelu" not in left(text)


def test_a_number_of_higher_rank_widens_and_is_no_gelu(left: Left) -> None:
    text = """(float[n,5] x) => (float[1,n,5] y)
    <float[1,1,1] half = {0.5}, float one = {1.0}, float root = {0.70710678}>
    { a = Mul(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half) }"""
    assert "Gelu" not in left(text)


@pytest.mark.parametrize(
    "body",
    [
        "a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) y = Div(c, six)",
        "a = Add(three, x) b = Clip(a, zero, six) c = Mul(b, sixth) y = Mul(c, x)",
        "a = Add(x, three) b = Clip(a, zero, six) c = Div(b, six) y = Mul(x, c)",
        "a = Add(x, three) m = Max(a, zero) b = Min(m, six) c = Mul(x, b) y = Mul(c, sixth)",
        "a = Add(x, three) r = Relu(a) b = Min(r, six) c = Mul(x, b) y = Mul(c, sixth)",
        "a = HardSigmoid<alpha: float = 0.16666667, beta: float = 0.5>(x) y = Mul(a, x)",
    ],
    ids=["torch", "keras", "gate first", "max and min", "relu and min", "hard sigmoid"],
)
def test_hard_swish(body: str, left: Left) -> None:
    assert left(graph(body)) == {"HardSwish": 1}


@pytest.mark.parametrize(
    "body",
    [
        "a = Add(x, three) b = Clip(a, zero, six) y = Div(b, six)",
        "a = Add(x, three) b = Clip(a, zero, six) y = Mul(sixth, b)",
        "a = Mul(x, fifth) b = Add(a, half) y = Clip(b, zero, one)",
    ],
    ids=["torch", "keras 3", "keras 2"],
)
def test_hard_sigmoid(body: str, left: Left) -> None:
    assert left(graph(body)) == {"HardSigmoid": 1}


@pytest.mark.parametrize(
    "body",
    [
        "a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) y = Div(c, three)",
        "a = Add(x, six) b = Clip(a, zero, six) c = Mul(x, b) y = Div(c, six)",
        "a = Add(x, three) b = Clip(a, one, six) c = Mul(x, b) y = Div(c, six)",
        "a = HardSigmoid(x) y = Mul(a, x)",
    ],
    ids=["another slope", "another shift", "another bound", "slope of a fifth"],
)
def test_what_only_looks_like_hard_swish_stays(body: str, left: Left) -> None:
    assert "HardSwish" not in left(graph(body))


def test_integers_are_no_activation(left: Left) -> None:
    text = """(int32[n,5] x) => (int32[n,5] y)
    <int32 three = {3}, int32 six = {6}, int32 zero = {0}>
    { a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) y = Div(c, six) }"""
    assert "HardSwish" not in left(text)


@pytest.mark.parametrize(
    "body",
    ["a = Exp(x) b = Add(a, one) y = Log(b)", "a = Exp(x) b = Add(one, a) y = Log(b)"],
)
def test_softplus(body: str, left: Left) -> None:
    assert left(graph(body)) == {"Softplus": 1}


def test_softplus_does_not_overflow(simplified: Any) -> None:
    from tests.converters.patterns.conftest import run

    model = simplified(graph("a = Exp(x) b = Add(a, one) y = Log(b)"))
    (large,) = run(model, {"x": np.full((1, 5), 200, np.float32)})
    np.testing.assert_allclose(large, 200)


@pytest.mark.parametrize(("bound", "count"), [("twenty", 0), ("ten", 1)])
def test_the_line_of_a_softplus_is_dropped_where_it_is_the_curve(
    bound: str, count: int, left: Left
) -> None:
    found = left(
        graph(f"a = Softplus(x) b = Greater(x, {bound}) y = Where(b, x, a)"), low=-30, high=30
    )
    assert found.get("Where", 0) == count


@pytest.mark.parametrize(
    "body", ["a = Sigmoid(x) y = Mul(x, a)", "a = Softplus(x) b = Tanh(a) y = Mul(x, b)"]
)
def test_swish_and_mish_keep_their_parts(body: str, left: Left) -> None:
    assert sum(left(graph(body)).values()) == body.count("=")


def test_an_old_opset_is_raised_for_gelu_and_nothing_else_changes(simplified: Any) -> None:
    model = simplified(
        """(float[n,2,4] x) => (float[n,2] y)
        <float half = {0.5}, float one = {1.0}, float root = {0.70710678}>
        { a = Mul(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) e = Mul(d, half)
          y = ReduceMax<axes = [2], keepdims = 0>(e) }""",
        opset=13,
    )
    assert [node.op_type for node in model.graph.node] == ["Gelu", "ReduceMax"]
    assert model.opset_import[0].version == 20


def test_the_opset_stays_where_a_body_would_have_to_change(simplified: Any) -> None:
    model = simplified(
        """(float[n,4] x, bool c) => (float[n,4] y)
        <float half = {0.5}, float one = {1.0}, float root = {0.70710678}>
        { a = Mul(x, root) b = Erf(a) k = Add(b, one) d = Mul(x, k) e = Mul(d, half)
          y = If (c) <
            then_branch = g1 () => (float[n,4] p) { m = ReduceMax<axes = [1]>(e) p = Add(e, m) },
            else_branch = g2 () => (float[n,4] q) { q = Neg(e) }
          > }""",
        opset=13,
    )
    assert model.opset_import[0].version == 13
    assert "Gelu" not in [node.op_type for node in model.graph.node]


def test_constants_may_have_seven_digits(left: Left) -> None:
    text = f"""(float[n,5] x) => (float[n,5] y)
    <float half = {{0.5}}, float one = {{1.0}}, float two = {{{round(math.sqrt(2), 6)}}}>
    {{ a = Div(x, two) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half) }}"""
    assert left(text) == {"Gelu": 1}
