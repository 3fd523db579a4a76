"""Unique elements, and boxes that are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F, I64 = np.float32, np.int64


def _x(*shape: int, dtype: Any = F, seed: int = 3) -> Any:
    return np.random.default_rng(seed).integers(0, 3, size=shape).astype(dtype)


def _unique(x: Any, axis: Any, *, in_order: bool) -> dict[str, Any]:
    y, first, inverse, counts = np.unique(
        x, axis=axis, return_index=True, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(-1)
    if not in_order:
        order = np.argsort(first)
        y, first, counts = (
            np.take(y, order, 0 if axis is None else axis),
            first[order],
            counts[order],
        )
        inverse = np.argsort(order)[inverse]
    return {"y": y, "i": first, "n": inverse, "c": counts}


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8, np.uint8])
@pytest.mark.parametrize("free", [False, True])
def test_unique(axis: Any, in_order: bool, dtype: Any, free: bool, agree: Any) -> None:
    x = _x(6, 4, 2, dtype=dtype) if axis != 0 else _x(9, 2, dtype=dtype)
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    agree(node("Unique", ["x"], ["y", "i", "n", "c"], sorted=int(in_order), **attributes),
          {"x": x}, ("y", "i", "n", "c"), free={"x": range(x.ndim) if free else []},
          expected=[_unique(x, axis, in_order=in_order)])  # fmt: skip


@pytest.mark.parametrize("in_order", [False, True])
def test_unique_of_what_is_no_number(in_order: bool, agree: Any) -> None:
    x = np.array([np.nan, 2, -0.0, np.nan, 0.0, -np.inf, 2], F)
    agree(node("Unique", ["x"], ["y", "i", "n", "c"], sorted=int(in_order)), {"x": x},
          ("y", "i", "n", "c"), expected=[_unique(x, None, in_order=in_order)])  # fmt: skip


def test_unique_of_too_many_is_refused(agree: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="compares 5000 slices"):
        agree(node("Unique", ["x"], ["y"]), {"x": np.zeros(5000, F)})


def _boxes(samples: int, count: int, seed: int = 4) -> Any:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 1, size=(samples, count, 2))
    size = rng.uniform(0.2, 0.8, size=(samples, count, 2))
    return np.concatenate([corner, corner + size], axis=-1).astype(F)


@pytest.mark.parametrize("computed", ["", "nos", "o", "n"])
@pytest.mark.parametrize("given", ["n", "no", "nos"])
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("centres", [0, 1])
def test_non_max_suppression(
    computed: str, given: str, free: bool, centres: int, agree: Any
) -> None:
    # Scores of few values: equal ones must be taken in the order of their indices.
    scores = (_x(2, 3, 20, seed=9) + _x(2, 3, 20, seed=8)).astype(F) / 4
    limits = {"n": np.array([4], I64), "o": np.array([0.3], F), "s": np.array([0.2], F)}
    limits = {name: array for name, array in limits.items() if name in given}
    inputs = {name: array for name, array in limits.items() if name in computed}
    constants = {name: array for name, array in limits.items() if name not in computed}
    agree(node("NonMaxSuppression", ["b", "x", *limits], ["y"], center_point_box=centres),
          {"b": _boxes(2, 20), "x": scores, **inputs}, constants=constants,
          free={"b": [1], "x": [2]} if free else {})  # fmt: skip


def test_no_box_is_kept(agree: Any) -> None:
    arrays = {"b": _boxes(1, 5), "x": _x(1, 2, 5), "n": np.array([2], I64), "o": np.array([0.5], F)}
    for least in (9.0, 0.5):
        agree(node("NonMaxSuppression", ["b", "x", "n", "o", "s"], ["y"]),
              {**arrays, "s": np.array([least], F)})  # fmt: skip


def test_an_overlap_of_just_the_threshold_is_kept(agree: Any) -> None:
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 1, 0.5], [0, 0, 0.5, 0.25]]], F)
    arrays = {"b": boxes, "x": np.array([[[0.9, 0.8, 0.7]]], F)}
    for threshold in (0.0, 0.125, 0.25, 0.5, 0.6):
        limits = {"n": np.array([3], I64), "o": np.array([threshold], F)}
        agree(node("NonMaxSuppression", ["b", "x", "n", "o"], ["y"]), arrays, constants=limits)
        agree(node("NonMaxSuppression", ["b", "x", "n", "o"], ["y"]), {**arrays, **limits})


def test_free_samples_are_refused(agree: Any) -> None:
    arrays = {"b": _boxes(2, 5), "x": _x(2, 1, 5), "n": np.array([2], I64)}
    with pytest.raises(UnsupportedModelError, match="a free number of samples"):
        agree(node("NonMaxSuppression", ["b", "x", "n"], ["y"]), arrays,
              free={"b": [0], "x": [0]})  # fmt: skip
