from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
SPACES = {0: [], 1: [7], 2: [5, 6], 3: [3, 4, 5]}


def _codes(compiled: Any) -> list[str]:
    return [operator.code for operator in compiled.program.operators]


def _group_model(nodes: Any, inputs: Any, constants: Any, opset: int, channels: int = 6) -> Any:
    """A model whose output's shape is declared: ONNX does not infer GroupNormalization's."""
    (shape,) = inputs.values()
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], channels, *shape[2:]])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _behind_a_convolution(weights: Any, axes: int, channels: int = 6) -> tuple[Any, Any]:
    """A Conv from `x` to `c`, whose output has its channels last, and its weights."""
    kernel = weights(channels, 3, *[1] * axes, seed=9)
    return node("Conv", ["x", "kernel"], ["c"]), {"kernel": kernel}


@pytest.mark.parametrize("axis", [-1, 1, 2, -2])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_layer(
    make_model: Any, weights: Any, assert_parity: Any, axis: int, outputs: int, bias: bool
) -> None:
    shape = [3, 4, 5]
    own = shape[(axis % 4) - 1 :]
    names = ["y", "mean", "inverse"][:outputs]
    given = ["x", "scale", "bias"][: 3 if bias else 2]
    model = make_model(
        [node("LayerNormalization", given, names, axis=axis, epsilon=1e-3)],
        {"x": ["n", *shape]},
        names,
        {"scale": weights(*own), "bias": weights(*own, seed=2)},
    )
    compiled = assert_parity(model)
    assert len(compiled.program.operators) <= 9


def test_layer_of_channels_of_an_image(make_model: Any, weights: Any, assert_parity: Any) -> None:
    # As ConvNeXt does it: channels last for the normalisation alone.
    conv, constants = _behind_a_convolution(weights, 2)
    nodes = [
        conv,
        node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        node("LayerNormalization", ["t", "s", "b"], ["l"]),
        node("Transpose", ["l"], ["u"], perm=[0, 3, 1, 2]),
        node("Conv", ["u", "again"], ["y"]),
    ]
    constants |= {"s": weights(6), "b": weights(6, seed=2), "again": weights(2, 6, 1, 1)}
    compiled = assert_parity(make_model(nodes, {"x": ["n", 3, 5, 6]}, ["y"], constants))
    assert _codes(compiled).count("TRANSPOSE") == 2


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("axis", [-1, 1])
def test_root_mean_square(
    make_model: Any, weights: Any, assert_parity: Any, axis: int, opset: int
) -> None:
    model = make_model(
        [node("RMSNormalization", ["x", "scale"], ["y"], axis=axis)],
        {"x": ["n", 3, 8]},
        ["y"],
        {"scale": weights(*([8] if axis == -1 else [3, 8]))},
        opset=opset,
    )
    compiled = assert_parity(model)
    assert _codes(compiled) == ["SQUARE", "MEAN", "ADD", "RSQRT", "MUL", "MUL"]


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("computed", [True, False])
def test_instance(
    make_model: Any, weights: Any, assert_parity: Any, axes: int, computed: bool
) -> None:
    conv, constants = _behind_a_convolution(weights, axes)
    nodes = [conv, node("InstanceNormalization", ["c", "s", "b"], ["y"], epsilon=1e-2)]
    inputs: dict[str, Any] = {"x": ["n", 3, *SPACES[axes]]}
    if computed:
        inputs |= {"s": [6], "b": [6]}
    else:
        constants |= {"s": weights(6), "b": weights(6, seed=2)}
    assert_parity(make_model(nodes, inputs, ["y"], constants))


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(("opset", "by_channel"), [(18, False), (21, True)])
@pytest.mark.parametrize("behind", [True, False])
def test_group(
    weights: Any, assert_parity: Any, groups: int, axes: int, opset: int,
    by_channel: bool, behind: bool,
) -> None:  # fmt: skip
    count = 6 if by_channel else groups
    conv, constants = _behind_a_convolution(weights, axes)
    name = "c" if behind else "x"
    channels = 3 if behind else 6
    nodes = [
        *([conv] if behind else []),
        node("GroupNormalization", [name, "s", "b"], ["y"], num_groups=groups, epsilon=1e-2),
    ]
    constants |= {"s": weights(count), "b": weights(count, seed=2)}
    model = _group_model(nodes, {"x": ["n", channels, *SPACES[axes]]}, constants, opset)
    compiled = assert_parity(model)
    assert _codes(compiled).count("TRANSPOSE") <= (2 if behind else 0)


@pytest.mark.parametrize("behind", [True, False])
def test_group_of_free_sizes(weights: Any, assert_parity: Any, behind: bool) -> None:
    conv, constants = _behind_a_convolution(weights, 2)
    nodes = [
        *([conv] if behind else []),
        node("GroupNormalization", ["c" if behind else "x", "s", "b"], ["y"], num_groups=3),
    ]
    constants |= {"s": weights(6), "b": weights(6, seed=2)}
    inputs = {"x": ["n", 3 if behind else 6, "h", 4]}
    assert_parity(_group_model(nodes, inputs, constants, 21), batch=3)


def test_groups_that_channels_are_not_divided_into_are_refused(weights: Any) -> None:
    model = _group_model(
        [node("GroupNormalization", ["x", "s", "b"], ["y"], name="odd", num_groups=4)],
        {"x": [1, 6, 4, 4]},
        {"s": weights(6), "b": weights(6)},
        21,
    )
    with pytest.raises(UnsupportedModelError, match="6 channels are not 4 groups"):
        compile_to_litert(normalise(model, where="test"), where="test")


@pytest.mark.parametrize("axes", [0, 1, 2, 3])
@pytest.mark.parametrize("training", [0, 1])
def test_batch(make_model: Any, weights: Any, assert_parity: Any, axes: int, training: int) -> None:
    names = ["y", "m", "v"] if training else ["y"]
    batch = node(
        "BatchNormalization", ["x", "s", "b", "mean", "var"], names, training_mode=training,
        momentum=0.7, epsilon=1e-3,
    )  # fmt: skip
    inputs = {"x": [4, 3, *SPACES[axes]], "s": [3], "b": [3], "mean": [3], "var": [3]}
    assert_parity(make_model([batch], inputs, names, opset=15), low=0.5)


@pytest.mark.parametrize("axes", [[0, 2, 3], [2, 3]])
def test_mean_and_variance(make_model: Any, assert_parity: Any, axes: list[int]) -> None:
    model = make_model(
        [node("MeanVarianceNormalization", ["x"], ["y"], axes=axes)], {"x": ["n", 3, 4, 5]}, ["y"]
    )
    assert_parity(model, tolerance=1e-4)


def test_halves(make_model: Any, weights: Any, assert_parity: Any) -> None:
    model = make_model(
        [node("LayerNormalization", ["x", "s", "b"], ["y"])],
        {"x": ["n", 4, 8]},
        ["y"],
        {"s": weights(8).astype(np.float16), "b": weights(8, seed=2).astype(np.float16)},
        dtype=TensorProto.FLOAT16,
    )
    assert_parity(model, tolerance=3e-3)


def test_equal_numbers_become_the_bias(make_model: Any, weights: Any, assert_parity: Any) -> None:
    model = make_model(
        [node("LayerNormalization", ["x", "s", "b"], ["y"])],
        {"x": ["n", 4, 8]},
        ["y"],
        {"s": weights(8), "b": weights(8, seed=2)},
    )
    assert_parity(model, low=2.5, high=2.5)
