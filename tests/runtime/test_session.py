"""Opening and running models: right answers, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.formats import ModelFormat, detect_format, parse_formats
from edgekit_runtime.session import open_session
from edgekit_runtime.tensors import TensorSpec
from runtime.models import INPUTS, WEIGHTS, linear_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return linear_model(tmp_path / "linear.onnx")


def test_runs_a_model(model: Path) -> None:
    session = open_session(model)
    assert session.inputs == (TensorSpec(name="x", dtype="float32", shape=(None, 3)),)
    assert session.runtime.name == "onnxruntime"
    np.testing.assert_allclose(session.run({"x": INPUTS})["scores"], INPUTS @ WEIGHTS, rtol=1e-6)


def test_every_fault_of_the_inputs_is_named(model: Path) -> None:
    session = open_session(model)
    with pytest.raises(UsageError) as raised:
        session.run({"x": np.zeros((1, 4)), "z": np.zeros(1)})
    assert "'x' is float64, not float32" in raised.value.what
    assert "'x' has shape [1, 4], not [?, 3]" in raised.value.what
    assert "no input 'z'" in raised.value.what
    with pytest.raises(UsageError, match="'x' is missing"):
        session.run({})


@pytest.mark.parametrize("size", [1, 10, 60, 150])
def test_a_truncated_model(model: Path, size: int) -> None:
    model.write_bytes(model.read_bytes()[:size])
    with pytest.raises(UnsupportedModelError):
        open_session(model)


def test_what_is_no_model(tmp_path: Path) -> None:
    text = tmp_path / "notes.onnx"
    text.write_text("dear diary")
    with pytest.raises(UnsupportedModelError, match="no ONNX or TFLite model"):
        open_session(text)
    archive = tmp_path / "model.pt"
    archive.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(UnsupportedModelError, match="zip archive"):
        detect_format(archive)
    empty = tmp_path / "empty.onnx"
    empty.touch()
    for path, said in ((empty, "empty"), (tmp_path, "folder"), (tmp_path / "x", "no such file")):
        with pytest.raises(UsageError, match=said):
            open_session(path)


def test_the_content_decides_not_the_name(model: Path) -> None:
    renamed = model.rename(model.with_suffix(".tflite"))
    assert detect_format(renamed) is ModelFormat.ONNX
    assert open_session(renamed).runtime.name == "onnxruntime"


def test_options_that_cannot_be(model: Path) -> None:
    with pytest.raises(UsageError, match="at least one thread"):
        open_session(model, threads=0)
    with pytest.raises(UsageError, match="does not run ONNX"):
        open_session(model, runtime="litert")


def test_a_prepared_call_is_the_engines_own(model: Path) -> None:
    session = open_session(model)
    call = session.prepare({"x": INPUTS})
    (scores,) = call()
    assert np.array_equal(scores, INPUTS @ WEIGHTS)
    with pytest.raises(UsageError, match="is missing"):
        session.prepare({})


def test_providers_are_for_onnx_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(64))
    with pytest.raises(UsageError, match="does not run TFLite"):
        open_session(path, provider="cpu")


def test_formats_by_name() -> None:
    assert parse_formats("onnx, tflite,onnx") == (ModelFormat.ONNX, ModelFormat.LITERT)
    for text in ("", "onnx,keras"):
        with pytest.raises(UsageError, match="unknown format"):
            parse_formats(text)
