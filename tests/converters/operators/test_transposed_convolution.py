from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
SIZES = {1: [6], 2: [5, 6], 3: [3, 4, 5]}
FORMS: list[dict[str, Any]] = [
    {},
    {"strides": [2, 2, 2]},
    {"strides": [2, 2, 2], "pads": [1, 1, 1, 0, 1, 1], "output_padding": [1, 0, 1]},
    {"strides": [3, 2, 1], "pads": [1, 2, 0, 2, 1, 1]},
    {"strides": [1, 3, 2], "output_padding": [0, 2, 1]},
    {"strides": [5, 5, 5]},
    {"dilations": [2, 2, 2], "pads": [1, 1, 1, 1, 1, 1]},
    {"dilations": [2, 1, 3], "strides": [2, 3, 2]},
    {"dilations": [1, 3, 2], "strides": [1, 2, 3], "pads": [1, 0, 2, 0, 2, 1]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 3, 2]},
    {"auto_pad": "VALID", "strides": [2, 2, 3]},
    # How much smaller than the whole output.
    {"strides": [3, 2, 2], "output_shape": [2, 1, 0]},
    {"strides": [2, 2, 2], "output_shape": [1, 3, 1], "auto_pad": "SAME_UPPER"},
]
GROUPS = [(1, 3, 4), (2, 4, 6), (4, 4, 4), (4, 4, 8)]


def _codes(compiled: Any) -> list[str]:
    return [operator.code for operator in compiled.program.operators]


def _form(form: dict[str, Any], axes: int) -> dict[str, Any]:
    """A form's numbers for the first axes alone."""
    cut = dict(form)
    for name in {"strides", "dilations", "output_padding", "output_shape"} & set(form):
        cut[name] = form[name][:axes]
    if "pads" in form:
        cut["pads"] = form["pads"][:axes] + form["pads"][3 : 3 + axes]
    return cut


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_constant_weights(
    make_model: Any, weights: Any, assert_parity: Any, axes: int, form: Any, groups: Any
) -> None:
    group, inputs, outputs = groups
    kernel = [3, 4, 2][:axes]
    if "output_shape" in form:
        whole = [
            (size - 1) * stride + cells
            for size, stride, cells in zip(SIZES[axes], form["strides"], kernel, strict=False)
        ]
        less = form["output_shape"]
        form = {**form, "output_shape": [w - n for w, n in zip(whole, less, strict=False)]}
    model = make_model(
        [node("ConvTranspose", ["x", "w", "b"], ["y"], group=group, **_form(form, axes))],
        {"x": ["n", inputs, *SIZES[axes]]},
        ["y"],
        {"w": weights(inputs, outputs // group, *kernel), "b": weights(outputs, seed=2)},
    )
    assert_parity(model)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("form", [FORMS[2], FORMS[6], FORMS[7]])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_weights_that_are_computed(
    make_model: Any, assert_parity: Any, axes: int, form: Any, groups: Any, bias: bool
) -> None:
    group, inputs, outputs = groups
    shapes = {
        "x": [2, inputs, *SIZES[axes]],
        "w": [inputs, outputs // group, *[3, 4, 2][:axes]],
        "b": [outputs],
    }
    given = ["x", "w", "b"][: 3 if bias else 2]
    model = make_model(
        [node("ConvTranspose", given, ["y"], group=group, **_form(form, axes))],
        {name: shapes[name] for name in given},
        ["y"],
    )
    assert_parity(model)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    ("strides", "pads", "free"),
    [
        ([2, 2], [1, 1, 1, 0], ["h", "w"]),
        ([1, 3], [1, 1, 1, 0], ["h", "w"]),
        ([2, 3], [1, 1, 1, 0], ["h", 4]),
        ([2], [1, 0], ["w"]),
    ],
)
def test_free_sizes(
    make_model: Any, weights: Any, assert_parity: Any, strides: Any, pads: Any, free: Any,
    group: int,
) -> None:  # fmt: skip
    form = {"strides": strides, "pads": pads, "group": group}
    model = make_model(
        [node("ConvTranspose", ["x", "w"], ["y"], **form)],
        {"x": ["n", 4, *free]},
        ["y"],
        {"w": weights(4, 3, *[4, 3][: len(free)])},
    )
    assert_parity(model, batch=5)


def test_automatic_padding_that_is_negative_is_refused(make_model: Any, weights: Any) -> None:
    model = make_model(
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[3, 3], auto_pad="SAME_UPPER")],
        {"x": [1, 2, 4, 4]},
        ["y"],
        {"w": weights(2, 2, 2, 2)},
    )
    with pytest.raises(UnsupportedModelError, match="its automatic padding is negative"):
        compile_to_litert(normalise(model, where="test"), where="test")


def test_doubling_is_a_product_and_an_unfolding(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    # What U-Nets do: no padding, no cutting, no transposing inside.
    nodes = [
        node("Conv", ["x", "a"], ["c"]),
        node("ConvTranspose", ["c", "w", "b"], ["t"], strides=[2, 2]),
        node("Relu", ["t"], ["r"]),
        node("Conv", ["r", "a"], ["y"]),
    ]
    constants = {"a": weights(3, 3, 1, 1), "w": weights(3, 3, 2, 2), "b": weights(3)}
    compiled = assert_parity(make_model(nodes, {"x": ["n", 3, 5, 6]}, ["y"], constants))
    assert _codes(compiled) == [
        "TRANSPOSE", "CONV_2D", "CONV_2D", "DEPTH_TO_SPACE", "CONV_2D", "TRANSPOSE",
    ]  # fmt: skip
    layer = compiled.program.operators[2]
    assert layer.options["fusedActivationFunction"] == "RELU"
    assert layer.inputs[1].shape == (12, 1, 1, 3)
    assert layer.inputs[1].name == "w"
    assert np.array_equal(layer.inputs[2].data, np.tile(constants["b"], 4))


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("bias", [True, False])
def test_batch_normalization_is_folded_into_it(
    make_model: Any, weights: Any, assert_parity: Any, groups: Any, bias: bool
) -> None:
    group, inputs, outputs = groups
    given = ["x", "w", "b"][: 3 if bias else 2]
    nodes = [
        node("ConvTranspose", given, ["t"], group=group, strides=[2, 2]),
        node("BatchNormalization", ["t", "s", "o", "m", "v"], ["y"]),
    ]
    constants = {
        "w": weights(inputs, outputs // group, 3, 3), "b": weights(outputs, seed=2),
        "s": weights(outputs, seed=3), "o": weights(outputs, seed=4),
        "m": weights(outputs, seed=5), "v": np.abs(weights(outputs, seed=6)) + 0.5,
    }  # fmt: skip
    model = make_model(nodes, {"x": ["n", inputs, 4, 5]}, ["y"], constants)
    codes = _codes(assert_parity(model))
    assert not {"MUL", "ADD"} & set(codes)
