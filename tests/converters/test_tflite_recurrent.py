"""LiteRT's recurrent layers compute the same in onnxruntime, from a state of zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.tflite_builder import Array, TfliteBuilder, assert_same, types_of
from edgekit_converters.tflite_source import import_tflite
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.session import open_session

F = np.float32
BATCH, TIME, FEATURES, UNITS = 2, 5, 3, 4
_TANH = 4


def weights(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(scale=0.7, size=shape).astype(F)


def lstm(
    *,
    time_major: bool = False,
    clip: float = 0.0,
    coupled: bool = False,
    peepholes: bool = False,
    projection: bool = False,
    activation: int = _TANH,
    steps: int = TIME,
) -> bytes:
    build = TfliteBuilder()
    shape = [steps, BATCH] if time_major else [BATCH, steps]
    source = build.tensor("sequence", [*shape, FEATURES])
    inputs = [-1] * 24
    inputs[0] = source
    for gate in range(1 if coupled else 0, 4):
        inputs[1 + gate] = build.constant(f"w{gate}", weights(UNITS, FEATURES, seed=gate))
        inputs[5 + gate] = build.constant(f"r{gate}", weights(UNITS, UNITS, seed=10 + gate))
        inputs[12 + gate] = build.constant(f"b{gate}", weights(UNITS, seed=20 + gate))
    if peepholes:
        for gate in range(1 if coupled else 0, 3):
            inputs[9 + gate] = build.constant(f"p{gate}", weights(UNITS, seed=30 + gate))
    if projection:
        inputs[16] = build.constant("projection", weights(UNITS, UNITS, seed=40))
    inputs[18] = build.tensor("hidden", [BATCH, UNITS], variable=True)
    inputs[19] = build.tensor("cell", [BATCH, UNITS], variable=True)
    out = build.tensor("out", [*shape, UNITS])
    build.operator(
        "UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [out], "UnidirectionalSequenceLSTMOptions",
        timeMajor=time_major, cellClip=clip, fusedActivationFunction=activation,
    )  # fmt: skip
    return build.content([source], [out])


def sequence(*, time_major: bool = False, steps: int = TIME) -> Array:
    shape = (steps, BATCH) if time_major else (BATCH, steps)
    return weights(*shape, FEATURES, seed=50)


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("peepholes", [False, True])
def test_lstm_is_one_node(time_major: bool, peepholes: bool, tmp_path: Path) -> None:
    content = lstm(time_major=time_major, peepholes=peepholes)
    feeds = [sequence(time_major=time_major)]
    model = assert_same(content, tmp_path, feeds, tolerance=1e-5)
    assert types_of(model).count("LSTM") == 1
    assert {e.key for e in model.metadata_props} == {"edgekit.recurrent_state"}


@pytest.mark.parametrize(
    "options",
    [{"clip": 0.25}, {"coupled": True}, {"coupled": True, "clip": 0.25, "time_major": True}],
)
def test_lstm_that_onnx_has_no_node_for_is_written_out(
    options: dict[str, Any], tmp_path: Path
) -> None:
    feeds = [sequence(time_major=options.get("time_major", False))]
    model = assert_same(lstm(**options), tmp_path, feeds, tolerance=1e-5)
    assert "Scan" in types_of(model)


def test_limit_that_no_cell_reaches_needs_no_scan(tmp_path: Path) -> None:
    model = assert_same(lstm(clip=10.0), tmp_path, [sequence()], tolerance=1e-5)
    assert "LSTM" in types_of(model)
    model = assert_same(lstm(clip=10.0, steps=11), tmp_path, [sequence(steps=11)], tolerance=1e-5)
    assert "Scan" in types_of(model)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"projection": True}, "its output is projected"),
        ({"activation": 1}, "its activation function is not tanh"),
        ({"peepholes": True, "clip": 0.25}, "its gates look at the cell"),
    ],
)
def test_refused_lstm(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "lstm.tflite"
    path.write_bytes(lstm(**options))
    with pytest.raises(UnsupportedModelError, match=reason):
        import_tflite(path)


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("activation", [1, _TANH])
def test_plain_recurrent_layer(time_major: bool, activation: int, tmp_path: Path) -> None:
    build = TfliteBuilder()
    shape = [TIME, BATCH] if time_major else [BATCH, TIME]
    source = build.tensor("sequence", [*shape, FEATURES])
    stored = [
        build.constant("w", weights(UNITS, FEATURES, seed=1)),
        build.constant("r", weights(UNITS, UNITS, seed=2)),
        build.constant("b", weights(UNITS, seed=3)),
    ]
    state = build.tensor("hidden", [BATCH, UNITS], variable=True)
    out = build.tensor("out", [*shape, UNITS])
    build.operator(
        "UNIDIRECTIONAL_SEQUENCE_RNN", [source, *stored, state], [out], "SequenceRNNOptions",
        timeMajor=time_major, fusedActivationFunction=activation,
    )  # fmt: skip
    feeds = [sequence(time_major=time_major)]
    model = assert_same(build.content([source], [out]), tmp_path, feeds, tolerance=1e-5)
    assert types_of(model).count("RNN") == 1


def test_a_run_does_not_depend_on_those_before(tmp_path: Path) -> None:
    path = tmp_path / "lstm.tflite"
    path.write_bytes(lstm())
    session = open_session(path)
    first = session.run({"sequence": sequence()})["out"]
    session.run({"sequence": -sequence()})
    np.testing.assert_array_equal(session.run({"sequence": sequence()})["out"], first)
