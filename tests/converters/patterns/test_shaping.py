from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Left = Callable[..., dict[str, int]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(float[n,2,3,4] x) => (float[n,24] y) <int64[3] a = {0,6,4}, int64[2] b = {-1,24}> "
         "{ s = Reshape(x, a) y = Reshape(s, b) }", {"Reshape": 1}),
        ("(float[n,2,1,4] x) => (float[n,8] y) <int64[1] a = {2}, int64[2] b = {-1,8}> "
         "{ s = Squeeze(x, a) y = Reshape(s, b) }", {"Reshape": 1}),
        ("(float[n,2,3] x) => (float[n,2,3] y) <int64[3] a = {-1,2,3}> "
         "{ r = Relu(x) y = Reshape(r, a) }", {"Relu": 1}),
        ("(float[n,6] x) => (float[n,6] y) <int64[3] a = {0,2,3}, int64[2] b = {0,-1}> "
         "{ r = Relu(x) s = Reshape(r, a) y = Reshape(s, b) }", {"Relu": 1}),
        ("(float[n,2,3] x) => (float[n,3,2] y) "
         "{ t = Transpose<perm = [2,1,0]>(x) y = Transpose<perm = [2,0,1]>(t) }", {"Transpose": 1}),
        ("(float[n,2,3] x) => (float[n,2,3] y) "
         "{ r = Relu(x) t = Transpose<perm = [2,1,0]>(r) y = Transpose<perm = [2,1,0]>(t) }",
         {"Relu": 1}),
        ("(float[n,2,3] x) => (float[n,2,3] y) "
         "{ t = Transpose<perm = [0,2,1]>(x) r = Relu(t) s = Sigmoid(r) "
         "y = Transpose<perm = [0,2,1]>(s) }", {"Relu": 1, "Sigmoid": 1}),
        ("(float[n,2,3] x, float[n,2,1] z) => (float[n,2,3] y) "
         "{ s = Shape(x) e = Expand(z, s) y = Add(x, e) }", {"Add": 1}),
        ("(float[n,2,3] x) => (float[n,2,3] y) <int64[3] a = {1,1,3}> "
         "{ s = Shape<start = 0, end = 1>(x) k = Concat<axis = 0>(s, one, one) e = Expand(p, k) "
         "y = Mul(e, x) }", {"Mul": 1}),
        ("(float[n,2,3] x) => (float[n,2,3] y) <int64[3] zero = {0,0,0}, "
         "int64[3] end = {9223372036854775807,9223372036854775807,2147483647}> "
         "{ s = Slice(x, zero, end) y = Relu(s) }", {"Relu": 1}),
        ("(float[n,2,3] x) => (float[n,1,3] y) <int64[1] a = {1}> "
         "{ r = ReduceMean<axes = [1], keepdims = 0>(x) y = Unsqueeze(r, a) }", {"ReduceMean": 1}),
        ("(float[n,2,3] x) => (float[n,2,1] y) <int64[1] a = {-1}, int64[3] b = {0,2,1}> "
         "{ r = ReduceSum<keepdims = 0>(x, a) y = Reshape(r, b) }", {"ReduceSum": 1}),
    ],
    ids=["reshapes", "squeeze", "idle reshape", "there and back", "transposes", "undone",
         "undone around others", "expand", "expanded parameter", "idle slice", "kept axis",
         "kept axis by reshape"],
)  # fmt: skip
def test_rows_become_short(text: str, expected: dict[str, int], left: Left) -> None:
    parameter = {"p": np.ones((1, 1, 3), np.float32), "one": np.array([1], np.int64)}
    assert left(text, parameter if "Expand(p" in text else None) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(float[n,2,3] x) => (float[n,6] y, float[n,3,2] s) <int64[3] a = {0,3,2}, "
         "int64[2] b = {-1,6}> { s = Reshape(x, a) y = Reshape(s, b) }", {"Reshape": 2}),
        ("(float[n,2,3] x) => (float[n,3,2] y) { t = Transpose<perm = [1,0,2]>(x) r = Relu(t) "
         "y = Transpose<perm = [1,2,0]>(r) }", {"Transpose": 2, "Relu": 1}),
        ("(float[n,2,3] x, float[1,2,3] z) => (float[n,2,3] y) { s = Shape(x) e = Expand(z, s) "
         "y = Sigmoid(e) }", {"Shape": 1, "Expand": 1, "Sigmoid": 1}),
        ("(float[n,2,3] x) => (float[n,2,3] y) <int64[1] e = {-9}, int64[1] a = {2}, "
         "int64[1] b = {-1}, int64[1] c = {5}> { y = Slice(x, c, e, a, b) }", {"Slice": 1}),
        ("(float[n,2,2] x) => (float[n,1,2] y) <int64[1] a = {1}> "
         "{ r = ReduceMean<axes = [2], keepdims = 0>(x) y = Unsqueeze(r, a) }",
         {"ReduceMean": 1, "Unsqueeze": 1}),
    ],
    ids=["read elsewhere", "other axes", "needed width", "reversed", "another axis"],
)  # fmt: skip
def test_what_does_something_stays(text: str, expected: dict[str, int], left: Left) -> None:
    assert left(text) == expected


def test_a_free_size_keeps_its_name_through_a_model(simplified: Any) -> None:
    """Inference alone gives every Reshape's batch a new name, and cannot tell that both agree."""
    text = """(float[n,2,3] x) => (float[n,6] y) <int64[2] flat = {-1, 6}>
    { a = Reshape(x, flat) b = Relu(a) s = Shape(a) e = Expand(m, s) y = Mul(b, e) }"""
    model = simplified(text, {"m": np.ones((1, 6), np.float32) * 2})
    assert [node.op_type for node in model.graph.node] == ["Reshape", "Relu", "Mul"]
