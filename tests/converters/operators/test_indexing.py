"""Gathers and scatters: indices of both signs, known and computed, of every type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F, I64 = np.float32, np.int64
TYPES = [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int16, np.int32, np.int64,
         np.bool_, np.uint16, np.uint32, np.uint64]  # fmt: skip


def _x(*shape: int, dtype: Any = F, seed: int = 3) -> Any:
    return np.random.default_rng(seed).integers(0, 9, size=shape).astype(dtype)


def _indices(size: int, *shape: int, dtype: Any = I64, seed: int = 5) -> Any:
    return np.random.default_rng(seed).integers(-size, size, size=shape).astype(dtype)


@pytest.mark.parametrize("indices", [2, -1, [1, -3, 0], [[0, -1], [2, 2]]])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("free", [[], [0, 1, 2]])
def test_gather(indices: Any, axis: int, computed: bool, free: list[int], agree: Any) -> None:
    places = np.array(indices, dtype=I64)
    sets = [{"x": _x(4, 3, 5)}] + ([{"x": _x(6, 3, 5)}] if free else [])
    if computed:
        sets = [{**arrays, "i": places} for arrays in sets]
    agree(node("Gather", ["x", "i"], ["y"], axis=axis), sets, constants={} if computed else {
        "i": places}, free={"x": free})  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("operator", ["Gather", "GatherElements", "GatherND"])
def test_gathers_of_every_type(operator: str, dtype: Any, agree: Any) -> None:
    indices = np.array([[0, -1], [2, 1]], dtype=np.int32)
    if operator == "GatherND":
        indices = indices.astype(I64)
    agree(node(operator, ["x", "i"], ["y"]), {"x": _x(3, 3, dtype=dtype), "i": indices})


@pytest.mark.parametrize("rank", [5, 6, 7, 8])
def test_gather_of_many_axes(rank: int, agree: Any) -> None:
    shape = [2, 3, 1, 2, 1, 2, 2, 2][:rank]
    agree(node("Gather", ["x", "i"], ["y"], axis=1), {"x": _x(*shape), "i": _indices(3, 4)})


def test_an_index_outside_is_an_error_and_not_another_element(agree: Any) -> None:
    for wrong in (3, -4):
        with pytest.raises(UnsupportedModelError):
            agree(node("Gather", ["x", "i"], ["y"]), {"x": _x(3, 2), "i": np.array([wrong])},
                  expected=[{}])  # fmt: skip


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("shape", [(3, 4, 2), (2, 2, 1), (3, 1, 2)])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("free", [[], [0, 1, 2]])
def test_gather_elements(
    axis: int, shape: Any, computed: bool, free: list[int], agree: Any
) -> None:
    x = _x(3, 4, 2)
    indices = _indices(x.shape[axis], *shape)
    agree(node("GatherElements", ["x", "i"], ["y"], axis=axis),
          {"x": x, **({"i": indices} if computed else {})},
          constants={} if computed else {"i": indices},
          free={"x": free, "i": free if computed else []})  # fmt: skip


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("free", [[], [0, 1]])
def test_gather_nd(batch: int, depth: int, computed: bool, free: list[int], agree: Any) -> None:
    x = _x(2, 3, 4, 5)
    indices = _indices(2, *x.shape[:batch], 3, depth)
    agree(node("GatherND", ["x", "i"], ["y"], batch_dims=batch),
          {"x": x, **({"i": indices} if computed else {})},
          constants={} if computed else {"i": indices},
          free={"x": free, "i": free[: batch + 1] if computed else []})  # fmt: skip


REDUCTIONS = ["none", "add", "mul", "max", "min"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("free", [[], [0, 1, 2]])
def test_scatter_elements(
    reduction: str, axis: int, computed: bool, free: list[int], agree: Any
) -> None:
    x, updates = _x(3, 4, 5), _x(2, 4, 3, seed=6)
    size = x.shape[axis]
    if reduction == "none":
        order = np.random.default_rng(1).permuted(np.tile(np.arange(size), (60, 1)), axis=1)
        length = updates.shape[axis]
        rows = order[: updates.size // length, :length] - size * (order[0, 0] % 2)
        others = np.delete(updates.shape, axis)
        indices = np.moveaxis(rows.reshape(*others, length), -1, axis).astype(I64)
    else:
        indices = _indices(size, *updates.shape)
    scatter = node("ScatterElements", ["x", "i", "u"], ["y"], axis=axis, reduction=reduction)
    agree(scatter, {"x": x, "u": updates, **({"i": indices} if computed else {})},
          constants={} if computed else {"i": indices},
          free={"x": free, "u": free, "i": free if computed else []})  # fmt: skip


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("free", [[], [0, 1, 2]])
def test_scatter_nd(
    reduction: str, depth: int, computed: bool, free: list[int], agree: Any
) -> None:
    x = _x(4, 4, 3)
    rng = np.random.default_rng(2)
    count = 3
    if reduction == "none":
        places = rng.permutation(np.stack(np.meshgrid(*[range(3)] * depth), -1).reshape(-1, depth))
        indices = places[:count] - np.array(x.shape[:depth])
    else:
        indices = rng.integers(-3, 3, size=(count, depth))
    indices = indices.astype(I64)
    updates = _x(len(indices), *x.shape[depth:], seed=6)
    scatter = node("ScatterND", ["x", "i", "u"], ["y"], reduction=reduction)
    agree(scatter, {"x": x, "u": updates, **({"i": indices} if computed else {})},
          constants={} if computed else {"i": indices},
          free={"x": free, "u": [0] if free else [], "i": [0] if free and computed else []},
    )  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("operator", ["ScatterND", "ScatterElements"])
def test_scatters_of_every_type(operator: str, dtype: Any, agree: Any) -> None:
    x = _x(4, 2, dtype=dtype)
    indices = np.array([[2], [-4]], dtype=I64)
    updates = _x(2, 2, dtype=dtype, seed=8)
    expected = x.copy()
    expected[[2, 0]] = updates
    if operator == "ScatterElements":
        indices = np.repeat(indices, 2, axis=1)
    agree(node(operator, ["x", "i", "u"], ["y"]), {"x": x, "i": indices, "u": updates},
          expected=[{"y": expected}])  # fmt: skip


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float16, np.int8])
def test_sums_of_every_type(dtype: Any, agree: Any) -> None:
    x, updates = _x(4, 2, dtype=dtype), _x(3, 2, dtype=dtype, seed=8)
    indices = np.array([[2], [-4], [2]], dtype=I64)
    expected = x.copy()
    np.add.at(expected, indices[:, 0], updates)
    agree(node("ScatterND", ["x", "i", "u"], ["y"], reduction="add"),
          {"x": x, "i": indices, "u": updates}, expected=[{"y": expected}])  # fmt: skip


def test_the_last_of_several_updates_counts(agree: Any) -> None:
    arrays = {"x": _x(4, 2), "i": np.array([[1], [2], [1]], dtype=I64), "u": _x(3, 2, seed=8)}
    agree(node("ScatterND", ["x", "i", "u"], ["y"]), arrays)


def test_scatter_of_many_axes(agree: Any) -> None:
    x, updates = _x(2, 3, 1, 2, 2, 2, 2), _x(1, 3, 1, 2, 2, 2, 2, seed=4)
    arrays = {"x": x, "i": np.array([[1]], dtype=I64), "u": updates}
    agree(node("ScatterND", ["x", "i", "u"], ["y"]), arrays)


def test_the_old_scatter(agree: Any) -> None:
    arrays = {"x": _x(3, 3), "i": np.array([[1, 0, 2]], dtype=I64), "u": _x(1, 3, seed=9)}
    agree(node("Scatter", ["x", "i", "u"], ["y"], axis=1), arrays, opset=10)


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 4, 2), -2), ((2, 4, 2), 1), ((2, 4), 1)])
@pytest.mark.parametrize("free", [False, True])
def test_tensor_scatter(mode: str, shape: Any, axis: int, free: bool, agree: Any) -> None:
    cache = _x(*shape)
    sizes = list(shape)
    sizes[axis] = 2
    updates = _x(*sizes, seed=7)
    starts = np.array([1, 3 if mode == "circular" else 2], dtype=I64)
    expected = cache.copy()
    for sample, start in enumerate(starts):
        for step in range(2):
            place = (start + step) % shape[axis]
            np.moveaxis(expected[sample], axis % len(shape) - 1, 0)[place] = np.moveaxis(
                updates[sample], axis % len(shape) - 1, 0
            )[step]
    scatter = node("TensorScatter", ["c", "u", "s"], ["y"], axis=axis, mode=mode)
    agree(scatter, {"c": cache, "u": updates, "s": starts}, opset=24,
          free={"c": [0], "u": [0], "s": [0]} if free else {},
          expected=[{"y": expected}])  # fmt: skip
