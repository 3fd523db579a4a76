"""A small convolutional network: as much work as boards were calibrated with, made in no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.simulators.tiny_bundles import WIDTH

_CHANNELS = 48
_SIDE = 32


def convolving_model() -> bytes:
    """42 million multiply-accumulates in two convolutions; x and y as in the tiny bundles."""
    noise = np.random.default_rng(0)

    def weights(*shape: int) -> NDArray[np.float32]:
        return noise.normal(0.0, 0.05, shape).astype(np.float32)

    constants = {
        "axes": np.array([2, 3], np.int64),
        "repeats": np.array([1, 1, _SIDE, _SIDE], np.int64),
        "w0": weights(_CHANNELS, WIDTH, 1, 1),
        "w1": weights(_CHANNELS, _CHANNELS, 3, 3),
        "w2": weights(_CHANNELS, _CHANNELS, 3, 3),
        "w3": weights(_CHANNELS, WIDTH),
    }
    square = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["points"]),
        helper.make_node("Tile", ["points", "repeats"], ["plane"]),
        helper.make_node("Conv", ["plane", "w0"], ["a"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["a", "w1"], ["b"], **square),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["d"], **square),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolving",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def write_convolving(path: Path) -> Path:
    """The model as a file."""
    path.write_bytes(convolving_model())
    return path


def answers(model: bytes, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the reference implementation of ONNX says to some inputs."""
    from onnx.reference import ReferenceEvaluator

    (found,) = ReferenceEvaluator(onnx.load_model_from_string(model)).run(None, {"x": inputs})
    return np.asarray(found, np.float32)
