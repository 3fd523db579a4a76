"""Tensors made of sizes, bounds and places, of what values say, and of squares of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
F, I64 = np.float32, np.int64
TYPES = [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int16, np.int32, np.int64,
         np.bool_, np.uint16, np.uint32, np.uint64]  # fmt: skip


def _x(*shape: int, dtype: Any = F, seed: int = 3) -> Any:
    return np.random.default_rng(seed).integers(0, 3, size=shape).astype(dtype)


@pytest.mark.parametrize("bounds", [(0, 5, 1), (1, 8, 3), (9, 1, -2), (-3, 4, 2), (2, 3, 9)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int64, np.int16])
@pytest.mark.parametrize("computed", ["abc", "b", "ac"])
def test_range(bounds: Any, dtype: Any, computed: str, agree: Any) -> None:
    inputs = {name: np.array(value, dtype) for name, value in zip("abc", bounds, strict=True)}
    given = {name: array for name, array in inputs.items() if name in computed}
    constants = {name: array for name, array in inputs.items() if name not in computed}
    agree(node("Range", ["a", "b", "c"], ["y"]), given, constants=constants)


@pytest.mark.parametrize(
    "bounds", [(0, 1, 0.1), (0, 0.3, 0.1), (1, 0, -0.1), (0.5, 100, 0.7), (0, 1, 1 / 3)]
)
def test_range_of_fractions_is_as_long_as_the_source(bounds: Any, agree: Any) -> None:
    arrays = {name: np.array(value, F) for name, value in zip("abc", bounds, strict=True)}
    # onnxruntime adds up the rounding errors of all steps.
    agree(node("Range", ["a", "b", "c"], ["y"]), arrays, tolerance=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int64])
@pytest.mark.parametrize("bounds", [(5, 5, 1), (5, 3, 1), (3, 5, -1)])
def test_an_empty_range(dtype: Any, bounds: Any, agree: Any) -> None:
    arrays = {name: np.array(value, dtype) for name, value in zip("abc", bounds, strict=True)}
    nodes = [
        node("Range", ["a", "b", "c"], ["r"]),
        node("Concat", ["r", "x"], ["y"], axis=0),
    ]
    agree(nodes, {**arrays, "x": _x(3, dtype=dtype)})


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", [[2, 3], []])
def test_constant_of_shape(dtype: Any, sizes: list[int], agree: Any) -> None:
    value = numpy_helper.from_array(np.ones(1, dtype=dtype))
    fill = node("ConstantOfShape", ["s"], ["y"], value=value)
    agree(fill, {"s": np.array(sizes, dtype=I64)})


@pytest.mark.parametrize("free", [[], [0], [0, 1]])
def test_constant_of_the_shape_of_another(free: list[int], agree: Any) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("ConstantOfShape", ["s"], ["o"]),
        node("Add", ["x", "o"], ["y"]),
    ]
    sets = [{"x": _x(2, 3)}] + ([{"x": _x(4, 3)}] if free else [])
    agree(nodes, sets, free={"x": free})


@pytest.mark.parametrize("offset", [0, 1, -2, 9])
@pytest.mark.parametrize("free", [[], [0, 1]])
def test_eye_like(offset: int, free: list[int], agree: Any) -> None:
    sets = [{"x": _x(3, 5)}] + ([{"x": _x(4, 2)}] if free else [])
    agree(node("EyeLike", ["x"], ["y"], k=offset), sets, free={"x": free})


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint64, np.bool_])
def test_eye_of_another_type(dtype: Any, agree: Any) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    agree(node("EyeLike", ["x"], ["y"], dtype=kind), [{"x": _x(3, 5)}], free={"x": [0]},
          expected=[{"y": np.eye(3, 5, dtype=dtype)}])  # fmt: skip


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize("computed", ["d", "v", "dv", ""])
def test_one_hot(axis: int, computed: str, agree: Any) -> None:
    inputs = {"d": np.array([4], dtype=I64), "v": np.array([2.0, -5.0], F)}
    given = {name: array for name, array in inputs.items() if name in computed}
    constants = {name: array for name, array in inputs.items() if name not in computed}
    indices = np.array([[0, 3, -1], [7, -5, -4]], dtype=I64)
    agree(node("OneHot", ["i", "d", "v"], ["y"], axis=axis), {"i": indices, **given},
          constants=constants, free={"i": [0]})  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("index_type", [np.float32, np.int32, np.uint8, np.uint64])
def test_one_hot_of_every_type(dtype: Any, index_type: Any, agree: Any) -> None:
    indices = np.array([1, 0, 2, 9], dtype=index_type)
    values = np.array([0, 1], dtype=dtype)
    expected = np.where(indices[:, None] == np.arange(3), values[1], values[0])
    agree(node("OneHot", ["i", "d", "v"], ["y"]), {"i": indices, "v": values}, constants={
        "d": np.array(3, dtype=F)}, expected=[{"y": expected}])  # fmt: skip


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("offset", [None, 0, 1, -2, 9, -9, 2**40])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("free", [[], [0, 1, 2]])
def test_trilu(upper: int, offset: Any, computed: bool, free: list[int], agree: Any) -> None:
    k = {} if offset is None else {"k": np.array(offset, dtype=I64)}
    agree(node("Trilu", ["x", *k], ["y"], upper=upper),
          {"x": _x(2, 4, 3), **(k if computed else {})}, constants={} if computed else k,
          free={"x": free})  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rank", [2, 6, 8])
def test_trilu_of_every_type(dtype: Any, rank: int, agree: Any) -> None:
    x = _x(*[1, 2, 1, 2, 1, 2, 3, 3][-rank:], dtype=dtype)
    agree(node("Trilu", ["x"], ["y"], upper=0), {"x": x}, expected=[{"y": np.tril(x)}])


def test_trilu_takes_away_what_is_no_number(agree: Any) -> None:
    x = np.full((3, 3), np.nan, F)
    agree(node("Trilu", ["x"], ["y"]), {"x": x})


@pytest.mark.parametrize("dtype", TYPES)
def test_non_zero(dtype: Any, agree: Any) -> None:
    x = _x(3, 4, dtype=dtype)
    if np.dtype(dtype).kind == "f":
        x[0, :2] = np.nan, -0.0
    agree(node("NonZero", ["x"], ["y"]), {"x": x},
          expected=[{"y": np.stack(np.nonzero(x)).astype(I64)}])  # fmt: skip


def test_nothing_is_not_zero_or_wanted(agree: Any) -> None:
    agree(node("NonZero", ["x"], ["y"]), [{"x": np.zeros((2, 3), F)}, {"x": np.ones((2, 3), F)}])
    agree(node("Compress", ["x", "c"], ["y"], axis=0),
          {"x": _x(2, 3), "c": np.array([False, False])})  # fmt: skip
    bounds = {name: np.array(value, F) for name, value in zip("abc", (3, 3, 1), strict=True)}
    agree(node("Range", ["a", "b", "c"], ["y"]), bounds)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("free", [[], [0, 1]])
def test_compress(axis: Any, free: list[int], agree: Any) -> None:
    condition = np.array([False, True, True])
    attributes = {} if axis is None else {"axis": axis}
    agree(node("Compress", ["x", "c"], ["y"], **attributes), {"x": _x(3, 4, 3), "c": condition},
          free={"x": free, "c": [0] if free else []})  # fmt: skip


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64, np.float16])
@pytest.mark.parametrize("free", [[], [0], [0, 2, 3]])
def test_depth_to_space(mode: str, dtype: Any, free: list[int], agree: Any) -> None:
    x = np.arange(2 * 12 * 2 * 3).reshape(2, 12, 2, 3).astype(dtype)
    blocks = x.reshape(2, 2, 2, 3, 2, 3) if mode == "DCR" else x.reshape(2, 3, 2, 2, 2, 3)
    order = (0, 3, 4, 1, 5, 2) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
    expected = blocks.transpose(order).reshape(2, 3, 4, 6)
    agree(node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode), {"x": x},
          free={"x": free}, expected=[{"y": expected}])  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64])
@pytest.mark.parametrize("free", [[], [0, 2, 3]])
def test_space_to_depth(dtype: Any, free: list[int], agree: Any) -> None:
    x = np.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).astype(dtype)
    blocks = x.reshape(2, 3, 2, 2, 3, 2).transpose(0, 3, 5, 1, 2, 4)
    agree(node("SpaceToDepth", ["x"], ["y"], blocksize=2), {"x": x}, free={"x": free},
          expected=[{"y": blocks.reshape(2, 12, 2, 3)}])  # fmt: skip


@pytest.mark.parametrize("free", [[], [2], [2, 3]])
def test_space_to_depth_of_odd_blocks(free: list[int], agree: Any) -> None:
    x = np.arange(2 * 2 * 6 * 9).reshape(2, 2, 6, 9).astype(F)
    blocks = x.reshape(2, 2, 2, 3, 3, 3).transpose(0, 3, 5, 1, 2, 4)
    agree(node("SpaceToDepth", ["x"], ["y"], blocksize=3), {"x": x}, free={"x": free},
          expected=[{"y": blocks.reshape(2, 18, 2, 3)}])  # fmt: skip


def test_pixel_shuffle_behind_a_convolution_moves_the_image_twice_only(agree: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("DepthToSpace", ["c"], ["y"], blocksize=2, mode="CRD"),
    ]
    codes = agree(nodes, {"x": _x(2, 3, 5, 6)}, constants={"w": _x(8, 3, 2, 2)})
    assert codes.count("TRANSPOSE") == 2


def test_a_one_of_every_kind(agree: Any) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("ConstantOfShape", ["s"], ["o"], value=helper.make_tensor(
            "v", TensorProto.FLOAT, [1], [1.0])),
        node("CenterCropPad", ["o", "t"], ["y"], axes=[1, 2]),
    ]  # fmt: skip
    agree(nodes, [{"x": _x(2, 4, 3)}, {"x": _x(2, 3, 6)}], constants={
        "t": np.array([3, 5], dtype=I64)}, free={"x": [1, 2]})  # fmt: skip
