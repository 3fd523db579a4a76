from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.litert.compile import CompiledModel, compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_converters.parity import relative_error
from edgekit_runtime.session import open_session

Shapes = Mapping[str, Sequence[int | str]]
MakeModel = Callable[..., Any]


def make_model(
    nodes: Sequence[Any],
    inputs: Shapes,
    outputs: Sequence[str],
    constants: Mapping[str, NDArray[Any]] | None = None,
    *,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> Any:
    """A checked model; the shapes of its outputs are inferred."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, dtype, list(s)) for n, s in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in (constants or {}).items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return model


@pytest.fixture(name="make_model")
def _make_model() -> MakeModel:
    return make_model


@pytest.fixture
def assert_parity(tmp_path: Path) -> Callable[..., CompiledModel]:
    """Convert a model, run both on the same random inputs, and return what was compiled."""

    def check(
        model: Any, *, batch: int = 2, tolerance: float = 1e-5, low: float = -3.0, high: float = 3.0
    ) -> CompiledModel:
        source, target = tmp_path / "source.onnx", tmp_path / "target.tflite"
        onnx.save_model(model, str(source))
        compiled = compile_to_litert(normalise(model, where="test"), where="test")
        target.write_bytes(compiled.content)
        reference, session = open_session(source), open_session(target)
        assert [spec.name for spec in session.inputs] == [s.name for s in reference.inputs]
        assert [spec.name for spec in session.outputs] == [s.name for s in reference.outputs]
        rng = np.random.default_rng(7)
        for size in {1, batch}:
            arrays = {
                spec.name: rng.uniform(low, high, [size if d is None else d for d in spec.shape])
                .astype(spec.dtype)
                for spec in reference.inputs
            }  # fmt: skip
            expected, computed = reference.run(arrays), session.run(arrays)
            for name, values in expected.items():
                assert computed[name].shape == values.shape
                assert relative_error(values, computed[name]) <= tolerance, name
        return compiled

    return check


def weights(*shape: int, seed: int = 1) -> NDArray[np.float32]:
    """Random weights of a shape, small enough that deep networks stay tame."""
    return np.random.default_rng(seed).normal(scale=0.5, size=shape).astype(np.float32)


@pytest.fixture(name="weights")
def _weights() -> Callable[..., NDArray[np.float32]]:
    return weights


@pytest.fixture
def small_cnn() -> Any:
    """Conv, BatchNormalization, Relu, pooling, flattening, two dense layers; a free batch."""
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"], name="bn1"),
        helper.make_node("Relu", ["n1"], ["r1"], name="relu1"),
        helper.make_node(
            "MaxPool", ["r1"], ["p1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]
        ),
        helper.make_node("Flatten", ["p1"], ["f1"], name="flatten"),
        helper.make_node("Gemm", ["f1", "w2", "b2"], ["d1"], name="dense1", transB=1),
        helper.make_node("Relu", ["d1"], ["r2"], name="relu2"),
        helper.make_node("Gemm", ["r2", "w3", "b3"], ["scores"], name="dense2", transB=1),
    ]
    return make_model(
        nodes,
        {"image": ["batch", 1, 8, 8]},
        ["scores"],
        {
            "w1": weights(8, 1, 3, 3), "g": weights(8, seed=2) + 1, "b": weights(8, seed=3),
            "m": weights(8, seed=4), "v": np.abs(weights(8, seed=5)) + 0.5,
            "w2": weights(160, 128, seed=6), "b2": weights(160, seed=7),
            "w3": weights(10, 160, seed=8), "b3": weights(10, seed=9),
        },
    )  # fmt: skip


@pytest.fixture
def cnn_file(small_cnn: Any, tmp_path: Path) -> Path:
    path = tmp_path / "cnn.onnx"
    onnx.save_model(small_cnn, str(path))
    return path


@pytest.fixture
def calibration_file(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.npz"
    np.savez(path, image=np.random.default_rng(3).normal(size=(64, 1, 8, 8)).astype(np.float32))
    return path
