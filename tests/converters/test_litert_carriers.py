"""Types that a kernel lacks go through wider ones, and come back as they would have been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit_converters.litert.compile import CompiledModel, compile_to_litert
from edgekit_converters.litert.types import ANYTHING, carrier_of
from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.session import open_session

node = helper.make_node


def _compile(model: Any) -> CompiledModel:
    return compile_to_litert(normalise(model, where="test"), where="test")


def _run(compiled: CompiledModel, folder: Path, **inputs: Any) -> Any:
    path = folder / "model.tflite"
    path.write_bytes(compiled.content)
    (output,) = open_session(path).run(inputs).values()
    return output


def _codes(compiled: CompiledModel) -> list[str]:
    return [operator.code for operator in compiled.program.operators]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64", "uint32"])
@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul"])
def test_integers_wrap_around_as_in_their_own_type(
    operator: str, dtype: str, make_model: Any, tmp_path: Path
) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [node(operator, ["a", "b"], ["c"]), node(operator, ["c", "b"], ["y"])]
    compiled = _compile(make_model(nodes, {"a": [4], "b": [4]}, ["y"], dtype=kind))
    limits = np.iinfo(dtype)
    a = np.array([limits.max, limits.min, limits.max // 2, 3], dtype=dtype)
    b = np.array([limits.max, 7, 5, limits.max], dtype=dtype)
    with np.errstate(over="ignore"):
        step = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[operator]
        expected = step(step(a, b), b)
    computed = _run(compiled, tmp_path, a=a, b=b)
    assert computed.dtype == expected.dtype
    np.testing.assert_array_equal(computed, expected)


def test_half_precision_is_rounded_once_at_the_end(make_model: Any, tmp_path: Path) -> None:
    nodes = [
        node("Mul", ["x", "x"], ["square"]),
        node("Transpose", ["square"], ["turned"], perm=[1, 0]),
        node("Add", ["turned", "turned"], ["y"]),
    ]
    compiled = _compile(make_model(nodes, {"x": [2, 3]}, ["y"], dtype=TensorProto.FLOAT16))
    assert _codes(compiled).count("CAST") == 2
    x = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float16)
    exact = 2 * (x.astype(np.float32) ** 2).T
    np.testing.assert_array_equal(_run(compiled, tmp_path, x=x), exact.astype(np.float16))


def test_a_cast_that_the_model_asks_for_rounds(make_model: Any, tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        node("Cast", ["half"], ["y"], to=TensorProto.FLOAT),
    ]
    compiled = _compile(make_model(nodes, {"x": [3]}, ["y"]))
    x = np.array([0.1, 2049.0, 1e-3], dtype=np.float32)
    expected = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(_run(compiled, tmp_path, x=x), expected)


def test_constants_are_cast_at_once(make_model: Any) -> None:
    constants = {"k": np.array([1.5, 2.5], dtype=np.float16)}
    model = make_model(
        [node("Mul", ["x", "k"], ["y"])], {"x": [2]}, ["y"], constants, dtype=TensorProto.FLOAT16
    )
    assert _codes(_compile(model)) == ["CAST", "MUL", "CAST"]


def test_nothing_carries_double_precision(make_model: Any) -> None:
    assert carrier_of("float64", ANYTHING - {"float64"}) is None
    model = make_model(
        [node("Tanh", ["x"], ["y"], name="curve")], {"x": [2]}, ["y"], dtype=TensorProto.DOUBLE
    )
    with pytest.raises(UnsupportedModelError, match=r"curve \(Tanh\).*float64"):
        _compile(model)


def test_names_of_the_source_are_kept(make_model: Any) -> None:
    nodes = [node("Neg", ["x"], ["x/float32"]), node("Abs", ["x/float32"], ["y"])]
    compiled = _compile(make_model(nodes, {"x": [2]}, ["y"], dtype=TensorProto.FLOAT16))
    names = [tensor.name for operator in compiled.program.operators for tensor in operator.outputs]
    assert len(names) == len(set(names))
    onnx.checker.check_model(compiled.prepared)
