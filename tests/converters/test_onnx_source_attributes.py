"""Attributes and constant operands out of range: refused by name, before native code sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from converters.onnx_files import model_of, write
from edgekit_converters.onnx_source import read_onnx
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F = np.float32
IMAGE = {"x": [2, 3, 8, 8]}
CONV = {"w": np.ones((6, 3, 3, 3), F)}


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """What is said about a model that is refused."""

    def check(*nodes: Any, **options: Any) -> str:
        with pytest.raises(UnsupportedModelError) as caught:
            read_onnx(write(model_of(nodes, **options), tmp_path / "a.onnx"))
        return caught.value.what

    return check


@pytest.fixture
def accepted(tmp_path: Path) -> Callable[..., None]:
    def check(*nodes: Any, **options: Any) -> None:
        read_onnx(write(model_of(nodes, **options), tmp_path / "a.onnx"))

    return check


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"strides": [0, 1]}, "strides is [0, 1], allowed: 1 or more"),
        ({"strides": [-1, 1]}, "strides is [-1, 1]"),
        ({"strides": [2**40, 1]}, "strides is [1099511627776, 1]"),
        ({"strides": [1]}, "strides is [1], 2 spatial axes need 2 entries"),
        ({"dilations": [0, 1]}, "dilations is [0, 1], allowed: 1 or more"),
        ({"kernel_shape": [0, 3]}, "kernel_shape is [0, 3], allowed: 1 or more"),
        ({"kernel_shape": [5, 5]}, "kernel_shape is [5, 5] and its weights are [6, 3, 3, 3]"),
        ({"pads": [-1, 0, 0, 0]}, "pads is [-1, 0, 0, 0], allowed: 0 or more"),
        ({"pads": [1, 1]}, "pads is [1, 1], 2 spatial axes need 4 entries"),
        ({"group": 0}, "group is 0, allowed: 1 or more"),
        ({"group": -2}, "group is -2"),
        ({"group": 3}, "with group 3 do not fit 3 channels"),
        ({"auto_pad": "SAME"}, "auto_pad is 'SAME', allowed: NOTSET or SAME_UPPER"),
    ],
)
def test_convolutions(attributes: Any, reason: str, refusal: Callable[..., str]) -> None:
    what = refusal(node("Conv", ["x", "w"], ["y"], name="conv", **attributes), constants=CONV)
    assert "conv (Conv): " in what
    assert reason in what


@pytest.mark.parametrize(
    ("shape", "group", "reason"),
    [
        ((6, 4, 3, 3), 1, "do not fit 3 channels"),
        ((6, 3, 3), 1, "its weights have 3 axes and its input 4"),
        ((7, 1, 3, 3), 3, "group is 3, which does not divide 7 channels"),
    ],
)
def test_weights_of_convolutions(
    shape: Any, group: int, reason: str, refusal: Callable[..., str]
) -> None:
    conv = node("Conv", ["x", "w"], ["y"], name="conv", group=group)
    assert reason in refusal(conv, constants={"w": np.ones(shape, F)})


def test_a_bias_of_another_size(refusal: Callable[..., str]) -> None:
    conv = node("Conv", ["x", "w", "b"], ["y"], name="conv")
    assert "its bias has shape [5] and there are 6 output channels" in refusal(
        conv, constants={**CONV, "b": np.ones(5, F)}
    )


@pytest.mark.parametrize(
    ("op", "attributes", "reason"),
    [
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [0, 0]}, "strides is [0, 0]"),
        ("MaxPool", {"kernel_shape": [2, 2], "pads": [2, 0, 0, 0]}, "not smaller than its window"),
        ("MaxPool", {"kernel_shape": [2, 2], "ceil_mode": 7}, "ceil_mode is 7, allowed: 0 or 1"),
        ("AveragePool", {"kernel_shape": [2, -2]}, "kernel_shape is [2, -2]"),
        ("AveragePool", {"kernel_shape": [2, 2, 2]}, "2 spatial axes need 2 entries"),
        ("LpPool", {"kernel_shape": [2, 2], "p": 0}, "p is 0, allowed: 1 or more"),
        ("LRN", {"size": 0}, "size is 0"),
        ("Transpose", {"perm": [0, 1, 1, 2]}, "allowed: each of the axes 0 to 3 once"),
        ("Transpose", {"perm": [0, 1, 2, 4]}, "allowed: each of the axes 0 to 3 once"),
        ("Transpose", {"perm": [1, 0]}, "perm is [1, 0], its input has 4 axes"),
        ("Softmax", {"axis": 9}, "axis is 9, its input has 4 axes"),
        ("Softmax", {"axis": -5}, "axis is -5, its input has 4 axes"),
        ("Softmax", {"axis": 99}, "axis is 99, allowed: -32 to 31"),
        ("Flatten", {"axis": 5}, "axis is 5, its input has 4 axes"),
        ("ArgMax", {"axis": 4}, "axis is 4, its input has 4 axes"),
        ("ReduceMean", {"axes": [4]}, "axes is [4], there are 4 axes"),
        ("ReduceMean", {"axes": [1, 1]}, "axes is [1, 1], allowed: each axis once"),
        ("ReduceMean", {"axes": [1, -3]}, "an axis is there twice"),
        ("ReduceMean", {"keepdims": 2}, "keepdims is 2, allowed: 0 or 1"),
        ("DepthToSpace", {"blocksize": 0}, "blocksize is 0"),
        ("DepthToSpace", {"blocksize": 2}, "blocksize is 2, which does not divide 3 channels"),
        ("DepthToSpace", {"blocksize": 1, "mode": "X"}, "mode is 'X', allowed: DCR or CRD"),
        ("SpaceToDepth", {"blocksize": 3}, "does not divide axis 2 of 8"),
        ("Elu", {"alpha": float("nan")}, "alpha is nan, allowed: finite numbers"),
        ("LeakyRelu", {"alpha": float("inf")}, "alpha is inf, allowed: finite numbers"),
        ("Cast", {"to": 99}, "to is 99, allowed: an element type that exists"),
        ("LpNormalization", {"p": 3}, "p is 3, allowed: 1 or 2"),
    ],
)
def test_attributes(op: str, attributes: Any, reason: str, refusal: Callable[..., str]) -> None:
    what = refusal(node(op, ["x"], ["y"], name="it", **attributes), opset=17)
    assert f"it ({op}): " in what
    assert reason in what


@pytest.mark.parametrize(
    ("op", "constants", "reason"),
    [
        ("Reshape", {"a": [-1, -1]}, "its target shape is [-1, -1]"),
        ("Reshape", {"a": [2, -3]}, "its target shape is [2, -3]"),
        ("Expand", {"a": [-2, 1, 1, 1]}, "it is told the sizes [-2, 1, 1, 1]"),
        ("Tile", {"a": [1, 1, -1, 1]}, "it is told the sizes"),
        ("Gather", {"a": [0, 2]}, "its index 2 is outside an axis of 2"),
        ("Gather", {"a": [-3]}, "its index -3 is outside an axis of 2"),
        ("ReduceSum", {"a": [7]}, "axes is [7], there are 4 axes"),
        ("Unsqueeze", {"a": [0, 0]}, "axes is [0, 0]: an axis is there twice"),
        ("Unsqueeze", {"a": [6]}, "axes is [6], there are 5 axes"),
        ("Squeeze", {"a": [5]}, "axes is [5], there are 4 axes"),
        ("Pad", {"a": [1, 2, 3]}, "pads is [1, 2, 3], it needs 8 entries"),
        ("Split", {"a": [1, 2]}, "split is [1, 2], which is 3 together and not 2"),
        ("Split", {"a": [-1, 3]}, "split is [-1, 3]"),
        ("TopK", {"a": [9]}, "k is 9, the axis has 8"),
        ("Slice", {"a": [0, 0], "b": [1]}, "starts is [0, 0] and ends is [1]"),
        ("Slice", {"a": [0], "b": [1], "c": [9]}, "axes is [9], there are 4 axes"),
        ("Slice", {"a": [0], "b": [1], "c": [0], "d": [0]}, "steps is [0]"),
        ("ConstantOfShape", {"a": [-1]}, "it is told the sizes [-1]"),
    ],
)
def test_constant_operands(
    op: str, constants: Any, reason: str, refusal: Callable[..., str]
) -> None:
    inputs = ["a"] if op == "ConstantOfShape" else ["x", *constants]
    outputs = ["y", "z"] if op in {"Split", "TopK"} else ["y"]
    stored = {name: np.array(values, np.int64) for name, values in constants.items()}
    what = refusal(node(op, inputs, outputs, name="it"), constants=stored)
    assert f"it ({op}): {reason}" in what


@pytest.mark.parametrize("scale", [0, -1, np.nan, 1e30])
def test_scales(scale: float, refusal: Callable[..., str]) -> None:
    resize = node("Resize", ["x", "", "s"], ["y"], name="it")
    assert "it (Resize): its scales are" in refusal(
        resize, constants={"s": np.array([1, 1, scale, 1], dtype=F)}
    )


@pytest.mark.parametrize(
    ("attributes", "weights", "reason"),
    [
        ({"direction": "sideways"}, None, "direction is 'sideways', allowed: forward or reverse"),
        ({"hidden_size": 0}, None, "hidden_size is 0"),
        ({"hidden_size": 6}, None, "its weights W have shape [1, 20, 3], not [1, 24, 3]"),
        ({"hidden_size": 5, "direction": "bidirectional"}, None, "not [2, 20, 3]"),
        ({"hidden_size": 5, "activations": ["Sigmoid"]}, None,
         "activations names 1 functions, it needs 3"),
        ({"hidden_size": 5, "activations": ["A", "Tanh", "Tanh"]}, None, "a list of Relu, Tanh"),
        ({"hidden_size": 5}, (1, 20, 4), "its weights R have shape [1, 20, 4], not [1, 20, 5]"),
    ],
)  # fmt: skip
def test_recurrent_layers(
    attributes: Any, weights: Any, reason: str, refusal: Callable[..., str]
) -> None:
    constants = {"w": np.ones((1, 20, 3), F), "r": np.ones(weights or (1, 20, 5), F)}
    lstm = node("LSTM", ["x", "w", "r"], ["y"], name="it", **attributes)
    what = refusal(lstm, inputs={"x": [4, 2, 3]}, constants=constants)
    assert "it (LSTM): " in what
    assert reason in what


def test_every_fault_of_every_node_at_once(refusal: Callable[..., str]) -> None:
    what = refusal(
        node("Conv", ["x", "w"], ["a"], name="conv", strides=[0, 1], group=0),
        node("MaxPool", ["a"], ["b"], name="pool", kernel_shape=[0, 0]),
        node("Add", ["b", "lost"], ["y"], name="add"),
        constants=CONV,
    )
    for part in ("conv (Conv): strides", "conv (Conv): group", "pool (MaxPool)", "'lost'"):
        assert part in what


def test_a_node_inside_a_branch(refusal: Callable[..., str]) -> None:
    inner = helper.make_graph(
        [node("Softmax", ["x"], ["o"], name="deep", axis=7)],
        "branch",
        [],
        [helper.make_tensor_value_info("o", 1, None)],
    )
    choice = node("If", ["c"], ["y"], name="choice", then_branch=inner, else_branch=inner)
    what = refusal(choice, constants={"c": np.array([True])})
    assert "deep (Softmax): axis is 7, its input has 4 axes in the then_branch of choice" in what


@pytest.mark.parametrize(
    ("nodes", "options"),
    [
        ([node("Flatten", ["x"], ["y"], axis=4)], {}),
        ([node("Softmax", ["x"], ["y"], axis=-4)], {}),
        ([node("ReduceSum", ["x"], ["y"])], {"inputs": {"x": []}}),
        ([node("Unsqueeze", ["x", "a"], ["y"])], {"constants": {"a": np.array([4, -1])}}),
        ([node("Pad", ["x", "a"], ["y"])], {"constants": {"a": np.array([0, 0, -1, 0] * 2)}}),
        ([node("Gather", ["x", "a"], ["y"])], {"constants": {"a": np.array([-2, 1])}}),
        ([node("Reshape", ["x", "a"], ["y"])], {"constants": {"a": np.array([0, -1])}}),
        ([node("Slice", ["x", "a", "b", "c", "d"], ["y"])],
         {"constants": {"a": np.array([-1]), "b": np.array([-(2**63)]), "c": np.array([-1]),
                        "d": np.array([-2])}}),
        ([node("QuantizeLinear", ["x", "s"], ["q"], axis=3),
          node("DequantizeLinear", ["q", "s"], ["y"], axis=3)],
         {"inputs": {"x": [4]}, "constants": {"s": F(0.1)}}),
        ([node("Conv", ["x", "w"], ["y"], group=3)],
         {"constants": {"w": np.ones((6, 1, 3, 3), F)}}),
        ([node("ConvTranspose", ["x", "w"], ["y"], group=3)],
         {"constants": {"w": np.ones((3, 4, 3, 3), F)}}),
        ([node("Conv", ["x", "w"], ["y"])], {"inputs": {"x": ["n", "c", 8, 8], "w": [6, 3, 3, 3]}}),
    ],
)  # fmt: skip
def test_values_at_the_edge_of_what_is_allowed(
    nodes: Any, options: Any, accepted: Callable[..., None]
) -> None:
    accepted(*nodes, **options)
