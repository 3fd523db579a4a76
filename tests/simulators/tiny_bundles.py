"""Bundles around tiny ONNX models whose outputs are known, sound ones and broken ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundling.statistics import reference_statistics
from edgekit_runtime.bundle.archive import entry_of, write_bundle
from edgekit_runtime.bundle.golden import save_arrays
from edgekit_runtime.bundle.manifest import (
    MANIFEST_NAME,
    Binding,
    GoldenOutputs,
    Manifest,
    Requirements,
    Step,
    TensorContract,
    Variant,
    parse_manifest,
)
from edgekit_runtime.formats import ModelFormat

WIDTH = 4
GOLDEN = np.arange(3 * WIDTH, dtype=np.float32).reshape(3, WIDTH) / 8


def affine_model(scale: float, offset: float = 0.0) -> bytes:
    """y = x * scale + offset."""
    return _model(
        [
            helper.make_node("Mul", ["x", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offset"], ["y"]),
        ],
        scale=np.float32(scale),
        offset=np.float32(offset),
    )


def logarithm_model() -> bytes:
    """y = log(x): right on the golden samples, NaN for what is below zero."""
    return _model([helper.make_node("Log", ["x"], ["y"])])


def looping_model() -> bytes:
    """y = x * (1 + n), in n steps, where n is the largest of x: takes hours for a large x."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["sum_in", "x"], ["sum_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, None),
        ],
    )
    return _model(
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["times"], to=TensorProto.INT64),
            helper.make_node("Loop", ["times", "true", "x"], ["y"], body=body),
        ],
        true=np.bool_(True),
    )


def endless_bundle(name: str, version: str) -> dict[str, bytes]:
    """Its golden samples take hours."""
    golden = np.full((1, WIDTH), 1e15, dtype=np.float32)
    return bundle_files(name, version, [("loop", looping_model())], expected=golden, golden=golden)


def greedy_model(megabytes: int) -> bytes:
    """Needs that much memory to compute y = x."""
    return _model(
        [
            helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
            helper.make_node("Expand", ["total", "size"], ["wide"]),
            helper.make_node("ReduceMax", ["wide"], ["largest"], keepdims=0),
            helper.make_node("Sub", ["largest", "total"], ["zero"]),
            helper.make_node("Add", ["x", "zero"], ["y"]),
        ],
        size=np.array([megabytes << 18], dtype=np.int64),
    )


def hungry_model() -> bytes:
    """y = x, by way of as many megabytes as the largest of x says."""
    return _model(
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["megabytes"], to=TensorProto.INT64),
            helper.make_node("Mul", ["megabytes", "floats"], ["many"]),
            helper.make_node("Expand", ["largest", "many"], ["wide"]),
            helper.make_node("ReduceSum", ["wide"], ["total"], keepdims=0),
            helper.make_node("Mul", ["total", "none"], ["zero"]),
            helper.make_node("Add", ["x", "zero"], ["y"]),
        ],
        floats=np.array([1 << 18], dtype=np.int64),
        none=np.float32(0),
    )


def bundle_files(
    name: str,
    version: str,
    models: Sequence[tuple[str, bytes]],
    *,
    expected: NDArray[np.float32],
    golden: NDArray[np.float32] = GOLDEN,
    runtimes: tuple[str, ...] = ("onnxruntime",),
    padding: int = 0,
    postprocessing: tuple[Step, ...] = (),
) -> dict[str, bytes]:
    """All files of a bundle, manifest first.

    Args:
        name: Of the bundle.
        version: Of the bundle.
        models: Variant id and model file, the best first.
        expected: What the golden inputs must give.
        golden: The golden inputs.
        runtimes: What every variant needs.
        padding: Random bytes to send along, in the statistics file.
        postprocessing: Steps on `y`.
    """
    files = {
        "golden/inputs.npz": save_arrays({"x": golden}),
        "golden/outputs.npz": save_arrays({"y": expected}),
        "statistics.json": b'{"padding": "%s"}'
        % np.random.default_rng(0).bytes(padding).hex().encode(),
    }
    files |= {f"models/{variant}": data for variant, data in models}
    manifest = Manifest(
        name=name,
        version=version,
        task="regression",
        created="2026-01-01T00:00:00Z",
        inputs=(TensorContract(name="x", dtype="float32", shape=(None, WIDTH)),),
        outputs=(TensorContract(name="y", dtype="float32", shape=(None, WIDTH)),),
        variants=tuple(
            Variant(
                id=variant,
                format=ModelFormat.ONNX,
                precision="float32",
                file=f"models/{variant}",
                inputs={"x": Binding(tensor="x")},
                outputs={"y": Binding(tensor="y")},
                requires=Requirements(runtimes=runtimes),
                golden=GoldenOutputs(file="golden/outputs.npz", atol=1e-5, rtol=1e-5),
            )
            for variant, _ in models
        ),
        golden_inputs="golden/inputs.npz",
        golden_samples=len(golden),
        reference_statistics="statistics.json",
        postprocessing=postprocessing,
        files={path: entry_of(data) for path, data in files.items()},
    )
    return {MANIFEST_NAME: manifest.to_json(), **files}


def affine_bundle(name: str, version: str, scale: float, *, padding: int = 0) -> dict[str, bytes]:
    """A sound bundle: y = x * scale."""
    return bundle_files(
        name,
        version,
        [("plain", affine_model(scale))],
        expected=GOLDEN * np.float32(scale),
        padding=padding,
    )


def write_measured_bundle(
    path: Path,
    name: str,
    version: str,
    model: bytes,
    *,
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
) -> None:
    """An `.ekb` whose reference statistics are of these inputs and outputs, the first golden."""
    files = bundle_files(name, version, [("plain", model)], expected=outputs[:3], golden=inputs[:3])
    files["statistics.json"] = reference_statistics({"x": inputs}, {"y": outputs})
    manifest = parse_manifest(files.pop(MANIFEST_NAME), where="test")
    listed = {file: entry_of(data) for file, data in files.items()}
    write_bundle(path, replace(manifest, files=listed), files)


def _model(nodes: list[onnx.NodeProto], **constants: NDArray[np.generic] | np.generic) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
        [
            numpy_helper.from_array(np.asarray(value), constant)
            for constant, value in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString()
