from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

node = helper.make_node
SPACES = {2: [5, 7], 3: [3, 4, 5]}
POINTS = {2: [6, 4], 3: [2, 3, 4]}
PADDINGS = ["zeros", "border", "reflection"]


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_images(
    make_model: Any, weights: Any, assert_parity: Any, mode: str, padding: str, corners: int
) -> None:
    # Behind a convolution, so that the image has its channels last; points far outside too.
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node(
            "GridSample", ["c", "grid"], ["y"], mode=mode, padding_mode=padding,
            align_corners=corners,
        ),
    ]  # fmt: skip
    model = make_model(
        nodes, {"x": ["n", 3, *SPACES[2]], "grid": ["n", *POINTS[2], 2]}, ["y"],
        {"w": weights(4, 3, 1, 1)}, opset=16,
    )  # fmt: skip
    compiled = assert_parity(model, tolerance=1e-4)
    moved = [o.code for o in compiled.program.operators].count("TRANSPOSE")
    assert moved == 2


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_volumes(
    make_model: Any, assert_parity: Any, mode: str, padding: str, corners: int
) -> None:
    model = make_model(
        [
            node(
                "GridSample", ["x", "grid"], ["y"], mode=mode, padding_mode=padding,
                align_corners=corners,
            )
        ],
        {"x": ["n", 2, *SPACES[3]], "grid": ["n", *POINTS[3], 3]},
        ["y"],
        opset=20,
    )  # fmt: skip
    assert_parity(model, tolerance=1e-4)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("corners", [0, 1])
def test_one_row(make_model: Any, assert_parity: Any, padding: str, corners: int) -> None:
    if corners and padding == "reflection":
        pytest.skip("onnxruntime divides by zero")
    model = make_model(
        [node("GridSample", ["x", "grid"], ["y"], padding_mode=padding, align_corners=corners)],
        {"x": [2, 2, 1, 6], "grid": [2, 3, 4, 2]},
        ["y"],
        opset=16,
    )
    assert_parity(model, tolerance=1e-4)


def test_free_points(make_model: Any, assert_parity: Any) -> None:
    model = make_model(
        [node("GridSample", ["x", "grid"], ["y"])],
        {"x": ["n", 2, 5, 6], "grid": ["n", "h", "w", 2]},
        ["y"],
        opset=16,
    )
    assert_parity(model, batch=3, tolerance=1e-4)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("space", [[4, 5], [2, 3, 4]])
def test_affine(make_model: Any, assert_parity: Any, corners: int, space: list[int]) -> None:
    rank = len(space)
    model = make_model(
        [node("AffineGrid", ["theta", "size"], ["grid"], align_corners=corners)],
        {"theta": [2, rank, rank + 1]},
        ["grid"],
        {"size": np.array([2, 3, *space], dtype=np.int64)},
        opset=20,
    )
    assert_parity(model)


@pytest.mark.parametrize("free", ["x", "grid"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_one_batch_that_is_free(agree: Any, free: str, padding: str) -> None:
    rng = np.random.default_rng(2)
    arrays = {
        "x": rng.normal(size=(3, 2, 5, 6)).astype(np.float32),
        "grid": rng.uniform(-2, 2, size=(3, 3, 4, 2)).astype(np.float32),
    }
    sample = node("GridSample", ["x", "grid"], ["y"], padding_mode=padding)
    agree(sample, arrays, free={free: [0]}, opset=16, tolerance=1e-4)
