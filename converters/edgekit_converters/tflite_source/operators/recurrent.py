"""Recurrent layers over whole sequences, starting from zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.tflite_source.operators.lstm_scan import emit_scan
from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder

# Inputs of UNIDIRECTIONAL_SEQUENCE_LSTM: the first of each four (or three), by gate.
_WEIGHTS, _RECURRENT, _PEEPHOLES, _BIASES = 1, 5, 9, 12
_PROJECTION, _NORMALIZATION = (16, 17), (20, 21, 22, 23)
# LiteRT's gates are input, forget, cell, output; ONNX's are input, output, forget, cell.
_GATES: Final = (0, 3, 1, 2)
_TIME_FIRST, _BATCH_FIRST = (0, 1, 2), (1, 0, 2)
_TANH: Final = 4
_ACTIVATIONS: Final = {1: "Relu", 4: "Tanh"}


@imports(
    "UNIDIRECTIONAL_SEQUENCE_LSTM", inputs=(20, 24), options="UnidirectionalSequenceLSTMOptions"
)
def import_lstm(build: Builder) -> None:
    """An LSTM node where it computes the same, else its cell, written out, in a Scan.

    ONNX's LSTM cannot limit its cell, as every LSTM from Keras does in LiteRT (at 10), nor
    quantize its state in each step.
    """
    _check_lstm(build)
    source = build.tensor(0)
    time_first = bool(build.option("timeMajor", default=False))
    steps = build.shape(0)[0 if time_first else 1]
    limit = float(build.option("cellClip", 0.0))
    # In each step the cell grows by one at most.
    limited = limit > 0 and (steps is None or steps > limit)
    coupled = not build.has(_WEIGHTS)
    if limited or coupled or source.quantization is not None:
        if build.has(_PEEPHOLES + 1):
            raise RefusedOperatorError("its gates look at the cell, which is limited or quantized")
        emit_scan(build, time_first=time_first, coupled=coupled, limit=limit if limited else 0.0)
        return
    front = build.sizes([0], "direction")
    weights = [
        build.node("Unsqueeze", [build.stacked([first + gate for gate in _GATES], name), front])
        for first, name in (
            (_WEIGHTS, f"{build.operator.name}/weights"),
            (_RECURRENT, f"{build.operator.name}/recurrent_weights"),
        )
    ]
    biases = np.concatenate([build.numbers(_BIASES + gate) for gate in _GATES])
    both = np.concatenate([biases, np.zeros_like(biases)])[np.newaxis]
    inputs = [*weights, build.store(both, f"{build.operator.name}/biases")]
    if build.has(_PEEPHOLES + 1):
        looks = [build.numbers(_PEEPHOLES + gate) for gate in (0, 2, 1)]
        stored = build.store(np.concatenate(looks)[np.newaxis], f"{build.operator.name}/peepholes")
        inputs += ["", "", "", stored]
    order = _TIME_FIRST if time_first else _BATCH_FIRST
    units = build.tensor(_RECURRENT + 1).shape[-1]
    values = build.node("LSTM", [build.input(0, order), *inputs], hidden_size=units)
    build.emit("Squeeze", [values, build.sizes([1], "directions")], order)


@imports("UNIDIRECTIONAL_SEQUENCE_RNN", inputs=(5, 5), options="SequenceRNNOptions")
def import_rnn(build: Builder) -> None:
    """A plain recurrent layer: input, weights, recurrent weights, bias, state."""
    activation = _ACTIVATIONS.get(int(build.option("fusedActivationFunction")))
    if activation is None or build.tensor(0).quantization is not None:
        raise RefusedOperatorError("supported: floats, with tanh or relu")
    order = _TIME_FIRST if build.option("timeMajor", default=False) else _BATCH_FIRST
    front = build.sizes([0], "direction")
    weights = [build.node("Unsqueeze", [build.input(position), front]) for position in (1, 2)]
    bias = build.numbers(3)
    both = np.concatenate([bias, np.zeros_like(bias)])[np.newaxis]
    inputs = [build.input(0, order), *weights, build.store(both, f"{build.operator.name}/biases")]
    units = build.tensor(2).shape[-1]
    values = build.node("RNN", inputs, hidden_size=units, activations=[activation])
    build.emit("Squeeze", [values, build.sizes([1], "directions")], order)


def _check_lstm(build: Builder) -> None:
    reasons = {
        "its output is projected": any(build.has(i) for i in _PROJECTION),
        "its gates are normalised": any(build.has(i) for i in _NORMALIZATION),
        "its activation function is not tanh": build.option("fusedActivationFunction") != _TANH,
        "its recurrent weights are diagonals": bool(
            build.option("diagonalRecurrentTensors", default=False)
        ),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise RefusedOperatorError("; ".join(found))
