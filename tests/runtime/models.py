"""Small ONNX models and bundles that tests make themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit_runtime.bundle.archive import entry_of
from edgekit_runtime.bundle.golden import save_arrays
from edgekit_runtime.bundle.manifest import (
    Binding,
    GoldenOutputs,
    Manifest,
    Requirements,
    TensorContract,
    Variant,
)
from edgekit_runtime.formats import ModelFormat

WEIGHTS = np.array([[1.0, -2.0], [0.5, 3.0], [0.0, 1.0]], dtype=np.float32)
INPUTS = np.array([[1, 2, 3], [0, 0, 1], [4, -1, 0.5], [2, 2, 2]], dtype=np.float32)


def linear_model(path: Path, weights: np.ndarray = WEIGHTS) -> Path:
    """Write `scores = x @ weights` with a free batch."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["scores"], name="fc")],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weights.shape[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def linear_bundle(model: bytes, *, version: str = "1.0.0") -> tuple[Manifest, dict[str, bytes]]:
    """A bundle of one variant whose golden outputs numpy computed."""
    files = {
        "variants/onnx-float32.onnx": model,
        "golden/inputs.npz": save_arrays({"x": INPUTS}),
        "golden/onnx-float32.npz": save_arrays({"scores": INPUTS @ WEIGHTS}),
    }
    return manifest_for(files, version=version), files


def manifest_for(files: Mapping[str, bytes], *, version: str = "1.0.0") -> Manifest:
    """The manifest of `linear_bundle`."""
    return Manifest(
        name="linear",
        version=version,
        task="regression",
        created="2026-01-02T03:04:05Z",
        inputs=(TensorContract(name="x", dtype="float32", shape=(None, 3)),),
        outputs=(
            TensorContract(name="scores", dtype="float32", shape=(None, 2), labels=("a", "b")),
        ),
        variants=(
            Variant(
                id="onnx-float32",
                format=ModelFormat.ONNX,
                precision="float32",
                file="variants/onnx-float32.onnx",
                inputs={"x": Binding(tensor="x")},
                outputs={"scores": Binding(tensor="scores")},
                requires=Requirements(runtimes=("onnxruntime",)),
                golden=GoldenOutputs(file="golden/onnx-float32.npz", atol=1e-5, rtol=0.0),
            ),
        ),
        golden_inputs="golden/inputs.npz",
        golden_samples=len(INPUTS),
        files={name: entry_of(data) for name, data in files.items()},
    )
