from __future__ import annotations

from typing import Any

import pytest
from onnx import helper

node = helper.make_node


def _operators(compiled: Any) -> list[tuple[str, object]]:
    return [
        (operator.code, operator.options.get("fusedActivationFunction"))
        for operator in compiled.program.operators
        if operator.code not in {"TRANSPOSE", "RESHAPE"}
    ]


def test_bias_and_activation_become_part_of_the_convolution(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Add", ["b", "c"], ["s"]),
        node("Sub", ["s", "k"], ["t"]),
        node("Relu", ["t"], ["y"]),
    ]
    constants = {"w": weights(3, 2, 1, 1), "b": weights(3, 1, 1), "k": weights(1)}
    compiled = assert_parity(make_model(nodes, {"x": ["n", 2, 4, 4]}, ["y"], constants))
    assert _operators(compiled) == [("CONV_2D", "RELU")]


@pytest.mark.parametrize("outputs", [["c", "y"], ["s", "y"]])
def test_what_is_an_output_is_not_fused_away(
    outputs: list[str], make_model: Any, weights: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Add", ["c", "b"], ["s"]),
        node("Relu", ["s"], ["y"]),
    ]
    constants = {"w": weights(3, 2, 1, 1), "b": weights(3, 1, 1)}
    assert_parity(make_model(nodes, {"x": ["n", 2, 4, 4]}, outputs, constants))


def test_what_two_read_is_not_fused(make_model: Any, weights: Any, assert_parity: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Add", ["c", "r"], ["y"]),
    ]
    compiled = assert_parity(
        make_model(nodes, {"x": ["n", 2, 4, 4]}, ["y"], {"w": weights(3, 2, 1, 1)})
    )
    assert _operators(compiled) == [("CONV_2D", "NONE"), ("RELU", None), ("ADD", "NONE")]


def test_an_addend_of_another_axis_is_no_bias(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    # Four rows, four channels: the sizes agree, the axes do not.
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Add", ["c", "b"], ["y"])]
    constants = {"w": weights(4, 2, 1, 1), "b": weights(4)}
    compiled = assert_parity(make_model(nodes, {"x": ["n", 2, 3, 4]}, ["y"], constants))
    assert _operators(compiled) == [("CONV_2D", "NONE"), ("ADD", "NONE")]


def test_relu6_is_fused_into_a_sum(make_model: Any, weights: Any, assert_parity: Any) -> None:
    nodes = [node("Add", ["a", "b"], ["s"]), node("Clip", ["s", "zero", "six"], ["y"])]
    constants = {"zero": weights(1)[0] * 0, "six": weights(1)[0] * 0 + 6}
    compiled = assert_parity(
        make_model(nodes, {"a": ["n", 4], "b": ["n", 4]}, ["y"], constants), low=-9, high=9
    )
    assert _operators(compiled) == [("ADD", "RELU6")]
