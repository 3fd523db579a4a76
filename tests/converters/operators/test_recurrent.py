"""LSTM, GRU and RNN against onnxruntime: directions, states, lengths, loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.litert.compile import CompiledModel, compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.session import open_session

F = np.float32
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
TIME, BATCH, FEATURES, HIDDEN = 5, 3, 4, 6
OUTPUTS = {"LSTM": ["y", "yh", "yc"], "GRU": ["y", "yh"], "RNN": ["y", "yh"]}


def recurrent_model(
    operator: str,
    *,
    free: str = "",
    steps: int = TIME,
    bias: bool = True,
    lengths: bool = False,
    state: bool = False,
    peepholes: bool = False,
    computed_weights: bool = False,
    **attributes: Any,
) -> Any:
    """A model of one recurrent node; `free` names the free sizes: "t", "b"."""
    rng = np.random.default_rng(5)
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[operator] * HIDDEN
    time: int | str = "time" if "t" in free else steps
    batch: int | str = "batch" if "b" in free else BATCH

    def values(*shape: int) -> Any:
        return rng.normal(scale=0.6, size=shape).astype(F)

    tensors = {"w": values(directions, rows, FEATURES), "r": values(directions, rows, HIDDEN)}
    inputs: dict[str, tuple[int, list[Any]]] = {"x": (TensorProto.FLOAT, [time, batch, FEATURES])}
    names = ["x", "w", "r", "", "", "", "", ""]
    if bias:
        tensors["b"] = values(directions, 2 * rows)
        names[3] = "b"
    if lengths:
        inputs["lengths"] = (TensorProto.INT32, [batch])
        names[4] = "lengths"
    if state:
        inputs["h0"] = (TensorProto.FLOAT, [directions, batch, HIDDEN])
        names[5] = "h0"
        if operator == "LSTM":
            inputs["c0"] = (TensorProto.FLOAT, [directions, batch, HIDDEN])
            names[6] = "c0"
    if peepholes:
        tensors["p"] = values(directions, 3 * HIDDEN)
        names[7] = "p"
    while not names[-1]:
        names.pop()
    if computed_weights:
        inputs |= {name: (TensorProto.FLOAT, list(array.shape)) for name, array in tensors.items()}
        tensors = {}
    node = helper.make_node(
        operator, names, OUTPUTS[operator], name="cell", hidden_size=HIDDEN, **attributes
    )
    graph = helper.make_graph(
        [node],
        "recurrent",
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in OUTPUTS[operator]],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def assert_same(model: Any, folder: Path, *, time: int = TIME, batch: int = BATCH) -> CompiledModel:
    source, target = folder / "a.onnx", folder / "a.tflite"
    onnx.save_model(model, str(source))
    compiled = compile_to_litert(normalise(model, where="test"), where="test")
    target.write_bytes(compiled.content)
    reference, session = open_session(source), open_session(target)
    rng = np.random.default_rng(9)
    sizes = {0: time, 1: batch}
    for _ in range(2):
        arrays = {}
        for spec in reference.inputs:
            if spec.name == "lengths":
                arrays["lengths"] = np.array([time, 1, time - 2][:batch], dtype=np.int32)
                continue
            shape = [sizes[axis] if size is None else size for axis, size in enumerate(spec.shape)]
            arrays[spec.name] = rng.normal(scale=0.7, size=shape).astype(F)
        expected, computed = reference.run(arrays), session.run(arrays)
        for name, values in expected.items():
            np.testing.assert_allclose(computed[name], values, atol=2e-6, rtol=1e-5, err_msg=name)
    return compiled


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("operator", list(GATES))
def test_every_direction_with_its_final_states(
    operator: str, *, lengths: bool, state: bool, direction: str, tmp_path: Path
) -> None:
    model = recurrent_model(operator, direction=direction, state=state, lengths=lengths, free="b")
    assert_same(model, tmp_path)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("operator", list(GATES))
def test_a_free_number_of_steps_is_a_loop(
    operator: str, *, lengths: bool, direction: str, tmp_path: Path
) -> None:
    model = recurrent_model(operator, direction=direction, lengths=lengths, free="tb")
    compiled = assert_same(model, tmp_path, time=7)
    codes = [step.code for step in compiled.program.operators]
    assert codes.count("WHILE") == (2 if direction == "bidirectional" else 1)
    assert_same(model, tmp_path, time=3, batch=2)


def test_what_is_computed_outside_of_a_loop_is_carried_into_it(tmp_path: Path) -> None:
    model = recurrent_model("LSTM", state=True, free="t", computed_weights=True, peepholes=True)
    assert_same(model, tmp_path)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("computed", [False, True])
def test_gru_resets_the_state_or_its_product(
    *, computed: bool, bias: bool, state: bool, before: int, tmp_path: Path
) -> None:
    model = recurrent_model(
        "GRU", linear_before_reset=before, bias=bias, state=state, computed_weights=computed
    )
    assert_same(model, tmp_path)


@pytest.mark.parametrize("state", [False, True])
def test_lstm_with_peepholes(*, state: bool, tmp_path: Path) -> None:
    assert_same(recurrent_model("LSTM", peepholes=True, state=state), tmp_path)


def test_lstm_whose_input_gate_forgets(tmp_path: Path) -> None:
    assert_same(recurrent_model("LSTM", input_forget=1, state=True), tmp_path)


@pytest.mark.parametrize("operator", list(GATES))
def test_clipped(operator: str, tmp_path: Path) -> None:
    assert_same(recurrent_model(operator, clip=0.3, state=True), tmp_path)


@pytest.mark.parametrize(
    ("operator", "activations", "alpha", "beta"),
    [
        ("RNN", ["Relu"], [], []),
        ("RNN", ["LeakyRelu"], [0.2], []),
        ("RNN", ["ThresholdedRelu"], [0.4], []),
        ("RNN", ["ScaledTanh"], [1.5], [0.7]),
        ("RNN", ["HardSigmoid"], [0.3], [0.4]),
        ("RNN", ["Elu"], [0.6], []),
        ("RNN", ["Affine"], [0.3], [0.1]),
        ("RNN", ["Softsign"], [], []),
        ("RNN", ["Softplus"], [], []),
        ("LSTM", ["HardSigmoid", "Relu", "Softsign"], [0.2], [0.5]),
        ("GRU", ["HardSigmoid", "Relu"], [0.2], [0.5]),
    ],
)
def test_other_activation_functions(
    operator: str, activations: list[str], alpha: list[float], beta: list[float], tmp_path: Path
) -> None:
    more: dict[str, Any] = {"activations": activations}
    if alpha:
        more["activation_alpha"] = alpha
    if beta:
        more["activation_beta"] = beta
    assert_same(recurrent_model(operator, state=True, **more), tmp_path)


def test_an_unknown_activation_function_is_refused(tmp_path: Path) -> None:
    model = recurrent_model("RNN", activations=["Sine"])
    with pytest.raises(UnsupportedModelError, match=r"cell \(RNN\).*'Sine'"):
        compile_to_litert(normalise(model, where="test"), where="test")


def test_long_sequences_do_not_grow_the_file(tmp_path: Path) -> None:
    model = recurrent_model("LSTM", steps=500)
    compiled = assert_same(model, tmp_path, time=500)
    assert len(compiled.program.operators) < 30
