from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

Left = Callable[..., dict[str, int]]

WEIGHTS = {"w": np.random.default_rng(1).normal(size=(2, 2, 3, 3)).astype(np.float32)}
HEAD = """(float[n,2,6,6] x) => (float[n,2,a,b] y)
    <int64[8] around = {0,0,1,2, 0,0,2,1}, int64[8] one = {0,0,1,1, 0,0,1,1},
     int64[8] three = {0,0,3,3, 0,0,3,3}, int64[8] channel = {0,1,0,0, 0,1,0,0},
     int64[8] batch = {1,0,0,0, 0,0,0,0}, int64[8] crop = {0,0,-1,0, 0,0,0,0},
     int64[4] two = {1,1,1,1}, int64[2] axes = {2,-1}, float zero = {0.0}, float lot = {1.0}>"""


def graph(body: str) -> str:
    return f"{HEAD} {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ("p = Pad(x, around) y = Conv(p, w)", "Conv"),
        ("p = Pad(x, one, zero) y = Conv<pads = [1,0,1,0], strides = [2,2]>(p, w)", "Conv"),
        ("p = Pad(x, one) y = AveragePool<kernel_shape = [3,3]>(p)", "AveragePool"),
        ("p = Pad(x, one) y = AveragePool<kernel_shape = [3,3], pads = [1,1,1,1], "
         "count_include_pad = 1>(p)", "AveragePool"),
    ],
)  # fmt: skip
def test_zeros_become_padding(body: str, operator: str, left: Left) -> None:
    assert left(graph(body), WEIGHTS, tolerance=1e-5) == {operator: 1}


def test_axes_of_a_pad_are_heeded(left: Left) -> None:
    body = 'p = Pad(x, two, "", axes) y = Conv(p, w)'.replace('""', "")
    assert left(graph(body), WEIGHTS, opset=18, tolerance=1e-5) == {"Conv": 1}


@pytest.mark.parametrize(
    "body",
    [
        "p = Pad(x, one, lot) y = Conv(p, w)",
        "p = Pad<mode = \"reflect\">(x, one) y = Conv(p, w)",
        "p = Pad(x, crop) y = Conv(p, w)",
        "p = Pad(x, batch) y = Conv(p, w)",
        "p = Pad(x, one) y = Conv<auto_pad = \"SAME_UPPER\">(p, w)",
        "p = Pad(x, one) y = AveragePool<kernel_shape = [3,3], pads = [1,1,1,1]>(p)",
        "p = Pad(x, one) y = AveragePool<kernel_shape = [3,3], strides = [2,2], ceil_mode = 1>(p)",
        "p = Pad(x, three) y = AveragePool<kernel_shape = [3,3]>(p)",
        "p = Pad(x, one) y = MaxPool<kernel_shape = [3,3]>(p)",
    ],
    ids=["ones", "reflected", "cropped", "batch", "automatic", "uncounted", "rounded up", "wide",
         "maximum of any sign"],
)  # fmt: skip
def test_other_padding_stays(body: str, left: Left) -> None:
    assert "Pad" in left(graph(body), WEIGHTS, tolerance=1e-5)


def test_padding_that_is_needed_elsewhere_stays(left: Left) -> None:
    text = HEAD.replace("float[n,2,a,b] y", "float[n,2,a,b] y, float[n,2,c,d] p")
    body = "{ p = Pad(x, one) y = Conv(p, w) }"
    assert left(f"{text} {body}", WEIGHTS, tolerance=1e-5) == {"Pad": 1, "Conv": 1}


@pytest.mark.parametrize("before", ["Relu(x)", "Sigmoid(x)", "Clip(x, zero, lot)"])
def test_a_maximum_does_not_see_zeros_beside_what_is_never_negative(
    before: str, left: Left
) -> None:
    body = f"r = {before} p = Pad(r, one) y = MaxPool<kernel_shape = [3,3], strides = [2,2]>(p)"
    assert "Pad" not in left(graph(body))


@pytest.mark.parametrize(
    "body",
    [
        "r = Tanh(x) p = Pad(r, one) y = MaxPool<kernel_shape = [3,3]>(p)",
        "r = Relu(x) p = Pad(r, three) y = MaxPool<kernel_shape = [3,3]>(p)",
        "r = Relu(x) p = Pad(r, one) y = MaxPool<kernel_shape = [2,2], dilations = [2,2]>(p)",
        "r = Relu(x) p = Pad(r, one, lot) y = MaxPool<kernel_shape = [3,3]>(p)",
    ],
    ids=["negative", "windows of zeros", "dilated", "ones"],
)
def test_a_maximum_that_could_see_them_keeps_them(body: str, left: Left) -> None:
    assert "Pad" in left(graph(body))
