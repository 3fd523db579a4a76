"""How far a model is quantized is read from what its products compute with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph.model import Graph, Operator, Tensor
from edgekit_runtime.graph.quantization import describe_quantization
from edgekit_runtime.graph.read import read_graph
from runtime.models import linear_model


def qdq_model(path: Path, *, activations: bool) -> Path:
    """A product whose weights, and activations if asked, go through DequantizeLinear."""
    nodes = [helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=1)]
    source = "x"
    if activations:
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        ]
        source = "xd"
    nodes.append(helper.make_node("MatMul", [source, "w"], ["y"]))
    stored = [
        numpy_helper.from_array(np.ones((4, 2), np.int8), "q"),
        numpy_helper.from_array(np.ones(2, np.float32), "scale"),
        numpy_helper.from_array(np.zeros(2, np.int8), "zero"),
        numpy_helper.from_array(np.float32(1), "s"),
        numpy_helper.from_array(np.int8(0), "z"),
    ]
    graph = helper.make_graph(
        nodes,
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        stored,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


@pytest.mark.parametrize(("activations", "kind"), [(True, "int8"), (False, "weight-only")])
def test_quantization_inside_an_onnx_file_is_seen(
    tmp_path: Path, *, activations: bool, kind: str
) -> None:
    found = describe_quantization(
        read_graph(qdq_model(tmp_path / "qdq.onnx", activations=activations))
    )
    assert (found.kind, found.weight_share, found.weight_bits) == (kind, 1.0, 8)
    assert found.per_channel


def test_real_files_are_told_apart(shared_data: Path) -> None:
    wanted = {
        "sine/hello_world_float.tflite": "float32",
        "sine/hello_world_int8.tflite": "int8",
        "mnist/trained_lstm.tflite": "float32",
        "mnist/trained_lstm_int8.tflite": "int8",
        "kws-dscnn/kws_ref_model.tflite": "int8",
        "mnist/mnist.onnx": "float32",
    }
    found = {name: describe_quantization(read_graph(shared_data / name)).kind for name in wanted}
    assert found == wanted


def graph_of(operators: list[Operator], tensors: list[Tensor]) -> Graph:
    return Graph(
        format=ModelFormat.LITERT, version=3, opsets={}, producer="", description="", metadata={},
        inputs=(), outputs=(), operators=tuple(operators), inner_operators=(),
        tensors={tensor.name: tensor for tensor in tensors},
    )  # fmt: skip


def dense(weights: str, *, activations: str, scales: int = 1, **more: Any) -> Graph:
    """One FULLY_CONNECTED."""
    operators = [
        Operator(type="FULLY_CONNECTED", name="y", inputs=("x", "w", "b"), outputs=("y",), **more)
    ]
    tensors = [
        Tensor(name="x", dtype=activations, shape=(1, 4)),
        Tensor(name="w", dtype=weights, shape=(2, 4), constant_bytes=8, scales=scales),
        Tensor(name="b", dtype="int32", shape=(2,), constant_bytes=8),
        Tensor(name="y", dtype=activations, shape=(1, 2)),
    ]
    return graph_of(operators, tensors)


@pytest.mark.parametrize(
    ("weights", "activations", "kind"),
    [
        ("float32", "float32", "float32"),
        ("float16", "float32", "float16"),
        ("int8", "int8", "int8"),
        ("int8", "int16", "int16"),
        ("int8", "float32", "dynamic"),
        ("int4", "float32", "dynamic"),
        ("float32", "int8", "mixed"),
    ],
)
def test_kinds_of_litert_models(weights: str, activations: str, kind: str) -> None:
    found = describe_quantization(dense(weights, activations=activations))
    assert (found.kind, found.weight_type, found.activation_type) == (kind, weights, activations)
    assert found.weight_bits == {"float32": 32, "float16": 16, "int8": 8, "int4": 4}[weights]


def test_a_scale_for_each_channel_is_seen() -> None:
    assert not describe_quantization(dense("int8", activations="int8")).per_channel
    assert describe_quantization(dense("int8", activations="int8", scales=2)).per_channel


def test_the_cell_of_an_lstm_is_no_activation() -> None:
    # 8-bit LSTMs keep a 16-bit cell, and the model is 8-bit all the same.
    lstm = Operator(
        type="UNIDIRECTIONAL_SEQUENCE_LSTM", name="y", inputs=("x", "w", "cell"), outputs=("y",)
    )
    tensors = [
        Tensor(name="x", dtype="int8", shape=(1, 3, 4)),
        Tensor(name="w", dtype="int8", shape=(2, 4), constant_bytes=8),
        Tensor(name="cell", dtype="int16", shape=(1, 2)),
    ]
    assert describe_quantization(graph_of([lstm], tensors)).kind == "int8"


def onnx_file(path: Path, nodes: list[Any], stored: dict[str, Any], kind: int) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32])],
        [helper.make_tensor_value_info("y", kind, [1, 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def test_activations_rounded_at_run_time(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["y"]),
    ]
    stored = {"w": np.ones((32, 2), np.int8)}
    path = onnx_file(tmp_path / "dynamic.onnx", nodes, stored, TensorProto.INT32)
    found = describe_quantization(read_graph(path))
    assert (found.kind, found.activation_type) == ("dynamic", "float32")


def test_weights_packed_in_blocks(tmp_path: Path) -> None:
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "scales"], ["y"], domain="com.microsoft", K=32, N=2, bits=4,
        block_size=32,
    )  # fmt: skip
    stored = {"w": np.ones((2, 1, 16), np.uint8), "scales": np.ones((2, 1), np.float32)}
    path = onnx_file(tmp_path / "blocks.onnx", [node], stored, TensorProto.FLOAT)
    found = describe_quantization(read_graph(path))
    assert (found.kind, found.weight_bits) == ("weight-only", 4)


def test_float16_weights_behind_a_cast(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["half"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    stored = {"half": np.ones((32, 2), np.float16)}
    path = onnx_file(tmp_path / "half.onnx", nodes, stored, TensorProto.FLOAT)
    found = describe_quantization(read_graph(path))
    assert (found.kind, found.activation_type) == ("float16", "float32")


def test_a_plain_model(tmp_path: Path) -> None:
    found = describe_quantization(read_graph(linear_model(tmp_path / "linear.onnx")))
    assert (found.kind, found.weight_share, found.weight_bits) == ("float32", 0.0, 32)
