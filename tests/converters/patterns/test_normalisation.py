from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Left = Callable[..., dict[str, int]]

RNG = np.random.default_rng(5)
CONSTANTS = {
    "g": RNG.normal(1, 0.3, 6).astype(np.float32),
    "b": RNG.normal(size=6).astype(np.float32),
    "two": np.float32(2),
    "one": np.float32(1),
    "eps": np.float32(1e-5),
}
HEAD = "m = ReduceMean<axes = [-1]>(x) d = Sub(x, m)"


def graph(body: str) -> str:
    return f"(float[n,4,6] x) => (float[n,4,6] y) {{ {body} }}"


@pytest.mark.parametrize(
    "body",
    [
        f"""{HEAD} q = Pow(d, two) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e)
        z = Div(d, r) s = Mul(z, g) y = Add(s, b)""",
        f"""{HEAD} q = Mul(d, d) v = ReduceMean<axes = [-1]>(q) e = Add(eps, v) r = Sqrt(e)
        i = Reciprocal(r) z = Mul(d, i) s = Mul(g, z) y = Add(b, s)""",
        f"""{HEAD} q = Mul(d, d) v = ReduceMean<axes = [2]>(q) e = Add(v, eps) r = Sqrt(e)
        i = Div(one, r) k = Mul(i, g) l = Mul(x, k) o = Mul(m, k) p = Sub(b, o) y = Add(l, p)""",
        f"""{HEAD} q = Mul(d, d) v = ReduceMean<axes = [2]>(q) e = Add(v, eps) r = Sqrt(e)
        i = Reciprocal(r) k = Mul(i, g) w = Neg(m) o = Mul(w, k) p = Add(o, b) l = Mul(x, k)
        y = Add(l, p)""",
        f"""{HEAD} q = Mul(d, d) v = ReduceMean<axes = [2]>(q) e = Add(v, eps) r = Sqrt(e)
        i = Reciprocal(r) k = Mul(i, g) o = Mul(m, k) p = Sub(o, b) l = Mul(x, k)
        y = Sub(l, p)""",
    ],
    ids=["torch", "reciprocal", "tf batch_normalization", "keras 3", "all subtracted"],
)
def test_layer_normalization(body: str, simplified: Any) -> None:
    (node,) = simplified(graph(body), CONSTANTS, tolerance=1e-5).graph.node
    assert node.op_type == "LayerNormalization"
    assert len(node.input) == 3


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        (f"""{HEAD} q = Pow(d, two) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e)
         y = Div(d, r)""", 2),
        (f"""{HEAD} q = Mul(d, d) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e)
         i = Reciprocal(r) l = Mul(x, i) o = Mul(m, i) y = Sub(l, o)""", 2),
        (f"""{HEAD} q = Mul(d, d) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e)
         z = Div(d, r) y = Add(z, b)""", 3),
    ],
    ids=["neither", "neither, spread out", "shift alone"],
)  # fmt: skip
def test_layer_normalization_without_scale(body: str, inputs: int, simplified: Any) -> None:
    (node,) = simplified(graph(body), CONSTANTS, tolerance=1e-5).graph.node
    assert node.op_type == "LayerNormalization"
    assert len(node.input) == inputs


def test_several_axes_at_the_end_are_normalised_together(simplified: Any) -> None:
    constants = {**CONSTANTS, "g": RNG.normal(1, 0.3, (4, 6)).astype(np.float32)}
    body = """m = ReduceMean<axes = [1, 2]>(x) d = Sub(x, m) q = Mul(d, d)
    v = ReduceMean<axes = [1, 2]>(q) e = Add(v, eps) r = Sqrt(e) z = Div(d, r) y = Mul(z, g)"""
    (node,) = simplified(graph(body), constants, tolerance=1e-5).graph.node
    assert [a.i for a in node.attribute if a.name == "axis"] == [-2]


