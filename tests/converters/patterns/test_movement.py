from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.converters.patterns.conftest import operators

Left = Callable[..., dict[str, int]]


def weights(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(scale=0.5, size=shape).astype(np.float32)


def test_a_row_of_movements_becomes_three(left: Left) -> None:
    text = """(float[12,n,8] x) => (float[n,2,4,12] y)
    <int64[3] joined = {12,-1,4}, int64[4] heads = {-1,2,12,4}>
    { a = Reshape(x, joined) b = Transpose<perm = [1,0,2]>(a) c = Reshape(b, heads)
      y = Transpose<perm = [0,1,3,2]>(c) }"""
    assert left(text) == {"Reshape": 1, "Transpose": 1}


def test_ones_that_come_and_go_leave_nothing(left: Left) -> None:
    text = """(float[n,3] x) => (float[n,3] y) <int64[1] first = {0}, int64[1] one = {1}>
    { r = Relu(x) a = Unsqueeze(r, first) b = Transpose<perm = [1,0,2]>(a) y = Squeeze(b, one) }"""
    assert left(text) == {"Relu": 1}


def test_steps_first_and_batch_first_around_a_layer(left: Left) -> None:
    text = """(float[n,5,3] x) => (float[n,5,4] y)
    { a = Transpose<perm = [1,0,2]>(x) c = MatMul(a, w) d = Add(c, b)
      y = Transpose<perm = [1,0,2]>(d) }"""
    assert left(text, {"w": weights(3, 4), "b": weights(4)}) == {"MatMul": 1, "Add": 1}


def test_flattened_rows_around_a_layer(left: Left) -> None:
    text = """(float[n,2,5,4] x) => (float[n,5,6] y)
    <int64[2] rows = {-1,8}, int64[3] steps = {5,-1,6}>
    { a = Transpose<perm = [2,0,1,3]>(x) r = Reshape(a, rows) c = Gemm<transB = 1>(r, w, b)
      d = Reshape(c, steps) y = Transpose<perm = [1,0,2]>(d) }"""
    found = left(text, {"w": weights(6, 8), "b": weights(6)})
    assert found == {"Transpose": 1, "Reshape": 1, "MatMul": 1, "Add": 1}


@pytest.mark.parametrize(
    "body",
    [
        "a = Transpose<perm = [0,2,1]>(x) c = MatMul(a, w) y = Transpose<perm = [0,2,1]>(c)",
        "a = Transpose<perm = [1,0,2]>(x) c = MatMul(w, a) y = Transpose<perm = [1,0,2]>(c)",
        "a = Transpose<perm = [1,0,2]>(x) c = MatMul(a, x) y = Transpose<perm = [1,0,2]>(c)",
    ],
    ids=["the layer's axis moves", "weights first", "no weights"],
)
def test_movements_that_a_layer_would_notice_stay(body: str, left: Left) -> None:
    text = f"(float[5,5,5] x) => (float[5,5,5] y) {{ {body} }}"
    assert left(text, {"w": weights(5, 5)} if "w" in body else None)["Transpose"] == 2


ATTENTION = """(float[n,5,8] x) => (float[n,5,8] y)
<int64[4] split = {5,-1,3,8}, int64[1] front = {0}, int64[1] fourth = {3}, int64 zero = {0},
 int64 one = {1}, int64 two = {2}, int64[3] joined = {5,-1,4}, int64[4] heads = {-1,2,5,4},
 int64[2] rows = {-1,8}, int64[3] steps = {5,-1,8}, float scale = {0.5}>
{ a = Transpose<perm = [1,0,2]>(x) p = MatMul(a, w) s = Add(p, b) r = Reshape(s, split)
  u = Unsqueeze(r, front) t = Transpose<perm = [3,1,2,0,4]>(u) z = Squeeze(t, fourth)
  q = Gather<axis = 0>(z, zero) k = Gather<axis = 0>(z, one) v = Gather<axis = 0>(z, two)
  qj = Reshape(q, joined) qt = Transpose<perm = [1,0,2]>(qj) qh = Reshape(qt, heads)
  kj = Reshape(k, joined) kt = Transpose<perm = [1,0,2]>(kj) kh = Reshape(kt, heads)
  vj = Reshape(v, joined) vt = Transpose<perm = [1,0,2]>(vj) vh = Reshape(vt, heads)
  km = Transpose<perm = [0,1,3,2]>(kh) qs = Mul(qh, scale) ks = Mul(km, scale)
  c = MatMul(qs, ks) f = Softmax<axis = -1>(c) m = MatMul(f, vh)
  mt = Transpose<perm = [2,0,1,3]>(m) mr = Reshape(mt, rows) o = Gemm(mr, wo, bo)
  os = Reshape(o, steps) y = Transpose<perm = [1,0,2]>(os) }"""


def test_attention_of_torch_moves_each_value_once(simplified: Any) -> None:
    constants = {"w": weights(8, 24), "b": weights(24), "wo": weights(8, 8), "bo": weights(8)}
    model = simplified(ATTENTION, constants, tolerance=1e-5)
    assert operators(model) == {
        "MatMul": 6, "Add": 4, "Reshape": 4, "Transpose": 4, "Softmax": 1,
    }  # fmt: skip
    shapes = sorted(list(tensor.dims) for tensor in model.graph.initializer if tensor.dims[1:])
    assert shapes == [[8, 8]] * 4


def test_parts_that_are_moved_together_stay_together(left: Left) -> None:
    """One movement for all three is better than one for each."""
    text = """(float[n,5,8] x) => (float[n,2,5,4] a, float[n,2,5,4] b, float[n,2,5,4] c)
    <int64[5] split = {0,5,3,2,4}, int64 zero = {0}, int64 one = {1}, int64 two = {2}>
    { p = MatMul(x, w) r = Reshape(p, split) t = Transpose<perm = [2,0,3,1,4]>(r)
      a = Gather<axis = 0>(t, zero) b = Gather<axis = 0>(t, one) c = Gather<axis = 0>(t, two) }"""
    assert left(text, {"w": weights(8, 24)}) == {
        "MatMul": 1, "Reshape": 1, "Transpose": 1, "Gather": 3,
    }  # fmt: skip


def test_weights_of_two_layers_are_taken_apart_once(simplified: Any) -> None:
    body = """{i}a = Transpose<perm = [1,0,2]>({x}) {i}p = MatMul({i}a, w)
    {i}r = Reshape({i}p, split) {i}t = Transpose<perm = [2,0,1,3]>({i}r)
    {i}q = Gather<axis = 0>({i}t, zero) {i}k = Gather<axis = 0>({i}t, one)
    {i}qt = Transpose<perm = [1,0,2]>({i}q) {i}kt = Transpose<perm = [1,0,2]>({i}k)
    {y} = Add({i}qt, {i}kt)"""
    text = f"""(float[n,5,8] x) => (float[n,5,8] y)
    <int64[4] split = {{5,-1,2,8}}, int64 zero = {{0}}, int64 one = {{1}}>
    {{ {body.format(i="f", x="x", y="m")} {body.format(i="s", x="m", y="y")} }}"""
    model = simplified(text, {"w": weights(8, 16)}, tolerance=1e-5)
    assert operators(model) == {"MatMul": 4, "Add": 2}
    assert len(model.graph.initializer) == 2


def test_axes_of_one_are_not_taken_for_each_other(left: Left) -> None:
    text = """(float[n,1,2,1] x) => (float[n,4,2,1] y)
    { a = Transpose<perm = [0,3,2,1]>(x) b = MatMul(a, w)
      y = Transpose<perm = [0,3,2,1]>(b) }"""
    assert left(text, {"w": weights(1, 4)})["Transpose"] >= 1


def test_what_is_tried_and_not_chosen_leaves_no_trace(left: Left) -> None:
    """Both sides of a layer are tried, and name their steps alike."""
    text = """(float[n,1,4,3] x) => (float[n,2,2,3] y)
    <int64[3] a = {-1,4,3}, int64[4] b = {-1,2,2,3}>
    { r = Relu(x) s = Reshape(r, a) m = MatMul(s, w) y = Reshape(m, b) }"""
    assert left(text, {"w": weights(3, 3)}) == {"Relu": 1, "Reshape": 1, "MatMul": 1}
