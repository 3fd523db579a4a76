from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

Left = Callable[..., dict[str, int]]


def weights(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(scale=0.5, size=shape).astype(np.float32)


LAYERS: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "conv": ("n,2,5,5", "c = Conv(x, w)", {"w": weights(4, 2, 3, 3)}),
    "conv with bias": ("n,2,5,5", "c = Conv(x, w, b)", {"w": weights(4, 2, 3, 3), "b": weights(4)}),
    "grouped": ("n,4,5,5", "c = Conv<group = 2>(x, w)", {"w": weights(4, 2, 3, 3)}),
    "transposed": ("n,2,3,3", "c = ConvTranspose(x, w)", {"w": weights(2, 4, 3, 3)}),
    "transposed groups": (
        "n,2,3,3", "c = ConvTranspose<group = 2>(x, w)", {"w": weights(2, 2, 3, 3)},
    ),
    "conv of one axis": ("n,2,7", "c = Conv(x, w)", {"w": weights(4, 2, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "behind",
    [
        "y = Mul(c, g)",
        "y = Add(c, h)",
        "y = Sub(c, h)",
        "s = Mul(g, c) y = Add(h, s)",
        "s = Add(c, h) y = Mul(s, g)",
        "s = Add(c, k) t = Mul(s, k) y = Sub(t, h)",
    ],
)
def test_constants_behind_a_convolution(layer: str, behind: str, left: Left) -> None:
    shape, body, constants = LAYERS[layer]
    wide = (4,) + (1,) * (shape.count(",") - 1)
    more = {"g": weights(*wide, seed=2), "h": weights(1, *wide, seed=3), "k": np.float32(1.7)}
    result = ",".join(["n", "4", *"abcd"[: shape.count(",") - 1]])
    text = f"(float[{shape}] x) => (float[{result}] y) {{ {body} {behind} }}"
    found = left(text, {**constants, **more}, tolerance=1e-5)
    assert list(found.values()) == [1]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("c = Gemm<alpha = 0.5, beta = 2.0>(x, w, b) s = Mul(c, g) y = Add(s, h)", ["Gemm"]),
        ("c = Gemm<transB = 1>(x, v) s = Add(c, h) y = Mul(s, g)", ["Gemm"]),
        ("c = MatMul(x, w) s = Mul(c, g) y = Add(s, h)", ["Gemm"]),
        ("c = MatMul(x, w) s = Add(c, k) t = Mul(s, g) y = Add(t, h)", ["Gemm"]),
    ],
)
def test_constants_behind_a_matrix_product(body: str, names: list[str], left: Left) -> None:
    constants = {
        "w": weights(3, 4), "v": weights(4, 3), "b": weights(4), "g": weights(4, seed=2),
        "h": weights(1, 4, seed=3), "k": np.float32(0.3),
    }  # fmt: skip
    text = f"(float[n,3] x) => (float[n,4] y) {{ {body} }}"
    assert list(left(text, constants, tolerance=1e-5)) == names


def test_a_product_of_more_axes_keeps_its_sum_apart(left: Left) -> None:
    """Such layers become fully connected ones, which quantize; Gemm has two axes."""
    text = """(float[n,5,3] x) => (float[n,5,4] y)
    { c = MatMul(x, w) s = Add(c, h) t = Mul(s, g) y = Add(t, h) }"""
    constants = {"w": weights(3, 4), "g": weights(4, seed=2), "h": weights(4, seed=3)}
    assert left(text, constants, tolerance=1e-5) == {"MatMul": 1, "Add": 1}


@pytest.mark.parametrize(
    "body",
    ["s = Mul(x, g) y = Conv(s, w)", "s = Mul(g, x) t = Add(s, h) y = Conv(t, w)",
     "s = Sub(x, h) t = Mul(s, g) y = Conv(t, w)", "s = Sub(x, h) y = Conv<group = 2>(s, v)",
     "s = Mul(x, g) y = Conv<group = 2, pads = [1,1,1,1]>(s, v)",
     "s = Mul(x, k) y = ConvTranspose(s, q)"],
)  # fmt: skip
def test_constants_in_front_of_a_convolution(body: str, left: Left) -> None:
    constants = {
        "w": weights(4, 4, 3, 3), "v": weights(4, 2, 3, 3), "q": weights(4, 4, 3, 3),
        "g": weights(4, 1, 1, seed=2), "h": weights(1, 4, 1, 1, seed=3), "k": np.float32(0.3),
    }  # fmt: skip
    text = f"(float[n,4,5,5] x) => (float[n,4,a,b] y) {{ {body} }}"
    assert list(left(text, constants, tolerance=1e-5).values()) == [1]


@pytest.mark.parametrize(
    "body",
    ["s = Mul(x, g) y = MatMul(s, w)", "s = Mul(x, g) t = Add(s, h) y = Gemm(t, w)",
     "s = Sub(x, h) y = Gemm<transB = 1, alpha = 0.5>(s, v)"],
)  # fmt: skip
def test_constants_in_front_of_a_matrix_product(body: str, left: Left) -> None:
    constants = {"w": weights(3, 4), "v": weights(4, 3), "g": weights(3, seed=2),
                 "h": weights(1, 3, seed=3)}  # fmt: skip
    text = f"(float[n,3] x) => (float[n,4] y) {{ {body} }}"
    assert list(left(text, constants, tolerance=1e-5).values()) == [1]


def test_an_image_prepared_inside_the_model_costs_nothing(left: Left) -> None:
    text = """(float[n,3,6,6] x) => (float[n,4,a,b] y)
    <float wide = {255.0}, float[1,3,1,1] mean = {0.48, 0.45, 0.40},
     float[1,3,1,1] std = {0.22, 0.23, 0.24}>
    { s = Div(x, wide) t = Sub(s, mean) u = Div(t, std) y = Conv(u, w) }"""
    assert left(text, {"w": weights(4, 3, 3, 3)}, tolerance=1e-5) == {"Conv": 1}


def test_zeros_that_are_padded_are_not_shifted(left: Left) -> None:
    text = """(float[n,4,5,5] x) => (float[n,4,5,5] y)
    { s = Add(x, h) y = Conv<pads = [1,1,1,1]>(s, w) }"""
    constants = {"w": weights(4, 4, 3, 3), "h": weights(4, 1, 1)}
    assert left(text, constants, tolerance=1e-5) == {"Add": 1, "Conv": 1}


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("(float[n,2,4,4] x) => (float[n,4,4,4] y) { c = Conv(x, w) y = Mul(c, g) }",
         {"w": weights(4, 2, 1, 1), "g": weights(4)}),
        ("(float[n,2,4,4] x) => (float[1,n,4,4,4] y) { c = Conv(x, w) y = Mul(c, g) }",
         {"w": weights(4, 2, 1, 1), "g": weights(1, 1, 4, 1, 1)}),
        ("(float[n,2,4,4] x) => (float[n,4,4,4] y) { c = Conv(x, w) y = Sub(g, c) }",
         {"w": weights(4, 2, 1, 1), "g": weights(4, 1, 1)}),
        ("(float[n,1,4,4] x) => (float[n,2,4,4] y) { c = Mul(x, g) y = Conv(c, w) }",
         {"w": weights(2, 3, 1, 1), "g": weights(3, 1, 1)}),
        ("(float[4,3] x) => (float[4,4] y) { c = Gemm(x, w, b) y = Add(c, g) }",
         {"w": weights(3, 4), "b": weights(4, 1), "g": weights(4, seed=2)}),
        ("(float[n,3] x) => (float[n,4] y, float[n,4] c) { c = Gemm(x, w) y = Mul(c, g) }",
         {"w": weights(3, 4), "g": weights(4)}),
        ("(float[n,3] x) => (float[n,4] y, float[n,4] z) { c = Gemm(x, w) y = Mul(c, g) "
         "z = Gemm(x, w) }", {"w": weights(3, 4), "g": weights(4)}),
        ("(float[n,3] x, float[3,4] w) => (float[n,4] y) { c = Gemm(x, w) y = Mul(c, g) }",
         {"g": weights(4)}),
        ("(float[n,3] x) => (float[n,4] y) { c = Gemm(x, w) y = Mul(c, g) }",
         {"w": weights(3, 4) * np.float32(1e30), "g": np.float32(1e30)}),
    ],
    ids=["another axis", "another rank", "from a constant", "channel of one", "column bias",
         "output", "shared weights", "free weights", "overflow"],
)  # fmt: skip
def test_what_is_no_constant_of_the_layer_stays(text: str, constants: Any, left: Left) -> None:
    options = {"low": 0.0, "high": 0.0} if "overflow" in str(constants) else {}
    found = left(text, constants, tolerance=1e-5, **options)
    assert sum(found.values()) == text.count("=") - text.count("=>")


def test_a_scale_reaches_its_layer_through_what_only_moves(simplified: Any) -> None:
    text = """(float[n,5,8] x) => (float[n,2,4,5] y)
    <float scale = {0.3535534}, int64[4] heads = {0, 5, 2, 4}>
    { c = MatMul(x, w) s = Add(c, b) h = Reshape(s, heads)
      t = Transpose<perm = [0, 2, 3, 1]>(h) y = Mul(t, scale) }"""
    model = simplified(text, {"w": weights(8, 8), "b": weights(8)}, tolerance=1e-5)
    assert "Mul" not in [node.op_type for node in model.graph.node]


def test_a_layer_keeps_its_name(simplified: Any) -> None:
    model = simplified(
        """(float[n,2,4,4] x) => (float[n,4,4,4] y)
        { [features_0] c = Conv(x, w) [scale] s = Mul(c, g) [shift] y = Add(s, g) }""",
        {"w": weights(4, 2, 1, 1), "g": weights(4, 1, 1)},
    )
    assert [node.name for node in model.graph.node] == ["features_0"]
