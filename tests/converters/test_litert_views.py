from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.litert.emit import emit
from edgekit_converters.litert.program import Operator, Program, Tensor
from edgekit_converters.litert.views import separate_views
from edgekit_converters.normalise import normalise
from edgekit_runtime.session import open_session

node = helper.make_node
ADD = {"fusedActivationFunction": "NONE"}


def _program(seed: int) -> Program:
    """A few sums, maxima and reshapes of one tensor, read here and there."""
    rng = np.random.default_rng(seed)
    x = Tensor(name="x", dtype="int64", shape=(2, 3))
    tensors, operators = [x], []
    for number in range(int(rng.integers(4, 14))):
        source = tensors[int(rng.integers(max(0, len(tensors) - 5), len(tensors)))]
        code = str(rng.choice(["ADD", "ADD", "MAXIMUM", "RESHAPE", "EXPAND_DIMS", "SQUEEZE"]))
        made = Tensor(name=f"t{number}", dtype="int64", shape=source.shape)
        options: dict[str, Any] = {}
        inputs: list[Tensor | None] = [source]
        if code == "ADD" and rng.random() < 0.3:
            same = [tensor for tensor in tensors if tensor.shape == source.shape]
            inputs, options = [source, same[int(rng.integers(len(same)))]], ADD
        elif code in {"ADD", "MAXIMUM"}:
            data = np.array(rng.integers(1, 4))
            inputs.append(Tensor(name=f"c{number}", dtype="int64", shape=(), data=data))
            options = ADD if code == "ADD" else {}
        elif code == "RESHAPE":
            made.shape = [(6,), (3, 2), (2, 3), (2, 1, 3)][int(rng.integers(4))]
            data = np.array(made.shape, np.int32)
            inputs.append(Tensor(name=f"c{number}", dtype="int32", shape=data.shape, data=data))
            options = {"newShape": list(made.shape)}
        elif code == "EXPAND_DIMS":
            made.shape = (1, *source.shape)
            data = np.array(0, np.int32)
            inputs.append(Tensor(name=f"c{number}", dtype="int32", shape=(), data=data))
        elif source.shape[0] == 1:
            made.shape, options = source.shape[1:], {"squeezeDims": [0]}
        else:
            continue
        tensors.append(made)
        operators.append(Operator(code=code, inputs=inputs, outputs=[made], options=options))
    read = {id(tensor) for operator in operators for tensor in operator.inputs}
    outputs = [tensor for tensor in tensors[1:] if id(tensor) not in read]
    return Program(name="p", inputs=[x], outputs=outputs, operators=operators, located={})


def _run(program: Program, *, in_place: bool) -> list[Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(
        model_content=emit(program, description="", where="test"),
        experimental_preserve_all_tensors=not in_place,
    )
    interpreter.allocate_tensors()
    x = np.arange(1, 7).reshape(2, 3)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(entry["index"]) for entry in interpreter.get_output_details()]


@pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors:UserWarning")
def test_nothing_is_overwritten_before_it_is_read() -> None:
    overwritten = 0
    for seed in range(600):
        program = _program(seed)
        expected = _run(program, in_place=False)
        overwritten += any(map(np.any, map(np.not_equal, expected, _run(program, in_place=True))))
        computed = _run(separate_views(program), in_place=True)
        for wanted, array in zip(expected, computed, strict=True):
            np.testing.assert_array_equal(array, wanted)
    # Else the runtime has been mended, and nothing is to be done.
    assert overwritten


def test_views_in_a_row_that_nobody_else_reads_stay() -> None:
    x = Tensor(name="x", dtype="int32", shape=(3,))
    origin, wide = (Tensor(name=name, dtype="int32", shape=(3,)) for name in ("a", "b"))
    wide.shape = (1, 3)
    result = Tensor(name="c", dtype="int32", shape=(1, 3))
    operators = [
        Operator(code="ABS", inputs=[x], outputs=[origin]),
        Operator(code="EXPAND_DIMS", inputs=[origin, None], outputs=[wide]),
        Operator(code="ADD", inputs=[wide, wide], outputs=[result], options=ADD),
    ]
    program = Program(
        name="p", inputs=[x], outputs=[result], operators=list(operators), located={}
    )  # fmt: skip
    assert separate_views(program).operators == operators


@pytest.mark.parametrize("reference_kernels", [False, True])
def test_bits_seen_as_another_type_are_not_changed(
    reference_kernels: bool, tmp_path: Path, make_model: Any
) -> None:
    nodes = [
        node("Gather", ["x", "places"], ["taken"]),
        # Both are computed by way of int64, the second from the bits of the first.
        node("GreaterOrEqual", ["taken", "bound"], ["large"]),
        node("Where", ["large", "taken", "bound"], ["y"]),
        node("Mul", ["x", "x"], ["square"]),
        node("Add", ["square", "square"], ["twice"]),
        node("Cast", ["square"], ["once"], to=TensorProto.FLOAT),
    ]
    constants = {"places": np.array([2, 0]), "bound": np.array([5], np.uint64)}
    model = make_model(
        nodes, {"x": [3, 4]}, ["y", "twice", "once"], constants, dtype=TensorProto.UINT64
    )
    path = tmp_path / "views.tflite"
    path.write_bytes(compile_to_litert(normalise(model, where="x"), where="x").content)
    session = open_session(path, reference_kernels=reference_kernels)
    x = np.arange(12).reshape(3, 4).astype(np.uint64)
    computed = session.run({"x": x})
    np.testing.assert_array_equal(computed["y"], np.maximum(x[[2, 0]], 5))
    np.testing.assert_array_equal(computed["twice"], 2 * x * x)
    np.testing.assert_array_equal(computed["once"], (x * x).astype(np.float32))
