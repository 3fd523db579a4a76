"""Bundles of models that nobody runs: a fleet only carries them."""

from __future__ import annotations

from pathlib import Path

from edgekit_runtime.bundle.archive import entry_of, write_bundle
from edgekit_runtime.bundle.manifest import (
    Binding,
    GoldenOutputs,
    Manifest,
    Requirements,
    TensorContract,
    Variant,
)
from edgekit_runtime.formats import ModelFormat


def write_carried(folder: Path, version: str, *, name: str = "digits", model: bytes) -> Path:
    """Write an `.ekb` with these bytes for a model."""
    files = {"model.onnx": model, "golden.npz": b"inputs", "expected.npz": b"outputs"}
    variant = Variant(
        id="onnx-float",
        format=ModelFormat.ONNX,
        precision="float32",
        file="model.onnx",
        inputs={"image": Binding(tensor="x")},
        outputs={"scores": Binding(tensor="y")},
        requires=Requirements(runtimes=("onnxruntime",)),
        golden=GoldenOutputs(file="expected.npz", atol=0.01, rtol=0.0),
    )
    manifest = Manifest(
        name=name,
        version=version,
        task="classification",
        created="2026-11-24T00:00:00Z",
        inputs=(TensorContract(name="image", dtype="float32", shape=(None, 8)),),
        outputs=(TensorContract(name="scores", dtype="float32", shape=(None, 2)),),
        variants=(variant,),
        golden_inputs="golden.npz",
        golden_samples=1,
        files={path: entry_of(data) for path, data in files.items()},
    )
    path = folder / f"{name}-{version}.ekb"
    write_bundle(path, manifest, files)
    return path
