"""Small TFLite files that tests build with the schema's object API."""

from __future__ import annotations

from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np


def tensor(
    name: str, shape: list[int], *, buffer: int = 0, dtype: int = schema.TensorType.FLOAT32
) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.buffer, made.type = name, shape, buffer, dtype
    return made


def quantized(made: Any, scales: list[float], zero_points: list[int], axis: int = 0) -> Any:
    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = scales, zero_points
    quantization.quantizedDimension = axis
    made.quantization = quantization
    return made


def operator(code: int, inputs: list[int], outputs: list[int], kind: int, options: Any) -> Any:
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = code, inputs, outputs
    made.builtinOptionsType, made.builtinOptions = kind, options
    return made


def conv_model() -> Any:
    """1x4x4x2 -> 3x3 convolution of stride 1 to 3 channels -> ReLU6 -> mean of the picture."""
    model = schema.ModelT()
    model.version, model.description = 3, "a test"
    codes = []
    for builtin in (
        schema.BuiltinOperator.CONV_2D,
        schema.BuiltinOperator.RELU6,
        schema.BuiltinOperator.MEAN,
    ):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = 1
        codes.append(code)
    model.operatorCodes = codes
    values = [
        b"",
        np.ones((3, 3, 3, 2), np.float32).tobytes(),
        np.zeros(3, np.float32).tobytes(),
        np.array([1, 2], np.int32).tobytes(),
    ]
    model.buffers = []
    for value in values:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(value, np.uint8) if value else None
        model.buffers.append(buffer)
    graph = schema.SubGraphT()
    graph.name = "main"
    graph.tensors = [
        tensor("picture", [1, 4, 4, 2]),
        tensor("weights", [3, 3, 3, 2], buffer=1),
        tensor("bias", [3], buffer=2),
        tensor("features", [1, 4, 4, 3]),
        tensor("clipped", [1, 4, 4, 3]),
        tensor("axes", [2], buffer=3, dtype=schema.TensorType.INT32),
        tensor("means", [1, 3]),
    ]
    conv = schema.Conv2DOptionsT()
    conv.strideH = conv.strideW = conv.dilationHFactor = conv.dilationWFactor = 1
    conv.padding = schema.Padding.SAME
    options = schema.BuiltinOptions
    graph.operators = [
        operator(0, [0, 1, 2], [3], options.Conv2DOptions, conv),
        operator(1, [3], [4], options.NONE, None),
        operator(2, [4, 5], [6], options.ReducerOptions, schema.ReducerOptionsT()),
    ]
    graph.inputs, graph.outputs = [0], [6]
    model.subgraphs = [graph]
    return model


def pack(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
