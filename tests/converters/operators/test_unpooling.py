from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

node = helper.make_node


def _numbers(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_what_was_pooled_goes_back(agree: Any, axes: int) -> None:
    x = _numbers(2, 3, *[6, 8, 4][:axes])
    form = {"kernel_shape": [2] * axes, "strides": [2] * axes}
    nodes = [
        node("MaxPool", ["x"], ["p", "i"], **form),
        node("MaxUnpool", ["p", "i"], ["y"], **form),
    ]
    agree(nodes, [{"x": x}, {"x": x[:1]}], free={"x": [0]}, opset=13, tolerance=0)


def test_negative_and_equal_cells_go_back(agree: Any) -> None:
    x = -np.abs(_numbers(1, 2, 4, 4))
    x[:, :, 1:3, 1:3] = -0.25
    nodes = [
        node("MaxPool", ["x"], ["p", "i"], kernel_shape=[3, 3], strides=[1, 1]),
        node("MaxUnpool", ["p", "i"], ["y"], kernel_shape=[3, 3], strides=[1, 1]),
    ]
    agree(nodes, {"x": x}, opset=13, tolerance=0)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"strides": [2, 1]},
        {"pads": [1, 0, 2, 1]},
        {"dilations": [2, 1], "pads": [1, 1, 1, 1]},
    ],
)
def test_columns_to_image(agree: Any, form: dict[str, Any]) -> None:
    image, block = [6, 5], [2, 3]
    pads, strides = form.get("pads", [0] * 4), form.get("strides", [1, 1])
    dilations = form.get("dilations", [1, 1])
    columns = 1
    for axis in range(2):
        padded = image[axis] + pads[axis] + pads[axis + 2]
        columns *= (padded - (block[axis] - 1) * dilations[axis] - 1) // strides[axis] + 1
    x = _numbers(2, 3 * 6, columns)
    constants = {
        "image": np.array(image, dtype=np.int64), "block": np.array(block, dtype=np.int64),
    }  # fmt: skip
    agree(
        node("Col2Im", ["x", "image", "block"], ["y"], **form), [{"x": x}, {"x": x[:1]}],
        constants=constants, free={"x": [0]}, opset=18, tolerance=1e-6,
    )  # fmt: skip


def test_columns_to_a_volume(agree: Any) -> None:
    x = _numbers(1, 2 * 8, 2 * 3 * 4)
    constants = {
        "image": np.array([3, 4, 5], dtype=np.int64), "block": np.array([2, 2, 2], dtype=np.int64),
    }  # fmt: skip
    agree(
        node("Col2Im", ["x", "image", "block"], ["y"]), {"x": x}, constants=constants, opset=18,
        tolerance=1e-6,
    )  # fmt: skip