@pytest.mark.parametrize(
    "body",
    [
        """m = ReduceMean<axes = [1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes = [1]>(q)
        e = Add(v, eps) r = Sqrt(e) y = Div(d, r)""",
        f"""{HEAD} q = Mul(d, d) v = ReduceMean<axes = [1]>(q) e = Add(v, eps) r = Sqrt(e)
        y = Div(d, r)""",
        f"""{HEAD} q = Mul(d, x) v = ReduceMean<axes = [-1]>(q) a = Abs(v) e = Add(a, eps)
        r = Sqrt(e) y = Div(d, r)""",
        f"""{HEAD} q = Mul(d, d) v = ReduceMean<axes = [-1]>(q) e = Add(v, two) r = Sqrt(e)
        y = Div(d, r)""",
        f"""{HEAD} q = Mul(d, d) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e)
        i = Reciprocal(r) l = Mul(x, i) o = Mul(m, i) y = Add(l, o)""",
        f"""{HEAD} q = Mul(d, d) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e)
        y = Div(x, r)""",
    ],
    ids=["first axis", "two axes", "no square", "large epsilon", "mean added", "not centred"],
)
def test_what_only_looks_like_it_stays(body: str, left: Left) -> None:
    assert "LayerNormalization" not in left(graph(body), CONSTANTS, tolerance=1e-4)


def test_an_epsilon_with_more_axes_than_the_value_stays(simplified: Any) -> None:
    body = f"""{HEAD} q = Mul(d, d) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e)
        y = Div(d, r)"""
    wide = graph(body).replace("(float[n,4,6] y)", "(float[1,n,4,6] y)")
    constants = {**CONSTANTS, "eps": np.full((1, 1, 1, 1), 1e-5, np.float32)}
    nodes = simplified(wide, constants).graph.node
    assert "LayerNormalization" not in {node.op_type for node in nodes}


def test_a_scale_that_differs_along_another_axis_stays_outside(left: Left) -> None:
    constants = {**CONSTANTS, "g": RNG.normal(1, 0.3, (4, 1)).astype(np.float32)}
    body = f"""{HEAD} q = Mul(d, d) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e)
    z = Div(d, r) y = Mul(z, g)"""
    found = left(graph(body), constants, tolerance=1e-5)
    assert found == {"LayerNormalization": 1, "Mul": 1}


def test_an_older_opset_is_raised(simplified: Any) -> None:
    body = f"""{HEAD} q = Pow(d, two) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e)
    z = Div(d, r) s = Mul(z, g) y = Add(s, b)"""
    model = simplified(graph(body), CONSTANTS, opset=13, tolerance=1e-5)
    assert [node.op_type for node in model.graph.node] == ["LayerNormalization"]


def test_root_mean_square_gets_one_form(left: Left) -> None:
    forms = [
        "q = Pow(x, two) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e) z = Div(x, r)",
        """q = Mul(x, x) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e) i = Div(one, r)
        z = Mul(x, i)""",
    ]
    found = [left(graph(f"{form} y = Mul(z, g)"), CONSTANTS) for form in forms]
    assert found == [{"Mul": 3, "ReduceMean": 1, "Add": 1, "Sqrt": 1, "Reciprocal": 1}] * 2


def test_group_normalization_of_torch_is_reshape_and_instance_normalization(left: Left) -> None:
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    text = """(float[n,4,3,3] x) => (float[n,4,3,3] y)
    <int64[3] groups = {0, 2, -1}>
    { a = Reshape(x, groups) c = InstanceNormalization(a, ones, zeros) s = Shape(x)
      y = Reshape(c, s) }"""
    assert left(text, {"ones": ones, "zeros": zeros}) == {
        "Reshape": 2,
        "InstanceNormalization": 1,
    }


def test_unit_length_divides_without_expanding(left: Left) -> None:
    text = """(float[n,6] x) => (float[n,6] y) <float least = {0.000000000001}>
    { l = ReduceL2<axes = [1]>(x) c = Clip(l, least) s = Shape(x) w = Expand(c, s)
      y = Div(x, w) }"""
    assert left(text) == {"ReduceL2": 1, "Clip": 1, "Div": 1}
