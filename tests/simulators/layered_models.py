"""Models of many weight tensors, and new versions of them as training makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Weights = dict[str, NDArray[Any]]
# A small convolutional network's tensors: most of them large, some as small as a bias.
_SHAPES = {
    "stem": (32, 3, 5, 5),
    "stem_bias": (32,),
    **{f"body{n}": (128, 128, 3, 3) for n in range(6)},
    **{f"body{n}_bias": (128,) for n in range(6)},
    "wide": (512, 512),
    "wide_bias": (512,),
    "head": (100, 512),
    "head_bias": (100,),
}
_SMALL = ("wide", "wide_bias", "head", "head_bias")


def float_weights(seed: int = 0, *, small: bool = False) -> Weights:
    """About 1.2 million float32 weights; a quarter of that if small."""
    random = np.random.default_rng(seed)
    return {
        name: random.normal(0, 0.05, _SHAPES[name]).astype(np.float32)
        for name in (_SMALL if small else _SHAPES)
    }


def int8_weights(seed: int = 0, *, small: bool = False) -> Weights:
    """As many int8 weights; biases are int32."""
    random = np.random.default_rng(seed)
    return {
        name: random.integers(-2000, 2000, _SHAPES[name], dtype=np.int32)
        if name.endswith("bias")
        else np.clip(random.normal(0, 40, _SHAPES[name]), -127, 127).astype(np.int8)
        for name in (_SMALL if small else _SHAPES)
    }


def step_one_in_twenty(weights: Weights, seed: int = 1) -> Weights:
    """Every int8 tensor with 5 % of its values one higher or lower."""
    random = np.random.default_rng(seed)

    def step(array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype != np.int8:
            return array
        steps = random.choice(np.array([-1, 1], np.int8), array.shape)
        moved = np.where(random.random(array.shape) < 0.05, steps, 0)
        return np.clip(array.astype(np.int16) + moved, -128, 127).astype(np.int8)

    return {name: step(array) for name, array in weights.items()}


def retrain(weights: Weights, *names: str, share: float = 0.01, seed: int = 2) -> Weights:
    """Some float tensors moved by noise of that share of each value."""
    random = np.random.default_rng(seed)
    return weights | {
        name: (weights[name] * (1 + random.normal(0, share, weights[name].shape))).astype(
            np.float32
        )
        for name in names
    }


def onnx_file(weights: Weights) -> bytes:
    """The tensors as initializers of an ONNX model; nobody runs it."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(onnx.ModelProto.SerializeToString(model))


def tflite_file(weights: Weights) -> bytes:
    """The tensors as buffers of a TFLite model; nobody runs it."""
    import ai_edge_litert.schema_py_generated as schema
    import flatbuffers

    types = {
        "float32": schema.TensorType.FLOAT32,
        "int8": schema.TensorType.INT8,
        "int32": schema.TensorType.INT32,
    }
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]
    graph.tensors = []
    for name, array in weights.items():
        tensor, buffer = schema.TensorT(), schema.BufferT()
        tensor.name, tensor.shape, tensor.type = name, list(array.shape), types[str(array.dtype)]
        tensor.buffer = len(model.buffers)
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        model.buffers.append(buffer)
        graph.tensors.append(tensor)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


WRITERS: Mapping[str, Callable[[Weights], bytes]] = {"onnx": onnx_file, "tflite": tflite_file}
