from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from edgekit_converters.patterns import simplify_for
from tests.converters.patterns.conftest import assert_same, operators, read, settle

RNG = np.random.default_rng(2)
CONSTANTS = {
    "s": RNG.uniform(0.5, 1.5, 2).astype(np.float32),
    "b": RNG.normal(size=2).astype(np.float32),
    "g": RNG.normal(size=(4, 1, 1)).astype(np.float32),
    "h": RNG.normal(size=(1, 4, 1, 1)).astype(np.float32),
}


def grouped(text: str) -> Any:
    """What LiteRT gets of a graph; that it computes the same is asserted."""
    used = {
        name: array for name, array in CONSTANTS.items() if f"{name})" in text or f"{name}," in text
    }
    model = read(text, used)
    before = model.SerializeToString()
    result = simplify_for("litert", model, settle=settle)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=False)
    assert_same(model, result, tolerance=1e-5)
    return result


def graph(behind: str, middle: str = "0, 2, -1") -> str:
    return f"""(float[n,4,3,3] x) => (float[n,4,3,3] y) <int64[3] groups = {{{middle}}}>
    {{ r = Reshape(x, groups) i = InstanceNormalization(r, s, b) z = Shape(x)
       k = Reshape(i, z) {behind} }}"""


@pytest.mark.parametrize(
    ("behind", "left"),
    [
        ("m = Mul(k, g) y = Add(m, h)", {"GroupNormalization": 1}),
        ("m = Mul(g, k) a = Add(h, m) y = Relu(a)", {"GroupNormalization": 1, "Relu": 1}),
        ("y = Add(k, h)", {"GroupNormalization": 1}),
        ("y = Relu(k)", {"GroupNormalization": 1, "Relu": 1}),
    ],
)
def test_groups_become_one_operator(behind: str, left: dict[str, int]) -> None:
    result = grouped(graph(behind))
    assert operators(result) == left
    assert result.opset_import[0].version == 21


@pytest.mark.parametrize(
    "text",
    [
        graph("y = Mul(k, x)").replace("k = Reshape(i, z)", "q = Relu(i) k = Reshape(q, z)"),
        graph("y = Relu(k)").replace("float[n,4,3,3] y)", "float[n,4,3,3] y, float[n,2,18] i)"),
        "(float[n,2,9] x) => (float[n,2,9] y) { y = InstanceNormalization(x, s, b) }",
        """(float[2,4,3,3] x) => (float[2,4,3,3] y) <int64[3] o = {4, 2, 9}, int64[4] z = {2,4,3,3}>
        { r = Reshape(x, o) i = InstanceNormalization(r, s, b) y = Reshape(i, z) }""",
    ],
    ids=["something between", "an output between", "instances", "groups across samples"],
)
def test_what_is_no_group_normalization_stays(text: str) -> None:
    assert "InstanceNormalization" in operators(grouped(text))


def test_a_model_without_any_is_given_back() -> None:
    model = read("(float[n,4] x) => (float[n,4] y) { y = Relu(x) }")
    assert simplify_for("litert", model, settle=settle) is model
