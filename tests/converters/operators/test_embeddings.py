"""Operators that are lowered by what ONNX defines them by, beyond ONNX's own cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

node = helper.make_node


def _numbers(*shape: int, seed: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("rotated", [0, 4])
def test_rotary_embedding(
    agree: Any, interleaved: int, flat: bool, positions: bool, rotated: int
) -> None:
    batch, heads, length, size = 2, 3, 5, 8
    half = (rotated or size) // 2
    x = _numbers(batch, length, heads * size) if flat else _numbers(batch, heads, length, size)
    arrays: dict[str, Any] = {"x": x}
    rows = (9,) if positions else (batch, length)
    angles = np.random.default_rng(3).uniform(0, 6, size=(*rows, half)).astype(np.float32)
    constants: dict[str, Any] = {}
    caches = {"cos": np.cos(angles), "sin": np.sin(angles)}
    inputs = ["x", "cos", "sin"]
    if positions:
        constants |= caches
        arrays["ids"] = np.array([[0, 1, 2, 3, 8], [4, 5, 6, 7, 0]], dtype=np.int64)
        inputs.append("ids")
    else:
        arrays |= caches
    rotate = node(
        "RotaryEmbedding", inputs, ["y"], interleaved=interleaved, num_heads=heads if flat else 0,
        rotary_embedding_dim=rotated,
    )  # fmt: skip
    one = {name: array[:1] for name, array in arrays.items()}
    agree(
        rotate, [arrays, one], constants=constants, opset=23, free={name: [0] for name in arrays},
        tolerance=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("operator", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows_of_a_size_that_the_running_model_knows(
    agree: Any, operator: str, periodic: int
) -> None:
    sets = [{"n": np.array(size, dtype=np.int64)} for size in (16, 7, 2)]
    agree(node(operator, ["n"], ["y"], periodic=periodic), sets, opset=17, tolerance=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_gated_units(agree: Any, alpha: float) -> None:
    gate, value = _numbers(3, 4, 6), _numbers(3, 4, 6, seed=3)
    wanted = gate / (1 + np.exp(-alpha * gate)) * value
    agree(
        node("SwiGLU", ["a", "b"], ["y"], alpha=alpha), {"a": gate, "b": value}, opset=28,
        free={"a": [0], "b": [0]}, expected=[{"y": wanted.astype(np.float32)}], tolerance=1e-5,
    )  # fmt: skip
