from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node


def _numbers(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


def _parts(spectrum: NDArray[Any]) -> NDArray[np.float32]:
    return np.stack([spectrum.real, spectrum.imag], axis=-1).astype(np.float32)


def _complex(array: NDArray[Any]) -> NDArray[Any]:
    return array[..., 0] + 1j * array[..., 1] if array.shape[-1] == 2 else array[..., 0]


@pytest.mark.parametrize(("parts", "onesided"), [(1, 0), (1, 1), (2, 0)])
@pytest.mark.parametrize("length", [None, 7, 16, 12])
@pytest.mark.parametrize("axis", [1, 2, -2])
@pytest.mark.parametrize("opset", [17, 20])
def test_forwards(
    agree: Any, parts: int, length: int | None, onesided: int, axis: int, opset: int
) -> None:
    x = _numbers(2, 12, 9, parts)
    constants: dict[str, Any] = {}
    if length is not None:
        constants["length"] = np.array(length, dtype=np.int64)
    inputs = ["x", "length" if length is not None else ""]
    attributes = {"onesided": onesided}
    if opset == 17:
        attributes["axis"] = axis
    else:
        inputs.append("axis")
        constants["axis"] = np.array(axis, dtype=np.int64)
    transform = np.fft.rfft if onesided else np.fft.fft
    wanted = _parts(transform(_complex(x), n=length, axis=axis % 4))
    agree(
        node("DFT", inputs, ["y"], **attributes), [{"x": x}, {"x": x[:1]}], constants=constants,
        opset=opset, free={"x": [0]}, expected=[{"y": wanted}, {"y": wanted[:1]}], tolerance=1e-5,
    )  # fmt: skip


def test_the_axis_is_another_by_default_in_older_opsets(agree: Any) -> None:
    x = _numbers(2, 4, 8, 1)
    for opset, axis in ((17, 1), (20, 2)):
        wanted = _parts(np.fft.fft(_complex(x), axis=axis))
        agree(
            node("DFT", ["x"], ["y"]), {"x": x}, opset=opset, expected=[{"y": wanted}],
            tolerance=1e-5,
        )  # fmt: skip


@pytest.mark.parametrize("length", [None, 12, 15])
def test_from_half_a_spectrum(agree: Any, length: int | None) -> None:
    x = _numbers(2, 9, 3, 2)
    # What a real signal has no use for.
    constants = {"axis": np.array(1, dtype=np.int64)}
    if length is not None:
        constants["length"] = np.array(length, dtype=np.int64)
    inputs = ["x", "length" if length is not None else "", "axis"]
    wanted = np.fft.irfft(_complex(x), n=length, axis=1)[..., None].astype(np.float32)
    agree(
        node("DFT", inputs, ["y"], inverse=1, onesided=1), {"x": x}, constants=constants, opset=20,
        expected=[{"y": wanted}], tolerance=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("parts", [1, 2])
def test_backwards(agree: Any, parts: int) -> None:
    x = _numbers(2, 16, parts)
    wanted = _parts(np.fft.ifft(_complex(x), axis=1))
    inverse = node("DFT", ["x"], ["y"], inverse=1)
    agree(inverse, {"x": x}, opset=20, expected=[{"y": wanted}], tolerance=1e-6)


def test_backwards_of_other_lengths_is_refused(agree: Any) -> None:
    inverse = node("DFT", ["x"], ["y"], inverse=1, name="back")
    with pytest.raises(UnsupportedModelError, match=r"back \(DFT\): its inverse has 10 cells"):
        agree(inverse, {"x": _numbers(2, 10, 2)}, opset=20)


def test_mirrored_cells_cancel_out(agree: Any) -> None:
    # A real signal that is its own mirror image has a real spectrum, to the last bit.
    half = _numbers(1, 9, 1)
    x = np.concatenate([half, half[:, 7:0:-1]], axis=1) * np.float32(1e4)
    wanted = _parts(np.fft.fft(_complex(x), axis=1))
    wanted[..., 1] = 0
    agree(node("DFT", ["x"], ["y"]), {"x": x}, opset=20, expected=[{"y": wanted}], tolerance=1e-6)


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("window", [True, False])
def test_short_time(agree: Any, onesided: int, window: bool) -> None:
    x = _numbers(2, 64, 1)
    constants: dict[str, Any] = {"step": np.array(8, dtype=np.int64)}
    if window:
        constants["window"] = np.hanning(16).astype(np.float32)
    else:
        constants["length"] = np.array(16, dtype=np.int64)
    inputs = ["x", "step", "window" if window else "", "length" if not window else ""]
    agree(
        node("STFT", inputs, ["y"], onesided=onesided), [{"x": x}, {"x": x[:1]}],
        constants=constants, opset=17, free={"x": [0]}, tolerance=1e-5,
    )  # fmt: skip


def test_short_time_is_one_product(agree: Any) -> None:
    constants = {
        "step": np.array(8, dtype=np.int64), "window": np.hanning(16).astype(np.float32),
    }  # fmt: skip
    codes = agree(
        node("STFT", ["x", "step", "window"], ["y"], onesided=1), {"x": _numbers(1, 64, 1)},
        constants=constants, opset=17, tolerance=1e-5,
    )  # fmt: skip
    assert [code for code in codes if code != "RESHAPE"] == ["GATHER", "FULLY_CONNECTED"]


def test_long_real_signals_need_no_matrix(agree: Any) -> None:
    x = _numbers(2, 3, 256, 1)
    wanted = _parts(np.fft.rfft(_complex(x), axis=2))
    codes = agree(
        node("DFT", ["x"], ["y"], onesided=1), [{"x": x}, {"x": x[:1]}], opset=20,
        free={"x": [0]}, expected=[{"y": wanted}, {"y": wanted[:1]}], tolerance=1e-4,
    )  # fmt: skip
    assert "RFFT2D" in codes
    assert "FULLY_CONNECTED" not in codes


def test_long_frames_need_no_matrix(agree: Any) -> None:
    constants = {
        "step": np.array(64, dtype=np.int64), "window": np.hanning(256).astype(np.float32),
    }  # fmt: skip
    x = _numbers(2, 1024, 1)
    codes = agree(
        node("STFT", ["x", "step", "window"], ["y"], onesided=1), [{"x": x}, {"x": x[:1]}],
        constants=constants, opset=17, free={"x": [0]}, tolerance=1e-4,
    )  # fmt: skip
    assert "RFFT2D" in codes
