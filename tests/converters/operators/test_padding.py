"""Padding: every mode, positive and negative, known and computed, of every type."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F, I64 = np.float32, np.int64
MODES = ["constant", "edge", "reflect", "wrap"]
TYPES = [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int16, np.int32, np.int64,
         np.bool_, np.uint16, np.uint32, np.uint64]  # fmt: skip
PADS = {"grow": [0, 1, 2, 0, 2, 1], "shrink": [0, -1, 0, 0, 0, -2], "both": [1, -1, 2, -1, 2, -3]}


def _x(*shape: int, dtype: Any = F) -> Any:
    return np.random.default_rng(3).integers(1, 9, size=shape).astype(dtype)


def _pad(mode: str, *inputs: str) -> Any:
    return node("Pad", ["x", *inputs], ["y"], mode=mode)


def _expected(x: Any, pads: list[int], mode: str, value: float = 0) -> Any:
    half = len(pads) // 2
    crop = tuple(
        slice(max(-front, 0), size - max(-back, 0))
        for size, front, back in zip(x.shape, pads[:half], pads[half:], strict=True)
    )
    grown = [(max(f, 0), max(b, 0)) for f, b in zip(pads[:half], pads[half:], strict=True)]
    more = {"constant_values": x.dtype.type(value)} if mode == "constant" else {}
    return np.pad(x[crop], grown, mode=mode, **more)  # type: ignore[call-overload]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pads", PADS.values(), ids=PADS)
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("free", [[], [0, 1, 2]])
def test_modes(mode: str, pads: list[int], computed: bool, free: list[int], agree: Any) -> None:
    sizes = np.array(pads, dtype=I64)
    sets = [{"x": _x(2, 4, 6)}] + ([{"x": _x(3, 4, 6)}] if free else [])
    expected = [{"y": _expected(arrays["x"], pads, mode)} for arrays in sets]
    if computed:
        sets = [{**arrays, "p": sizes} for arrays in sets]
    agree(_pad(mode, "p"), sets, constants={} if computed else {"p": sizes}, free={"x": free},
          expected=expected)  # fmt: skip


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -np.inf, np.nan])
@pytest.mark.parametrize("computed", ["", "p", "v", "pv"])
def test_a_value(value: float, computed: str, agree: Any) -> None:
    inputs = {"p": np.array([0, 1, 0, 2], dtype=I64), "v": np.array(value, dtype=F)}
    given = {name: array for name, array in inputs.items() if name in computed}
    constants = {name: array for name, array in inputs.items() if name not in computed}
    agree(_pad("constant", "p", "v"), {"x": _x(2, 3), **given}, constants=constants)


@pytest.mark.parametrize(("dtype", "mode"), list(itertools.product(TYPES, ["constant", "edge"])))
def test_types(dtype: Any, mode: str, agree: Any) -> None:
    pads = [0, 1, 2, 0]
    x = _x(2, 3, dtype=dtype)
    value = dtype(1)
    agree(_pad(mode, "p", "v"), {"x": x}, constants={
        "p": np.array(pads, dtype=I64), "v": np.array(value)},
        expected=[{"y": _expected(x, pads, mode, value)}])  # fmt: skip


@pytest.mark.parametrize("axes", [[1], [-1, 0], [2, 1]])
@pytest.mark.parametrize("computed", ["", "p", "a", "pa"])
@pytest.mark.parametrize("mode", ["constant", "edge"])
def test_axes(axes: list[int], computed: str, mode: str, agree: Any) -> None:
    pads = np.arange(1, 1 + 2 * len(axes))
    inputs = {"p": pads.astype(I64), "a": np.array(axes, dtype=I64)}
    given = {name: array for name, array in inputs.items() if name in computed}
    constants = {name: array for name, array in inputs.items() if name not in computed}
    agree(_pad(mode, "p", "", "a"), {"x": _x(2, 3, 4), **given}, constants=constants)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("computed", [False, True])
def test_behind_a_convolution(mode: str, computed: bool, agree: Any) -> None:
    pads = np.array([0, 0, 1, 2, 0, 1, 2, 0], dtype=I64)
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Pad", ["c", "p"], ["y"], mode=mode)]
    sets = [{"x": _x(2, 3, 5, 6)}, {"x": _x(1, 3, 5, 6)}]
    if computed:
        sets = [{**arrays, "p": pads} for arrays in sets]
    agree(nodes, sets, constants={"w": _x(4, 3, 2, 2), **({} if computed else {"p": pads})},
          free={"x": [0]})  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padded", [[5], [0, 3], [0, 1, 2, 3, 4, 5]])
def test_more_axes_than_the_kernel_takes(mode: str, padded: list[int], agree: Any) -> None:
    pads = [int(axis in padded) for axis in range(6)] * 2
    x = _x(2, 3, 2, 2, 3, 2)
    value = {"v": np.array(2, F)} if mode == "constant" else {}
    agree(_pad(mode, "p", *value), {"x": x}, constants={"p": np.array(pads, dtype=I64), **value},
          expected=[{"y": _expected(x, pads, mode, 2)}])  # fmt: skip


@pytest.mark.parametrize("mode", ["reflect", "wrap"])
def test_further_than_once_around(mode: str, agree: Any) -> None:
    pads = [7, 5]
    x = _x(3)
    agree(_pad(mode, "p"), {"x": x}, constants={"p": np.array(pads, dtype=I64)},
          expected=[{"y": _expected(x, pads, mode)}])  # fmt: skip


def test_computed_padding_of_many_axes_is_refused(agree: Any) -> None:
    arrays = {"x": _x(1, 2, 1, 2, 1, 2), "p": np.ones(12, dtype=I64)}
    with pytest.raises(UnsupportedModelError, match="its rank is 6"):
        agree(_pad("constant", "p"), arrays)
