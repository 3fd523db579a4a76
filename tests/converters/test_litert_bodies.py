"""Bodies of WHILE and IF give every output a tensor of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert

from edgekit_converters.litert.bodies import separate_outputs
from edgekit_converters.litert.emit import emit
from edgekit_converters.litert.program import Operator, Program, Tensor

NONE = {"fusedActivationFunction": "NONE"}


def _tensor(name: str, *shape: int | None, dtype: str = "float32") -> Tensor:
    return Tensor(name=name, dtype=dtype, shape=shape)


def _constant(name: str, array: Any) -> Tensor:
    values = np.asarray(array)
    return Tensor(name=name, dtype=values.dtype.name, shape=values.shape, data=values)


def _fibonacci(size: int | None) -> Program:
    """Three rounds of (a, b) becoming (a + b, a)."""

    def carried(prefix: str) -> list[Tensor]:
        return [
            _tensor(f"{prefix}/at", dtype="int32"),
            _tensor(f"{prefix}/a", size),
            _tensor(f"{prefix}/b", size),
        ]

    test, body, main, after = (carried(name) for name in ("test", "body", "main", "after"))
    holds = _tensor("holds", dtype="bool")
    condition = Program(
        name="condition", inputs=test, outputs=[holds], located={},
        operators=[
            Operator(code="LESS", inputs=[test[0], _constant("three", np.int32(3))],
                     outputs=[holds])
        ],
    )  # fmt: skip
    following, total = _tensor("following", dtype="int32"), _tensor("total", size)
    round_ = Program(
        name="round", inputs=body, outputs=[following, total, body[1]], located={},
        operators=[
            Operator(code="ADD", inputs=[body[0], _constant("one", np.int32(1))],
                     outputs=[following], options=NONE),
            Operator(code="ADD", inputs=[body[1], body[2]], outputs=[total], options=NONE),
        ],
    )  # fmt: skip
    loop = Operator(
        code="WHILE",
        inputs=[_constant("start", np.int32(0)), *main[1:]],
        outputs=after,
        bodies={"condSubgraphIndex": condition, "bodySubgraphIndex": round_},
    )
    return Program(name="main", inputs=main[1:], outputs=after[1:], operators=[loop], located={})


@pytest.mark.parametrize("size", [2, None])
def test_a_value_that_moves_to_another_place_is_copied(size: int | None) -> None:
    content = emit(separate_outputs(_fibonacci(size)), description="", where="test")
    interpreter = litert.Interpreter(model_content=content)
    for position in (0, 1):
        interpreter.resize_tensor_input(interpreter.get_input_details()[position]["index"], [2])
    interpreter.allocate_tensors()
    values = {"main/a": [1.0, 2.0], "main/b": [0.0, 5.0]}
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], np.array(values[detail["name"]], dtype=np.float32))
    interpreter.invoke()
    found = [interpreter.get_tensor(d["index"]).tolist() for d in interpreter.get_output_details()]
    assert found == [[3.0, 16.0], [2.0, 9.0]]


def test_what_stays_in_its_place_is_left_alone() -> None:
    program = _fibonacci(2)
    body = program.operators[0].bodies["bodySubgraphIndex"]
    body.outputs[1:] = [body.inputs[1], body.inputs[2]]
    before = list(body.outputs)
    separate_outputs(program)
    assert body.outputs == before


def test_one_tensor_that_is_given_back_twice_is_two() -> None:
    program = _fibonacci(2)
    body = program.operators[0].bodies["bodySubgraphIndex"]
    body.outputs[2] = body.outputs[1]
    separate_outputs(program)
    assert body.outputs[1] is not body.outputs[2]
    assert [operator.code for operator in body.operators] == ["ADD", "ADD", "RESHAPE"]
