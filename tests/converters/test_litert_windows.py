"""Convolutions and poolings over their whole space of attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

# The fixtures hold no state between examples: each writes the same two files anew.
RELAXED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def windows(draw: Any, *, dilated: bool) -> dict[str, Any]:
    kernel = draw(st.lists(st.integers(1, 4), min_size=2, max_size=2))
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": draw(st.lists(st.integers(1, 3), min_size=2, max_size=2)),
    }
    if dilated:
        attributes["dilations"] = draw(st.lists(st.integers(1, 2), min_size=2, max_size=2))
    mode = draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if mode == "pads":
        # Padding as wide as the kernel would make windows without any cell.
        attributes["pads"] = [
            draw(st.integers(0, size - 1)) for size in (*kernel, *kernel)
        ]  # fmt: skip
    else:
        # onnxruntime itself refuses the others.
        for axis in range(2 if mode.startswith("SAME") else 0):
            attributes["strides"][axis] = min(attributes["strides"][axis], kernel[axis])
        if mode.startswith("SAME"):
            attributes.pop("dilations", None)
        attributes["auto_pad"] = mode
    return attributes


def _parity_unless_ambiguous(assert_parity: Any, model: Any, **options: Any) -> None:
    try:
        assert_parity(model, **options)
    except UnsupportedModelError as refusal:
        # Where the last window starts in the padding, ONNX's own tools disagree on the size.
        assert "ambiguous" in refusal.what  # noqa: PT017


@RELAXED
@given(
    attributes=windows(dilated=True),
    size=st.tuples(st.integers(7, 12), st.integers(7, 12)),
    groups=st.sampled_from([(1, 3, 4), (2, 4, 6), (4, 4, 4), (4, 4, 8), (1, 1, 2)]),
    bias=st.booleans(),
)
def test_convolution(
    *, attributes: Any, size: Any, groups: Any, bias: bool, make_model: Any, assert_parity: Any
) -> None:
    count, channels, outputs = groups
    rng = np.random.default_rng(5)
    shape = (outputs, channels // count, *attributes["kernel_shape"])
    constants = {"w": rng.normal(size=shape).astype(np.float32)}
    if bias:
        constants["b"] = rng.normal(size=outputs).astype(np.float32)
    conv = helper.make_node("Conv", ["x", *constants], ["y"], group=count, **attributes)
    assert_parity(make_model([conv], {"x": ["n", channels, *size]}, ["y"], constants))


@RELAXED
@given(
    attributes=windows(dilated=False),
    size=st.tuples(st.integers(6, 11), st.integers(6, 11)),
    ceil=st.booleans(),
)
def test_max_pooling(
    attributes: Any, size: Any, ceil: bool, make_model: Any, assert_parity: Any
) -> None:
    assume(not (ceil and "auto_pad" in attributes))
    pool = helper.make_node("MaxPool", ["x"], ["y"], ceil_mode=int(ceil), **attributes)
    # Values below zero: padding with zeros would win.
    model = make_model([pool], {"x": ["n", 2, *size]}, ["y"])
    _parity_unless_ambiguous(assert_parity, model, low=-9, high=-1)


@RELAXED
@given(
    attributes=windows(dilated=False),
    size=st.tuples(st.integers(6, 11), st.integers(6, 11)),
    ceil=st.booleans(),
    counted=st.booleans(),
)
def test_average_pooling(
    *, attributes: Any, size: Any, ceil: bool, counted: bool, make_model: Any, assert_parity: Any
) -> None:
    assume(not (ceil and "auto_pad" in attributes))
    pool = helper.make_node(
        "AveragePool", ["x"], ["y"], ceil_mode=int(ceil), count_include_pad=int(counted),
        **attributes,
    )  # fmt: skip
    model = make_model([pool], {"x": ["n", 2, *size]}, ["y"], opset=19)
    _parity_unless_ambiguous(assert_parity, model)


@pytest.mark.parametrize("pads", [[0, 0], [1, 1], [2, 0]])
def test_one_spatial_axis(pads: list[int], make_model: Any, assert_parity: Any) -> None:
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=pads, strides=[2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[3], pads=[1, 1]),
        helper.make_node("AveragePool", ["p"], ["y"], kernel_shape=[2], strides=[2]),
    ]
    constants = {"w": rng.normal(size=(4, 3, 3)).astype(np.float32)}
    assert_parity(make_model(nodes, {"x": ["n", 3, 21]}, ["y"], constants))


def test_max_pooling_behind_a_relu_pads_with_zero(make_model: Any, assert_parity: Any) -> None:
    # ResNet's stem: a padding of the lowest float would make the tensor unquantizable.
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node(
            "MaxPool", ["r"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
    ]
    compiled = assert_parity(make_model(nodes, {"x": ["n", 2, 8, 8]}, ["y"]))
    assert [o.code for o in compiled.program.operators if o.code.startswith("PAD")] == ["PAD"]
