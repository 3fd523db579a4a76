"""Stored tensors and declared shapes: whole, possible, and of a size that fits a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from converters.onnx_files import model_of, write
from edgekit_converters.onnx_source import doubtful_weights, read_onnx
from edgekit_converters.onnx_source.tensors import constant_faults
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node


def _with(tensor: Any) -> Any:
    model = model_of([node("Relu", ["x"], ["y"])])
    model.graph.initializer.append(tensor)
    return model


def _tensor(**fields: Any) -> Any:
    tensor = TensorProto(name="w")
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    return tensor


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dims": [-1], "data_type": 1}, r"impossible shape \[-1\]"),
        ({"dims": [2**62, 4], "data_type": 1}, "beyond 64 bits"),
        ({"dims": [2**40], "data_type": 1, "raw_data": b"1234"}, "beyond 31 bits"),
        ({"dims": [2**20, 2**20], "data_type": 1, "raw_data": b"1234"}, "the limit is"),
        ({"dims": [2**20, 512], "data_type": 1, "raw_data": b"1234"},
         "needs 2147483648 bytes and has 4"),
        ({"dims": [3], "data_type": 1, "raw_data": b"1234"}, "needs 12 bytes and has 4"),
        ({"dims": [], "data_type": 1, "raw_data": b""}, "needs 4 bytes and has 0"),
        ({"dims": [3], "data_type": 1, "float_data": [1.0]}, "needs 3 elements and has 1"),
        ({"dims": [2], "data_type": 14, "float_data": [1.0] * 3}, "needs 4 elements and has 3"),
        ({"dims": [5], "data_type": 22, "int32_data": [1, 2]}, "needs 3 elements and has 2"),
        ({"dims": [1], "data_type": 1, "int64_data": [1]}, "is FLOAT and stored as int64_data"),
        ({"dims": [1], "data_type": 1, "float_data": [1.0], "raw_data": b"1234"}, "stored twice"),
        ({"dims": [1], "data_type": 8, "raw_data": b"text"}, "stored twice"),
        ({"dims": [1], "data_type": 8, "string_data": [b"\xff\xfe"]}, "cannot be read"),
        ({"dims": [1], "data_type": 0}, "element type 0, which does not exist"),
        ({"dims": [1], "data_type": 99, "raw_data": b"1"}, "element type 99"),
        ({"dims": [1] * 40, "data_type": 1, "raw_data": b"1234"}, "has 40 axes"),
    ],
)  # fmt: skip
def test_constants_that_are_refused(fields: Any, reason: str, tmp_path: Path) -> None:
    path = write(_with(_tensor(**fields)), tmp_path / "a.onnx")
    with pytest.raises(UnsupportedModelError, match=f"the constant 'w' .*{reason}"):
        read_onnx(path)


def test_segments(tmp_path: Path) -> None:
    tensor = _tensor(dims=[1], data_type=1, raw_data=b"1234")
    tensor.segment.begin = 0
    with pytest.raises(UnsupportedModelError, match="segments"):
        read_onnx(write(_with(tensor), tmp_path / "a.onnx"))


def test_all_damaged_constants_are_named_at_once(tmp_path: Path) -> None:
    model = _with(_tensor(dims=[3], data_type=1, raw_data=b"1"))
    bad = _tensor(dims=[-3], data_type=1)
    bad.ClearField("name")
    constant = node("Constant", [], ["c"], name="const")
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(bad)
    model.graph.node.insert(0, constant)
    with pytest.raises(UnsupportedModelError) as caught:
        read_onnx(write(model, tmp_path / "a.onnx"))
    assert "the constant 'w' needs 12 bytes and has 1" in caught.value.what
    assert "the attribute 'value' of const (Constant) has the impossible shape" in caught.value.what


_TYPES = [
    code
    for code in TensorProto.DataType.values()
    if code not in {TensorProto.UNDEFINED, TensorProto.STRING}
    and not TensorProto.DataType.Name(code).startswith("FLOAT6")
]


@given(
    code=st.sampled_from(_TYPES), dims=st.lists(st.integers(0, 4), max_size=3), raw=st.booleans()
)
def test_constants_that_onnx_itself_writes_are_taken(code: int, dims: list[int], raw: bool) -> None:
    count = int(np.prod(dims))
    dtype = helper.tensor_dtype_to_np_dtype(code)
    values = np.resize(np.array([0, 1, 1], dtype=dtype), count)
    tensor = numpy_helper.from_array(values.reshape(dims), "w")
    if not raw:
        tensor = helper.make_tensor("w", code, dims, values)
    assert constant_faults(_with(tensor)) == []


def test_texts_are_constants_too(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.array(["a", "bc"], dtype=object), "w")
    read_onnx(write(_with(tensor), tmp_path / "a.onnx"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.complex64])
def test_weights_that_are_not_finite_are_named(dtype: Any) -> None:
    array = np.zeros(3_000_000, dtype=dtype)
    array[[5, 2_500_000]] = np.nan
    array[7] = -np.inf
    model = _with(numpy_helper.from_array(array, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, dtype), "fine"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.int64), "whole"))
    (warning,) = doubtful_weights(model)
    assert warning.startswith("the constant 'w' holds 2 NaN and 1 infinite values")


# Declared and inferred shapes.


def _declared(shape: list[int], dtype: int = 1) -> Any:
    return model_of([node("Relu", ["x"], ["y"], name="r")], inputs={"x": shape}, dtype=dtype)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_declared([-2, 3]), r"the value 'x' has the impossible shape \[-2, 3\]"),
        (_declared([2**40, 2**40]), "beyond 64 bits"),
        (_declared([2**20, 2**20]), "the limit is"),
        (_declared([2], dtype=77), "unknown element type 77"),
        (_declared([1] * 33), "has 33 axes"),
    ],
)
def test_declared_shapes_that_are_refused(model: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        read_onnx(write(model, tmp_path / "a.onnx"))


def test_a_size_of_minus_one_is_free(tmp_path: Path) -> None:
    model = read_onnx(write(_declared([-1, 3]), tmp_path / "a.onnx"))
    assert not model.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        ([node("ConstantOfShape", ["s"], ["y"])], {"s": np.array([2**30, 2**30])}, "the limit is"),
        ([node("Expand", ["x", "s"], ["y"])], {"s": np.array([2**30, 1, 1, 1, 1])}, "limit"),
        ([node("Tile", ["x", "s"], ["y"])], {"s": np.array([2**29, 1, 1, 1])}, "limit"),
        ([node("Pad", ["x", "s"], ["y"])], {"s": np.array([0] * 7 + [2**30])}, "limit"),
    ],
)
def test_results_that_no_machine_could_hold(
    nodes: Any, constants: Any, reason: str, tmp_path: Path
) -> None:
    path = write(model_of(nodes, constants=constants), tmp_path / "a.onnx")
    with pytest.raises(UnsupportedModelError, match=f"'y' has the shape .*{reason}"):
        read_onnx(path)


# Sparse constants.


def _sparse(values: Any, indices: Any, dims: list[int]) -> Any:
    sparse = onnx.SparseTensorProto(dims=dims)
    sparse.values.CopyFrom(numpy_helper.from_array(np.asarray(values), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.asarray(indices), "w_indices"))
    return sparse


def _sparse_model(sparse: Any) -> Any:
    model = model_of([node("Add", ["x", "w"], ["y"])], inputs={"x": [2, 3]})
    model.graph.sparse_initializer.append(sparse)
    return model


@pytest.mark.parametrize("indices", [np.array([1, 5]), np.array([[0, 1], [1, 2]])])
def test_sparse_constants_become_dense(indices: Any, tmp_path: Path) -> None:
    sparse = _sparse(np.array([5, 7], np.float32), indices, [2, 3])
    model = read_onnx(write(_sparse_model(sparse), tmp_path / "a.onnx"))
    assert not model.graph.sparse_initializer
    (tensor,) = model.graph.initializer
    assert numpy_helper.to_array(tensor).tolist() == [[0, 5, 0], [0, 0, 7]]


def test_a_sparse_constant_of_a_node_becomes_dense(tmp_path: Path) -> None:
    constant = node("Constant", [], ["c"])
    sparse = _sparse(np.array([5], np.float32), np.array([2]), [3])
    constant.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    constant.attribute[0].sparse_tensor.CopyFrom(sparse)
    model = model_of([constant, node("Add", ["x", "c"], ["y"])], inputs={"x": [2, 3]})
    read = read_onnx(write(model, tmp_path / "a.onnx"))
    assert numpy_helper.to_array(read.graph.node[0].attribute[0].t).tolist() == [0, 0, 5]


@pytest.mark.parametrize(
    ("sparse", "reason"),
    [
        (_sparse(np.ones(1, np.float32), np.array([6]), [2, 3]), "indices outside its shape"),
        (_sparse(np.ones(1, np.float32), np.array([-1]), [2, 3]), "indices outside its shape"),
        (_sparse(np.ones(1, np.float32), np.array([[2, 0]]), [2, 3]), "outside its shape"),
        (_sparse(np.ones(2, np.float32), np.array([1, 1]), [2, 3]), "names one element twice"),
        (_sparse(np.ones(2, np.float32), np.array([1]), [2, 3]), "2 values and indices of shape"),
        (_sparse(np.ones(1, np.float32), np.array([1], np.int32), [2, 3]), "wrong kind"),
        (_sparse(np.ones(1, np.float32), np.array([1]), [2**30]), "would have 1073741824 elements"),
        (_sparse(np.ones(1, np.float32), np.array([1]), [2**50, 2**50]), "beyond 64 bits"),
        (_sparse(np.ones(1, np.float32), np.array([1]), [-3]), "impossible shape"),
    ],
)
def test_sparse_constants_that_are_refused(sparse: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=f"'w' .*{reason}"):
        read_onnx(write(_sparse_model(sparse), tmp_path / "a.onnx"))


def test_damaged_parts_of_a_sparse_constant(tmp_path: Path) -> None:
    sparse = _sparse(np.ones(1, np.float32), np.array([1]), [2, 3])
    sparse.indices.raw_data = b"123"
    with pytest.raises(UnsupportedModelError, match="needs 8 bytes and has 3"):
        read_onnx(write(_sparse_model(sparse), tmp_path / "a.onnx"))
