"""Casts between all types that LiteRT has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64"]
TYPES = [*INTEGERS, *FLOATS, "bool"]
REFUSED = {("uint64", "float64"), ("float64", "uint64")}


def values_of(dtype: str, target: str) -> Any:
    """Numbers that a cast has one answer for."""
    if dtype == "bool":
        return np.array([True, False, True])
    if dtype in INTEGERS:
        limits = np.iinfo(dtype)
        numbers = [limits.min, limits.max, limits.max - 1, limits.min + 1, 0, 1, 77]
        numbers += [limits.max // 2 + 1, limits.max // 3, limits.max // 3 * 2 + 1]
        return np.array(numbers, dtype=dtype)
    numbers = [0.0, -0.0, 0.5, 0.999, 1.5, 100.75, 127.0]
    if target in INTEGERS and not target.startswith("u"):
        numbers += [-1.5, -0.5, -100.75]
    if target == "uint64" and dtype == "float32":
        numbers += [2.0**63, 2.0**63 + 2.0**41, 1.8e19, 9.2e18]
    if target not in INTEGERS:
        numbers += [np.nan, np.inf, -np.inf, 1e-7, 65519, 65520, 1 / 3]
    with np.errstate(over="ignore"):
        return np.array(numbers, dtype=dtype)


@pytest.mark.parametrize("target", TYPES)
@pytest.mark.parametrize("source", TYPES)
def test_every_pair(source: str, target: str, evaluate: Any) -> None:
    values = values_of(source, target)
    cast = node("Cast", ["x"], ["y"], to=helper.np_dtype_to_tensor_dtype(np.dtype(target)))
    if (source, target) in REFUSED:
        with pytest.raises(UnsupportedModelError, match=f"casts {source} to {target}"):
            evaluate(cast, {"x": values})
        return
    computed = evaluate(cast, {"x": values}, free=True).y
    with np.errstate(all="ignore"):
        expected = values.astype(target)
    np.testing.assert_array_equal(computed, expected)
    assert computed.dtype == target


@pytest.mark.parametrize("target", ["int8", "float16", "uint64", "bool"])
def test_as_another_is(target: str, evaluate: Any) -> None:
    values = np.array([[0.0, 1.25, 3.5], [5.0, 6.0, 7.9]], dtype=np.float32)
    arrays = {"x": values, "like": np.zeros((4, 1), dtype=target)}
    computed = evaluate(node("CastLike", ["x", "like"], ["y"]), arrays).y
    np.testing.assert_array_equal(computed, values.astype(target))


@pytest.mark.parametrize(
    ("target", "name"),
    [(TensorProto.STRING, "string"), (TensorProto.FLOAT8E4M3FN, "float8_e4m3fn"),
     (TensorProto.INT4, "int4"), (TensorProto.UINT4, "uint4")],
)  # fmt: skip
def test_what_litert_lacks_is_refused_by_its_name(target: int, name: str, evaluate: Any) -> None:
    cast = node("Cast", ["x"], ["y"], name="culprit", to=target)
    with pytest.raises(UnsupportedModelError, match=name) as caught:
        evaluate(cast, {"x": np.zeros(3, dtype=np.float32)})
    assert "culprit (Cast)" in caught.value.what


def test_behind_a_convolution(evaluate: Any) -> None:
    image = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(np.float32) * 50
    weights = np.eye(3, dtype=np.float32)[:, :, None, None]
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Cast", ["c"], ["i"], to=TensorProto.INT8),
        node("Add", ["i", "i"], ["y"]),
    ]
    found = evaluate(nodes, {"x": image}, constants={"w": weights}, free=True)
    small = np.clip(image, -128, 127).astype(np.int8)
    np.testing.assert_array_equal(found.y, (small + small).astype(np.int8))
