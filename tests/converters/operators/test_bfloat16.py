"""bfloat16 is cast and moved; nothing is computed in it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F = np.float32
B = ml_dtypes.bfloat16


@pytest.mark.parametrize(
    "other", ["float16", "float32", "float64", "int8", "int32", "int64", "bool"]
)
def test_cast_there_and_back(other: str, evaluate: Any) -> None:
    values = np.array([0, 1, 2.5, 100, 0.3], dtype=B)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(other))
    computed = evaluate(node("Cast", ["x"], ["y"], to=to), {"x": values}, free=True).y
    np.testing.assert_array_equal(computed, values.astype(other))
    back = node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    computed = evaluate(back, {"x": values.astype(other)}).y
    np.testing.assert_array_equal(computed, values.astype(other).astype(B))
    assert computed.dtype == B


def test_rounded_to_even(evaluate: Any) -> None:
    values = F([1 + 2**-8, 1 + 3 * 2**-8, 1 / 3, 3.4e38, -np.inf])
    computed = evaluate(node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16), {"x": values}).y
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(computed.astype(F), values.astype(B).astype(F))


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize(
    ("operator", "attributes", "constants", "formula"),
    [
        ("Transpose", {"perm": [1, 0, 2]}, {}, lambda x: x.transpose(1, 0, 2)),
        ("Gather", {"axis": 1}, {"i": np.array([2, 0])}, lambda x: x[:, [2, 0]]),
        ("Slice", {}, {"s": np.array([1]), "e": np.array([9]), "a": np.array([1])},
         lambda x: x[:, 1:]),
        ("Pad", {}, {"p": np.array([0, 1, 0, 0, 0, 2])},
         lambda x: np.pad(x.astype(F), [(0, 0), (1, 0), (0, 2)])),
        ("Tile", {}, {"r": np.array([1, 2, 1])}, lambda x: np.tile(x, (1, 2, 1))),
        ("Trilu", {}, {}, np.triu),
    ],
)  # fmt: skip
def test_moved(
    operator: str, attributes: Any, constants: Any, formula: Any, free: bool, evaluate: Any
) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(B)
    move = node(operator, ["x", *constants], ["y"], **attributes)
    computed = evaluate(move, {"x": values}, constants=constants, free=free).y
    np.testing.assert_array_equal(computed.astype(F), formula(values).astype(F))
    assert computed.dtype == B


@pytest.mark.parametrize("operator", ["Relu", "Celu", "Softmax", "Sqrt"])
def test_arithmetic_is_refused(operator: str, evaluate: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=f"culprit \\({operator}\\): 'x' is bfloat16"):
        evaluate(node(operator, ["x"], ["y"], name="culprit"), {"x": np.ones(3, dtype=B)})
