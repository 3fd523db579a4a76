"""Keras and TensorFlow: what is converted answers what `predict` answers."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.sources.kind import SourceKind
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError, UsageError
from edgekit_runtime.formats import ModelFormat

needs_keras = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("tensorflow", "keras", "tf2onnx")),
    reason="needs Keras: pip install 'edgekit[keras]'",
)
pytestmark = [pytest.mark.usefixtures("calm"), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras")
    script = Path(__file__).with_name("keras_models.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return path


def _check(session: Any, folder: Path, name: str) -> None:
    with np.load(folder / f"{name}.npz") as arrays:
        inputs = {key: arrays[key] for key in arrays.files if not key.startswith("out")}
        expected = [arrays[key] for key in arrays.files if key.startswith("out")]
    answer = session.run(inputs)
    for found, wanted in zip(answer.values(), expected, strict=True):
        assert np.abs(found - wanted).max() < 1e-5 * max(np.abs(wanted).max(), 1.0)


@needs_keras
@pytest.mark.parametrize("target", list(ModelFormat))
@pytest.mark.parametrize(
    ("source", "name", "outputs"),
    [
        ("dense.keras", "dense", ["probabilities"]),
        ("dense.h5", "dense", ["probabilities"]),
        ("dense_saved", "dense", ["output_0"]),
        ("conv.keras", "conv", ["scores"]),
        ("conv_saved", "conv", ["output_0"]),
        ("old.h5", "conv", ["scores"]),
        ("lstm.keras", "lstm", ["y"]),
        ("gru.keras", "gru", ["y"]),
        ("two.keras", "two", ["first", "second"]),
    ],
)
def test_every_form_of_a_model(
    source: str, name: str, outputs: list[str], target: ModelFormat, convert: Any, folder: Path
) -> None:
    session, report = convert(folder / source, target=target)
    saved = source.endswith("_saved")
    assert report.source_kind is (SourceKind.SAVED_MODEL if saved else SourceKind.KERAS)
    assert report.reference.startswith("tensorflow " if saved else "keras ")
    assert [spec.name for spec in session.outputs] == outputs
    assert all(spec.shape[0] is None for spec in session.inputs)
    _check(session, folder, name)


@needs_keras
def test_a_wrong_name_does_not_matter(convert: Any, folder: Path, tmp_path: Path) -> None:
    for source, name in (("dense.keras", "model.h5"), ("dense.h5", "model.onnx")):
        (tmp_path / name).write_bytes((folder / source).read_bytes())
        session, _ = convert(tmp_path / name)
        _check(session, folder, "dense")


@needs_keras
def test_in_a_process_of_its_own(convert_apart: Any, folder: Path) -> None:
    session, _ = convert_apart(folder / "dense.keras")
    _check(session, folder, "dense")


@needs_keras
@pytest.mark.parametrize("name", ["lambda.keras", "lambda.h5"])
def test_code_in_a_layer_is_refused_until_it_is_trusted(
    name: str, convert: Any, folder: Path
) -> None:
    with pytest.raises(UsageError, match="Lambda layer"):
        convert(folder / name)
    convert(folder / name, trust_pickle=True)


@needs_keras
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("only.weights.h5", "weights without the model"),
        ("reaching_saved", r"reads or writes files.*ReadFile"),
        ("custom.keras", "Keras cannot load this model"),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, said: str, convert: Any, folder: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=said) as caught:
        convert(folder / name)
    assert caught.value.fix


@needs_keras
@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("name", ["dense.keras", "dense.h5"])
def test_truncated_files(
    name: str, share: float, convert: Any, folder: Path, tmp_path: Path
) -> None:
    content = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UnsupportedModelError):
        convert(tmp_path / name)


@needs_keras
def test_a_damaged_saved_model(convert: Any, folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "saved"
    shutil.copytree(folder / "dense_saved", copy)
    (copy / "saved_model.pb").write_bytes(b"\x08\x01nonsense")
    with pytest.raises(UnsupportedModelError):
        convert(copy)
    shutil.copy(folder / "dense_saved" / "saved_model.pb", copy / "saved_model.pb")
    shutil.rmtree(copy / "variables")
    with pytest.raises(UnsupportedModelError, match="incomplete"):
        convert(copy)
    with pytest.raises(UsageError, match="one file of a TensorFlow SavedModel"):
        convert(copy / "saved_model.pb")


def test_without_tensorflow_the_command_that_installs_it_is_said(
    convert: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit_converters.sources import tensorflow_export

    monkeypatch.setattr(tensorflow_export.importlib.util, "find_spec", lambda _: None)
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(EnvironmentLackError) as caught:
        convert(tmp_path / "m.h5")
    assert caught.value.fix == 'pip install "edgekit[keras]"'
    assert "tensorflow, keras, tf2onnx" in caught.value.what
