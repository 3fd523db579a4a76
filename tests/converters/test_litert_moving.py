from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgekit_converters.litert.moving import absorb_transposes, merge_movements
from edgekit_converters.litert.program import Operator, Program, Tensor

node = helper.make_node
Step = tuple[str, list[int]]


def _tensor(shape: Any, *, name: str = "t", data: Any = None) -> Tensor:
    return Tensor(name=name, dtype="float32", shape=tuple(shape), data=data)


def _row(shape: list[int | None], steps: list[Step]) -> Program:
    """A program of movements alone; a step's list is an order, or a shape."""
    given = now = _tensor(shape, name="given")
    operators = []
    for code, values in steps:
        told = np.array(values, np.int32)
        shape = (
            [now.shape[axis] for axis in values]
            if code == "TRANSPOSE"
            else [None if value == -1 else value for value in values]
        )
        made = _tensor(shape)
        operators.append(
            Operator(code=code, inputs=[now, _tensor(told.shape, data=told)], outputs=[made])
        )
        now = made
    now.name = "made"
    return Program(name="row", inputs=[given], outputs=[now], operators=operators, located={})


def _run(program: Program, array: Any) -> Any:
    values = {id(program.inputs[0]): array}
    for operator in program.operators:
        source, told = operator.inputs
        assert source is not None
        assert told is not None
        assert told.data is not None
        move = np.transpose if operator.code == "TRANSPOSE" else np.reshape
        values[id(operator.outputs[0])] = move(values[id(source)], tuple(told.data))
    return values[id(program.outputs[0])]


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[int | None], list[Step]]:
    """Shapes with a free size in them, and movements of which each permits the next."""
    shape: list[int] = draw(st.permutations([-1, 2, 3, 4]))
    given: list[int | None] = [None if size == -1 else size for size in shape]
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            order = list(draw(st.permutations(range(len(shape)))))
            steps.append(("TRANSPOSE", order))
            shape = [shape[axis] for axis in order]
            continue
        choices = [at for at, pair in enumerate(pairwise(shape)) if -1 not in pair]
        if choices and draw(st.booleans()):
            at = draw(st.sampled_from(choices))
            shape = [*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]]
        elif 4 in shape:
            at = shape.index(4)
            shape = [*shape[:at], 2, 2, *shape[at + 1 :]]
        steps.append(("RESHAPE", list(shape)))
    return given, steps


@settings(max_examples=300, deadline=None)
@given(rows())
def test_fewer_movements_do_the_same(row: tuple[list[int | None], list[Step]]) -> None:
    shape, steps = row
    array = np.arange(5 * 24).reshape([5 if size is None else size for size in shape])
    expected = _run(_row(shape, steps), array)
    program = _row(shape, steps)
    merge_movements(program)
    np.testing.assert_array_equal(_run(program, array), expected)
    assert program.outputs[0].name == "made"
    assert len(program.operators) <= len(steps)


def test_what_is_read_in_between_stays() -> None:
    program = _row([None, 4, 4], [("TRANSPOSE", [0, 2, 1]), ("TRANSPOSE", [2, 0, 1])])
    program.outputs.append(program.operators[0].outputs[0])
    merge_movements(program)
    assert len(program.operators) == 2


def test_two_free_sizes_are_not_confused() -> None:
    steps: list[Step] = [("TRANSPOSE", [1, 0, 2]), ("RESHAPE", [-1, 4])]
    program = _row([None, None, 4], steps)
    merge_movements(program)
    assert [operator.code for operator in program.operators] == ["TRANSPOSE", "RESHAPE"]


def test_nothing_is_left_of_what_does_nothing() -> None:
    program = _row([None, 4], [("TRANSPOSE", [1, 0]), ("TRANSPOSE", [1, 0])])
    last = program.outputs[0]
    program.operators.append(Operator(code="RELU", inputs=[last], outputs=[_tensor([None, 4])]))
    program.outputs = [program.operators[-1].outputs[0]]
    merge_movements(program)
    assert [operator.code for operator in program.operators] == ["RELU"]
    assert program.operators[0].inputs == program.inputs


@pytest.mark.parametrize(
    ("order", "absorbed"), [([0, 2, 1], True), ([1, 0, 2], False), ([2, 1, 0], False)]
)
def test_a_product_reads_a_factor_the_other_way(order: list[int], *, absorbed: bool) -> None:
    program = _row([3, 3, 3], [("TRANSPOSE", order)])
    moved = program.outputs[0]
    product = Operator(
        code="BATCH_MATMUL", inputs=[program.inputs[0], moved], outputs=[_tensor([3, 3, 3])],
        options={"adjX": False, "adjY": False},
    )  # fmt: skip
    program.operators.append(product)
    absorb_transposes(program)
    assert product.options == {"adjX": False, "adjY": absorbed}
    assert (product.inputs[1] is program.inputs[0]) == absorbed


def test_an_image_becomes_tokens_without_a_transpose(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        node("Reshape", ["c", "shape"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["t", "m"], ["q"]),
        node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["q", "k"], ["y"]),
    ]
    constants = {"w": weights(4, 3, 2, 2), "shape": np.array([-1, 4, 9]), "m": weights(4, 4)}
    compiled = assert_parity(make_model(nodes, {"x": ["n", 3, 6, 6]}, ["y"], constants))
    found = Counter(operator.code for operator in compiled.program.operators)
    assert found == {
        "TRANSPOSE": 1, "CONV_2D": 1, "RESHAPE": 1, "FULLY_CONNECTED": 1, "BATCH_MATMUL": 1,
    }  # fmt: skip


def test_a_hard_sigmoid_behind_a_layer_is_one_operator_more(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("HardSigmoid", ["c"], ["y"], alpha=1 / 6, beta=0.5),
    ]
    model = make_model(nodes, {"x": ["n", 3, 5, 5]}, ["y"], {"w": weights(2, 3, 1, 1)})
    compiled = assert_parity(model)
    found = [
        (operator.code, operator.options.get("fusedActivationFunction"))
        for operator in compiled.program.operators
        if operator.code != "TRANSPOSE"
    ]
    assert found == [("CONV_2D", "RELU6"), ("MUL", "NONE")]
