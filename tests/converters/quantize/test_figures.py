"""Accuracy of quantized models on the samples that the float models are judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgekit_converters.quantize.scheme import Scheme
from tests.converters.conftest import make_model
from tests.converters.quantize.measured import run_onnx
from tests.converters.quantize.subjects import (
    DIGITS,
    Judgement,
    Prepared,
    Subject,
    own_subjects,
    shared_subject,
)

SUFFIXES = (".onnx", ".tflite")
# Nothing of the activations is lost, or next to nothing.
CAREFUL = (Scheme.FP16, Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHTS, Scheme.INT16X8)


def judged(
    subject: Subject, folder: Path, schemes: tuple[Scheme, ...] = (Scheme.INT8,)
) -> dict[tuple[Scheme, str], Judgement]:
    prepared = Prepared(subject)
    found = {}
    for scheme in schemes:
        for suffix in SUFFIXES:
            path = folder / f"model{suffix}"
            prepared.write(scheme, path)
            found[scheme, suffix] = prepared.judge(path, folder)
    return found


@pytest.fixture(params=list(own_subjects()), ids=lambda subject: subject.name)
def own(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.param
    return found


def check_own(subject: Subject, folder: Path, schemes: tuple[Scheme, ...]) -> None:
    for key, found in judged(subject, folder, schemes).items():
        assert found.source_accuracy > 0.95
        assert found.drop <= 0.2, key
        assert found.agreement >= 0.99, key


def test_models_of_the_project_keep_their_accuracy(own: Subject, tmp_path: Path) -> None:
    check_own(own, tmp_path, (Scheme.INT8,))


@pytest.mark.slow
def test_careful_schemes_cost_nothing(own: Subject, tmp_path: Path) -> None:
    check_own(own, tmp_path, CAREFUL)


def memory_of_digits() -> Subject:
    """An LSTM that reads digits row by row; its readout is fitted, its memory is random."""
    rng = np.random.default_rng(1)
    hidden, size = 192, 8
    with np.load(DIGITS / "train.npz") as train, np.load(DIGITS / "test.npz") as test:
        name = next(key for key in test.files if test[key].ndim > 1)
        label = next(key for key in test.files if test[key].ndim == 1)
        x_train, y_train = train[name].reshape(-1, size, size), train[label]
        x_test, y_test = test[name].reshape(-1, size, size), test[label]
    constants = {
        "w": rng.normal(scale=0.3, size=(1, 4 * hidden, size)).astype(np.float32),
        "r": (rng.normal(size=(1, 4 * hidden, hidden)) / np.sqrt(hidden)).astype(np.float32),
        "axis": np.array([0]),
        "out": np.zeros((10, hidden), np.float32),
        "b": np.zeros(10, np.float32),
    }

    def network(outputs: list[str]) -> Subject:
        nodes = [
            helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
            helper.make_node("LSTM", ["steps", "w", "r"], ["", "h"], hidden_size=hidden),
            helper.make_node("Squeeze", ["h", "axis"], ["state"]),
            helper.make_node("Gemm", ["state", "out", "b"], ["y"], transB=1),
        ]
        model = make_model(nodes, {"x": ["n", size, size]}, outputs, constants)
        return Subject(
            name="digits, LSTM", source=model, calibration=x_train[:200], samples=x_test,
            labels=y_test,
        )  # fmt: skip

    states = run_onnx(network(["state", "y"]).source, {"x": x_train.astype(np.float32)})["state"]
    design = np.concatenate([states, np.ones((len(states), 1))], axis=1)
    ridge = design.T @ design + 1e-3 * np.eye(hidden + 1)
    readout = np.linalg.solve(ridge, design.T @ np.eye(10)[y_train])
    constants["out"] = readout[:-1].T.astype(np.float32)
    constants["b"] = readout[-1].astype(np.float32)
    return network(["y"])


def test_a_recurrent_network_keeps_its_accuracy(tmp_path: Path) -> None:
    for key, found in judged(memory_of_digits(), tmp_path, (Scheme.INT8, *CAREFUL)).items():
        assert found.source_accuracy > 0.95
        assert found.drop <= 0.3, key


@pytest.mark.parametrize(
    ("name", "most", "agreement"),
    [
        ("mnist", 0.2, 0.999),
        # Their published int8 form has 90.2 %, the float one 90.1.
        ("keywords", 0.4, 0.98),
        ("keywords-onnx", 1.0, 0.975),
        ("table", 0.2, 0.995),
    ],
)
def test_models_of_others_keep_their_accuracy(
    name: str, most: float, agreement: float, shared_data: Path, tmp_path: Path
) -> None:
    for key, found in judged(shared_subject(name, shared_data), tmp_path).items():
        assert found.source_accuracy > 0.89
        assert found.drop <= most, key
        assert found.agreement >= agreement, key


@pytest.mark.slow
def test_the_lstm_of_others_keeps_its_accuracy(shared_data: Path, tmp_path: Path) -> None:
    for key, found in judged(shared_subject("lstm", shared_data), tmp_path).items():
        assert found.source_accuracy > 0.98
        assert found.drop <= 0.3, key
