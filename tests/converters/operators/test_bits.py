"""Bits of integers, against Python's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

node = helper.make_node
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
BITWISE = {
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}


def numbers(dtype: str, shape: tuple[int, ...], seed: int = 1) -> Any:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((4, 3), (1, 3)), ((2, 3, 4), (3, 1))])
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("operator", BITWISE)
def test_bitwise(operator: str, dtype: str, shapes: Any, free: bool, evaluate: Any) -> None:
    first, second = numbers(dtype, shapes[0]), numbers(dtype, shapes[1], 2)
    arrays, constants = {"a": first}, {}
    (constants if free else arrays)["b"] = second
    computed = evaluate(node(operator, ["a", "b"], ["y"]), arrays, constants=constants, free=free).y
    np.testing.assert_array_equal(computed, BITWISE[operator](first, second))
    assert computed.dtype == dtype


@pytest.mark.parametrize("dtype", INTEGERS)
def test_bitwise_with_a_free_batch_on_both_sides(dtype: str, evaluate: Any) -> None:
    first, second = numbers(dtype, (4, 3)), numbers(dtype, (4, 1), 2)
    computed = evaluate(
        node("BitwiseAnd", ["a", "b"], ["y"]), {"a": first, "b": second}, free=True
    ).y
    np.testing.assert_array_equal(computed, first & second)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_bitwise_not(dtype: str, evaluate: Any) -> None:
    values = numbers(dtype, (3, 4))
    computed = evaluate(node("BitwiseNot", ["a"], ["y"]), {"a": values}).y
    np.testing.assert_array_equal(computed, ~values)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_shift_by_all_that_fits_and_more(
    dtype: str, direction: str, constant: bool, evaluate: Any
) -> None:
    bits = np.iinfo(dtype).bits
    counts = [*range(bits + 1), bits + 5, 100]
    if dtype.startswith("int"):
        counts += [-1, -bits, np.iinfo(dtype).min]
    else:
        counts += [np.iinfo(dtype).max]
    count = np.array(counts).astype(dtype) if bits < 64 else np.array(counts, dtype=dtype)
    values = numbers(dtype, (6, 1))
    values[:2, 0] = np.iinfo(dtype).min, np.iinfo(dtype).max
    arrays, constants = {"a": values}, {}
    (constants if constant else arrays)["b"] = count
    shift = node("BitShift", ["a", "b"], ["y"], direction=direction)
    # Signed numbers came with a later opset; a smaller one bounds nothing that is tried here.
    computed = evaluate(shift, arrays, constants=constants, opset=28).y
    expected = [
        [_shifted(value, by, bits, direction) for by in count.tolist()]
        for value in values.ravel().tolist()
    ]
    wrapped = np.array(expected, dtype=object) % 2**bits
    np.testing.assert_array_equal(computed, wrapped.astype(f"uint{bits}").view(dtype))


def _shifted(value: int, by: int, bits: int, direction: str) -> int:
    if 0 <= by < bits:
        return value << by if direction == "LEFT" else value >> by
    return -1 if direction == "RIGHT" and value < 0 else 0


@pytest.mark.parametrize(
    ("source", "target"),
    [("float32", "int32"), ("int32", "float32"), ("float64", "int64"), ("int64", "float64"),
     ("uint32", "int32"), ("int8", "uint8"), ("uint16", "int16"), ("bool", "uint8"),
     ("float16", "uint16"), ("uint64", "float64"), ("int16", "int16")],
)  # fmt: skip
def test_other_readings_of_the_same_bits(source: str, target: str, evaluate: Any) -> None:
    raw = np.random.default_rng(1).integers(0, 2 if source == "bool" else 120, (2, 16))
    values = raw.astype(np.uint8).view(source)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(target))
    for free in (True, False):
        computed = evaluate(
            node("BitCast", ["x"], ["y"], to=to), {"x": values}, opset=26, free=free
        ).y
        np.testing.assert_array_equal(computed.view(np.uint8), values.view(np.uint8))
        assert computed.dtype == target
    assert to != TensorProto.UNDEFINED
