from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

node = helper.make_node


def _expected(arrays: Any, kernel: int, activation: str) -> dict[str, Any]:
    """The operator's definition, cell by cell."""
    x, weights = arrays["x"], arrays["w"][:, 0]
    state = arrays.get("state", np.zeros((*x.shape[:2], kernel - 1), dtype=np.float32))
    whole = np.concatenate([state, x], axis=2)
    rows = [whole[:, :, at : at + kernel] * weights for at in range(x.shape[2])]
    value = np.stack([row.sum(axis=2) for row in rows], axis=2)
    if "b" in arrays:
        value = value + arrays["b"][None, :, None]
    if activation == "silu":
        value = value / (1 + np.exp(-value))
    return {"y": value.astype(np.float32), "next": whole[:, :, whole.shape[2] - kernel + 1 :]}


@pytest.mark.parametrize("given", ["x w", "x w b", "x w state", "x w b state"])
@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize(("kernel", "length"), [(4, 8), (4, 1), (5, 2), (1, 3)])
def test_causal_conv(agree: Any, given: str, activation: str, kernel: int, length: int) -> None:
    rng = np.random.default_rng(6)
    shapes = {
        "x": (2, 3, length), "w": (3, 1, kernel), "b": (3,), "state": (2, 3, kernel - 1),
    }  # fmt: skip
    names = [name for name in given.split() if kernel > 1 or name != "state"]
    arrays = {name: rng.normal(size=shapes[name]).astype(np.float32) for name in names}
    inputs = ["x", "w", "b" if "b" in names else "", "state" if "state" in names else ""]
    convolution = node("CausalConvWithState", inputs, ["y", "next"], activation=activation)
    wanted = _expected(arrays, kernel, activation)
    agree(convolution, arrays, ["y", "next"], opset=27, expected=[wanted], tolerance=1e-5)


def test_a_free_batch(agree: Any) -> None:
    rng = np.random.default_rng(6)
    shapes = {"x": (3, 4, 6), "w": (4, 1, 3), "state": (3, 4, 2)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    constants = {"w": arrays["w"]}
    wanted = _expected(arrays, 3, "none")
    agree(
        node("CausalConvWithState", ["x", "w", "", "state"], ["y", "next"]),
        {"x": arrays["x"], "state": arrays["state"]},
        ["y", "next"],
        constants,
        opset=27,
        free={"x": [0], "state": [0]},
        expected=[wanted],
        tolerance=1e-5,
    )
