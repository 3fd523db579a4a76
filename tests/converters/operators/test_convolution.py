from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
# Spatial sizes that no kernel or stride divides.
SIZES = {1: [11], 2: [9, 11], 3: [6, 7, 8]}
FORMS: list[dict[str, Any]] = [
    {},
    {"strides": 2},
    {"dilations": 2},
    {"pads": [1, 2]},
    {"strides": 3, "pads": [2, 0]},
    {"dilations": 2, "pads": [2, 2]},
    {"auto_pad": "VALID", "strides": 2},
    {"auto_pad": "SAME_UPPER", "strides": 2},
    {"auto_pad": "SAME_LOWER", "strides": 2},
    {"auto_pad": "SAME_LOWER"},
]
# Groups, channels in, channels out: plain, grouped, depthwise, with two outputs a channel.
GROUPS = [(1, 3, 4), (2, 4, 6), (4, 4, 4), (4, 4, 8)]


def _codes(compiled: Any) -> list[str]:
    return [operator.code for operator in compiled.program.operators]


def _spread(form: dict[str, Any], axes: int) -> dict[str, Any]:
    """A form's numbers for every axis."""
    spread = dict(form)
    for name in {"strides", "dilations", "output_padding"} & set(form):
        spread[name] = [form[name]] * axes
    if "pads" in form:
        spread["pads"] = [form["pads"][0]] * axes + [form["pads"][1]] * axes
    return spread


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_conv(
    make_model: Any, weights: Any, assert_parity: Any, axes: int, form: Any, groups: Any
) -> None:
    group, inputs, outputs = groups
    kernel = [3, 2, 3][:axes]
    model = make_model(
        [node("Conv", ["x", "w", "b"], ["y"], group=group, **_spread(form, axes))],
        {"x": ["n", inputs, *SIZES[axes]]},
        ["y"],
        {"w": weights(outputs, inputs // group, *kernel), "b": weights(outputs, seed=2)},
    )
    compiled = assert_parity(model)
    assert "CONV_3D" not in _codes(compiled)
    assert ("DEPTHWISE_CONV_2D" in _codes(compiled)) == (group == inputs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_conv_with_weights_that_are_computed(
    make_model: Any, assert_parity: Any, axes: int, groups: Any, bias: bool
) -> None:
    group, inputs, outputs = groups
    shapes = {
        "x": [2, inputs, *SIZES[axes]],
        "w": [outputs, inputs // group, *[3, 2, 3][:axes]],
        "b": [outputs],
    }
    given = ["x", "w", "b"][: 3 if bias else 2]
    form = _spread({"strides": 2, "pads": [1, 0]}, axes)
    model = make_model(
        [node("Conv", given, ["y"], group=group, **form)], {k: shapes[k] for k in given}, ["y"]
    )
    assert_parity(model)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_conv_of_free_sizes(make_model: Any, weights: Any, assert_parity: Any, axes: int) -> None:
    free = ["n", 3, *["d", "h", "w"][:axes]]
    if axes == 3:
        free = [1, 3, "d", 8, 9]
    model = make_model(
        [node("Conv", ["x", "w"], ["y"], pads=[1] * 2 * axes, strides=[2] * axes)],
        {"x": free},
        ["y"],
        {"w": weights(4, 3, *[3] * axes)},
    )
    assert_parity(model, batch=9)


def test_conv_keeps_its_padding_to_itself(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["y"]),
    ]
    constants = {"w": weights(4, 3, 3, 3), "b": weights(4)}
    compiled = assert_parity(make_model(nodes, {"x": ["n", 3, 8, 8]}, ["y"], constants))
    assert _codes(compiled) == ["TRANSPOSE", "CONV_2D", "TRANSPOSE"]
    layer = compiled.program.operators[1]
    assert layer.options["padding"] == "SAME"
    assert layer.options["fusedActivationFunction"] == "RELU"
    assert [t.name for t in layer.inputs if t is not None][1:] == ["w", "b"]


def test_conv_of_halves(make_model: Any, weights: Any, assert_parity: Any) -> None:
    model = make_model(
        [node("Conv", ["x", "w"], ["y"])],
        {"x": ["n", 3, 6, 6]},
        ["y"],
        {"w": weights(4, 3, 3, 3).astype(np.float16)},
        dtype=TensorProto.FLOAT16,
    )
    assert_parity(model, tolerance=2e-3)


def test_four_spatial_axes_are_refused(make_model: Any, weights: Any) -> None:
    model = make_model(
        [node("Conv", ["x", "w"], ["y"], name="hyper")],
        {"x": [1, 2, 4, 4, 4, 4]},
        ["y"],
        {"w": weights(2, 2, 2, 2, 2, 2)},
    )
    with pytest.raises(UnsupportedModelError, match=r"hyper \(Conv\): it has 4 spatial axes"):
        compile_to_litert(normalise(model, where="test"), where="test")


def test_signals_are_not_reshaped_from_layer_to_layer(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Conv", ["x", "a"], ["c"], pads=[1, 1]),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "b"], ["d"], strides=[2]),
        node("Relu", ["d"], ["y"]),
    ]
    constants = {"a": weights(4, 3, 3), "b": weights(5, 4, 3)}
    compiled = assert_parity(make_model(nodes, {"x": ["n", 3, 12]}, ["y"], constants))
    codes = _codes(compiled)
    assert "RELU" not in codes
    first = codes.index("CONV_2D")
    assert codes[first : first + 2] == ["CONV_2D", "CONV_2D"]
