"""The digits example: its data, its two trained models, and the script that made them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits"
ASSETS = EXAMPLE / "assets"
SIZES = {"train": 1000, "calibration": 257, "test": 540}
MODELS = ("digits_v1", "digits_v2")
LARGEST_MODEL_BYTES = 300_000


def split(name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(ASSETS / f"{name}.npz") as arrays:
        return arrays["image"], arrays["labels"]


def record() -> dict[str, Any]:
    return json.loads((ASSETS / "training.json").read_text(encoding="utf-8"))


def accuracy(model: Path | bytes, name: str) -> float:
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the exported models")
    image, labels = split(name)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": image})
    return float((logits.argmax(axis=1) == labels).mean())


@pytest.mark.parametrize(("name", "samples"), SIZES.items())
def test_a_split_has_the_shape_and_range_that_conversion_expects(name: str, samples: int) -> None:
    image, labels = split(name)
    assert image.shape == (samples, 1, 8, 8)
    assert image.dtype == np.float32
    assert labels.shape == (samples,)
    assert labels.dtype == np.int64
    assert (image.min(), image.max()) == (0.0, 1.0)
    # The source counts 0 to 16 dots: a sixteenth is exact in float32.
    np.testing.assert_array_equal(image * 16, np.round(image * 16))


@pytest.mark.parametrize("name", SIZES)
def test_every_class_has_its_share_of_a_split(name: str) -> None:
    _, labels = split(name)
    counts = np.bincount(labels, minlength=10)
    assert counts.shape == (10,)
    assert counts.min() >= 0.09 * len(labels)
    assert counts.max() <= 0.11 * len(labels)


@pytest.mark.parametrize("name", SIZES)
def test_the_first_samples_of_a_split_are_not_all_of_a_few_classes(name: str) -> None:
    _, labels = split(name)
    assert len(set(labels[:100].tolist())) == 10


def test_no_digit_is_in_two_splits() -> None:
    digits = [image.tobytes() for name in SIZES for image in split(name)[0]]
    assert len(digits) == 1797
    assert len(set(digits)) == 1797


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_one_small_file(name: str) -> None:
    onnx = pytest.importorskip("onnx", reason="reads the exported models")
    path = ASSETS / f"{name}.onnx"
    assert path.stat().st_size < LARGEST_MODEL_BYTES
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_takes_any_batch_and_names_its_layers(name: str) -> None:
    onnx = pytest.importorskip("onnx", reason="reads the exported models")
    model = onnx.load(ASSETS / f"{name}.onnx")
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"image": ["batch", 1, 8, 8], "logits": ["batch", 10]}
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    layers = {tensor.name.rpartition(".")[0] for tensor in model.graph.initializer}
    assert layers <= set(names)
    assert {"conv1", "conv2"} <= layers


@pytest.mark.parametrize("name", MODELS)
def test_a_model_uses_only_operators_that_every_engine_has(name: str) -> None:
    onnx = pytest.importorskip("onnx", reason="reads the exported models")
    model = onnx.load(ASSETS / f"{name}.onnx")
    assert {node.op_type for node in model.graph.node} <= {
        "Conv",
        "Relu",
        "MaxPool",
        "Reshape",
        "Gemm",
    }
    assert [opset.domain for opset in model.opset_import] == [""]


@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_files_are_the_recorded_ones(name: str) -> None:
    recorded = record()
    path = ASSETS / recorded["models"][name]["file"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == recorded["models"][name]["sha256"]
    for data, facts in recorded["data"].items():
        content = (ASSETS / f"{data}.npz").read_bytes()
        assert hashlib.sha256(content).hexdigest() == facts["sha256"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("data", SIZES)
def test_accuracy_is_as_recorded(name: str, data: str) -> None:
    # Another machine's kernels may tip a sample or two that lie on the border of two classes.
    two_samples = 2 / SIZES[data]
    assert accuracy(ASSETS / f"{name}.onnx", data) == pytest.approx(
        record()["models"][name]["accuracy"][data], abs=two_samples
    )


def test_the_second_version_is_better_than_the_first() -> None:
    first, second = (accuracy(ASSETS / f"{name}.onnx", "test") for name in MODELS)
    assert first > 0.94
    assert second > 0.985
    assert second - first > 0.02


@pytest.mark.parametrize("name", MODELS)
def test_without_its_trained_weights_a_model_knows_nothing(name: str) -> None:
    onnx = pytest.importorskip("onnx", reason="changes the exported models")
    model = onnx.load(ASSETS / f"{name}.onnx")
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".weight"):
            zeros = np.zeros(tuple(tensor.dims), dtype=np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
    assert accuracy(model.SerializeToString(), "test") < 0.2


@pytest.mark.parametrize("name", MODELS)
def test_the_readme_states_the_recorded_figures(name: str) -> None:
    column = MODELS.index(name) + 1
    rows = {}
    for line in (EXAMPLE / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            cells = [cell.strip(" *`") for cell in line.strip("|").split("|")]
            rows[cells[0]] = cells[column]
    recorded = record()["models"][name]
    assert rows["file"] == recorded["file"]
    assert rows["parameters"] == f"{recorded['parameters']:,}"
    assert rows["size"] == f"{recorded['size_bytes'] / 1e3:.1f} kB"
    assert rows["epochs"].split(",")[0] == str(recorded["recipe"]["epochs"])
    for data, samples in SIZES.items():
        stated = rows[f"accuracy, {data} split ({samples:,})"]
        assert stated == f"{100 * recorded['accuracy'][data]:.2f} %"


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The scripts stand alone: none of this process's settings for warnings reach them.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    return subprocess.run(
        [sys.executable, str(EXAMPLE / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=environment,
    )


def test_the_data_script_writes_the_shipped_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn distributes the digits")
    done = run_script("make_data.py", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for name in SIZES:
        with np.load(tmp_path / f"{name}.npz") as written:
            image, labels = split(name)
            np.testing.assert_array_equal(written["image"], image)
            np.testing.assert_array_equal(written["labels"], labels)


@pytest.mark.slow
def test_training_for_a_few_epochs_learns(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="trains the models; install edgekit[torch]")
    pytest.importorskip("onnxscript", reason="exports the models; install edgekit[torch]")
    done = run_script("train.py", "--output", str(tmp_path), "--epochs", "6")
    assert done.returncode == 0, done.stderr
    assert "epoch   6/6" in done.stdout
    written = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    for name in MODELS:
        assert written["models"][name]["recipe"]["epochs"] == 6
        assert accuracy(tmp_path / f"{name}.onnx", "test") > 0.9
