"""What `convert --quantize int8` keeps of trained models, in both formats."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit_converters.accuracy import AccuracyBudget
from edgekit_converters.convert import ConversionReport, ConversionRequest, Precision, convert_model
from edgekit_converters.goal import AccuracyGoal
from edgekit_runtime.formats import ModelFormat


def _convert(
    source: Path, images: NDArray[Any], labels: NDArray[Any], folder: Path, *, drop: float
) -> ConversionReport:
    """Calibrate with every fiftieth sample, and judge by the others."""
    calibrating = np.arange(len(images)) % 50 == 0
    np.savez(folder / "calibration.npz", x=images[calibrating])
    np.savez(folder / "evaluation.npz", x=images[~calibrating], labels=labels[~calibrating])
    return convert_model(
        ConversionRequest(
            source=source,
            output=folder / "out",
            targets=tuple(ModelFormat),
            precisions=(Precision.INT8,),
            calibration=folder / "calibration.npz",
            evaluation=folder / "evaluation.npz",
            goal=AccuracyGoal(budget=AccuracyBudget(drop=drop)),
        )
    )


def _mnist(shared_data: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    raw = gzip.decompress((shared_data / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((shared_data / "mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
    return images.astype(np.float32), np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)


@pytest.mark.parametrize(
    ("name", "scale", "drop"), [("mnist.onnx", 1.0, 0.002), ("trained_lstm.tflite", 255.0, 0.003)]
)
def test_mnist(name: str, scale: float, drop: float, shared_data: Path, tmp_path: Path) -> None:
    images, labels = _mnist(shared_data)
    images = images / scale
    if name.endswith(".onnx"):
        images = images[:, None]
    report = _convert(shared_data / "mnist" / name, images, labels, tmp_path, drop=drop)
    assert not report.shortfall
    for artifact in report.artifacts:
        assert artifact.paired is not None
        assert artifact.paired.samples == 9800
        assert artifact.paired.drop <= drop
        assert artifact.paired.agreement >= 0.999


def test_keyword_spotting(shared_data: Path, tmp_path: Path) -> None:
    with np.load(shared_data / "kws-dscnn" / "kws01.npz") as data:
        # The integers are those of the published int8 file's input.
        features = ((data["x"].astype(np.float32) - 83) * np.float32(0.5847029))[..., None]
        labels = data["y"]
    source = shared_data / "kws-dscnn" / "kws_ref_model_float32.tflite"
    report = _convert(source, features, labels, tmp_path, drop=0.005)
    assert not report.shortfall
    assert any("weights as integers already" in warning for warning in report.warnings)
    for artifact in report.artifacts:
        assert artifact.paired is not None
        assert artifact.paired.after >= 0.902 - 0.005
        assert artifact.paired.agreement >= 0.98


def test_a_transformer_encoder(tmp_path: Path) -> None:
    assets = Path(__file__).parents[3] / "examples" / "digits" / "assets"
    report = convert_model(
        ConversionRequest(
            source=Path(__file__).parent / "encoder" / "digits_encoder.onnx",
            output=tmp_path / "out",
            targets=tuple(ModelFormat),
            precisions=(Precision.INT8,),
            calibration=assets / "calibration.npz",
            evaluation=assets / "test.npz",
            goal=AccuracyGoal(budget=AccuracyBudget(drop=0.005)),
        )
    )
    assert not report.shortfall
    for artifact in report.artifacts:
        assert artifact.paired is not None
        assert artifact.paired.drop <= 0.005
