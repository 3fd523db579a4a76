from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

node = helper.make_node


def _case(group: int, parts: int, form: dict[str, Any], mask: bool, bias: bool) -> Any:
    rng = np.random.default_rng(8)
    kernel, strides, pads = (2, 3), form.get("strides", [1, 1]), form.get("pads", [0] * 4)
    dilations = form.get("dilations", [1, 1])
    size = [
        (cells + pads[axis] + pads[axis + 2] - (kernel[axis] - 1) * dilations[axis] - 1)
        // strides[axis]
        + 1
        for axis, cells in enumerate((6, 7))
    ]
    arrays = {
        "x": rng.normal(size=(2, 4, 6, 7)),
        "w": rng.normal(size=(6, 4 // group, *kernel)),
        "offset": rng.normal(size=(2, parts * 12, *size)) * 2,
        "b": rng.normal(size=6),
        "mask": rng.uniform(size=(2, parts * 6, *size)),
    }
    given = ["x", "w", "offset", "b" if bias else "", "mask" if mask else ""]
    deform = node(
        "DeformConv", given, ["y"], group=group, offset_group=parts, kernel_shape=kernel, **form
    )
    return deform, {name: arrays[name].astype(np.float32) for name in given if name}


@pytest.mark.parametrize(("group", "parts"), [(1, 1), (2, 1), (1, 2), (2, 4)])
@pytest.mark.parametrize(
    "form", [{}, {"pads": [1, 0, 2, 1], "strides": [2, 1]}, {"dilations": [2, 2]}]
)
@pytest.mark.parametrize(("mask", "bias"), [(True, True), (False, False)])
def test_deform_conv(
    agree: Any, group: int, parts: int, form: dict[str, Any], mask: bool, bias: bool
) -> None:
    deform, arrays = _case(group, parts, form, mask, bias)
    agree(deform, arrays, opset=19, tolerance=1e-4)


def test_a_free_batch_and_constant_weights(agree: Any) -> None:
    deform, arrays = _case(2, 2, {"pads": [1, 1, 1, 1]}, mask=True, bias=True)
    constants = {name: arrays.pop(name) for name in ("w", "b")}
    one = {name: array[:1] for name, array in arrays.items()}
    free = {name: [0] for name in arrays}
    codes = agree(deform, [arrays, one], constants=constants, opset=19, free=free, tolerance=1e-4)
    assert codes.count("CONV_2D") == 1
