"""The architectures that the `onnx` package ships as `light_*.onnx`, with weights of their own.

On disk their weights are constants that nodes fill with one number: every channel is the same, and
a converter that mixes them up goes unnoticed. Here they are initialisers with random numbers.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = (
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet",
    "squeezenet", "vgg19", "zfnet512",
)  # fmt: skip
# The hidden dense layers of 2012 hold most of the weights and none of the difficulty.
_DENSE, _NARROW = 4096, 256


def build(name: str) -> Any:
    """One of the architectures as an `onnx.ModelProto`, the same each time."""
    model = onnx.load(str(FOLDER / f"light_{name}.onnx"))
    graph = model.graph
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers: dict[str, tuple[Any, int]] = {}
    for node in graph.node:
        for position, value in enumerate(node.input):
            readers.setdefault(value, (node, position))
    weights: dict[str, NDArray[np.float32]] = {}
    nodes = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        (value,) = node.output
        shape = [int(size) for size in sizes[node.input[0]]]
        reader, position = readers[value]
        while reader.op_type == "Unsqueeze":
            reader, position = readers[reader.output[0]]
        if reader.op_type == "Gemm":
            shape = [_NARROW if size == _DENSE else size for size in shape]
        weights[value] = _random(reader.op_type, position, shape, zlib.crc32(value.encode()))
    read = {value for node in nodes for value in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    inputs = [v for v in graph.input if v.name in read - sizes.keys() - weights.keys()]
    for field, values in (("node", nodes), ("initializer", kept), ("input", inputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
    # Older files have every initialiser as an input too.
    model.ir_version = max(model.ir_version, 4)
    graph.initializer.extend(
        numpy_helper.from_array(array, value) for value, array in weights.items()
    )
    _tame_scores(model)
    return model


def _random(operator: str, position: int, shape: list[int], seed: int) -> NDArray[np.float32]:
    """Numbers under which a signal keeps its energy through a layer, as after training."""
    rng = np.random.default_rng(seed)
    if operator in {"Conv", "Gemm"} and position == 1:
        array = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif (operator, position) == ("BatchNormalization", 4):
        array = rng.uniform(0.6, 1.6, shape)
    elif (operator, position) in {("BatchNormalization", 1), ("Mul", 1)}:
        array = rng.uniform(0.6, 1.4, shape)
    else:
        array = rng.normal(scale=0.1, size=shape)
    return array.astype(np.float32)


def _tame_scores(model: Any) -> None:
    """Scale the last layer so that a softmax behind it does not choose one class with certainty."""
    import onnxruntime

    graph = model.graph
    last = next(node for node in reversed(graph.node) if node.op_type in {"Conv", "Gemm"})
    if "Softmax" not in {node.op_type for node in graph.node}:
        return
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.ClearField("output")
    probe.graph.output.append(onnx.ValueInfoProto(name=last.output[0]))
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (scores,) = session.run(None, random_input(model))
    for tensor in graph.initializer:
        if tensor.name in list(last.input[1:]):
            array = numpy_helper.to_array(tensor) / np.float32(scores.std())
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def random_input(model: Any) -> dict[str, NDArray[np.float32]]:
    """One image for the only input."""
    (value,) = model.graph.input
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return {value.name: np.random.default_rng(2).normal(size=shape).astype(np.float32)}
