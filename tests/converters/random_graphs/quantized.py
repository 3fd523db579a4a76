"""Steps around quantized numbers: QDQ pairs, integer products, dynamic quantization."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from converters.random_graphs.draft import Draft


def _scales(draft: Draft, dtype: str, count: int | None) -> tuple[str, str]:
    """A scale and a zero point, or one of each for every channel."""
    size = [] if count is None else [count]
    scale = draft.constant((draft.rng.uniform(0.02, 0.2, size=size)).astype(np.float32))
    low = 0 if dtype.startswith("int") else 100
    zero = np.asarray(draft.rng.integers(low, low + 20, size=size)).astype(dtype)
    return scale, draft.constant(zero if draft.chance(0.6) else np.full_like(zero, low))


def pair(draft: Draft, x: str) -> list[str]:
    """To eight bits and back."""
    draft.floats(x)
    draft.require(draft.opset >= 10)
    dtype = draft.pick(["int8", "uint8", "int8", "uint8"] + ["int16"] * (draft.opset >= 21))
    shape = draft.shape(x)
    axis: int | None = None
    if draft.opset >= 13 and draft.chance(0.3):
        axis = draft.axis(x, known=True)
    scale, zero = _scales(draft, dtype, None if axis is None else shape[axis])
    (q,) = draft.add("QuantizeLinear", [x, scale, zero], axis=axis)
    if draft.chance(0.15):
        return [q]
    if draft.chance(0.2):
        (q,) = draft.add("Transpose", [q])
        draft.require(axis is None)
    return draft.add("DequantizeLinear", [q, scale, zero], axis=axis)


def _weights(draft: Draft, shape: list[int], axis: int) -> str:
    """Stored in eight bits, with a scale for all or for every output."""
    dtype = draft.pick(["int8", "int8", "uint8"])
    low = 0 if dtype == "uint8" else -127
    stored = draft.constant(draft.rng.integers(low, 127, size=shape).astype(dtype))
    by_channel = draft.opset >= 13 and draft.chance(0.5)
    size = [shape[axis]] if by_channel else []
    scale = draft.constant(draft.rng.uniform(0.002, 0.02, size=size).astype(np.float32))
    inputs = [stored, scale]
    if draft.chance(0.7) or dtype == "uint8":
        inputs.append(draft.constant(np.full(size, 128 if dtype == "uint8" else 0, dtype)))
    options: dict[str, Any] = {"axis": axis} if by_channel else {}
    return draft.add("DequantizeLinear", inputs, **options)[0]


def convolution(draft: Draft, x: str) -> list[str]:
    (x,) = pair(draft, x)
    draft.floats(x)
    shape = draft.shape(x)
    draft.require(len(shape) == 4 and bool(shape[1]))
    weights = _weights(draft, [4, shape[1] or 1, 3, 3], 0)
    inputs = [x, weights]
    if draft.chance(0.6):
        inputs.append(draft.weights(4))
    (y,) = draft.add("Conv", inputs, pads=[1, 1, 1, 1])
    if draft.chance(0.5):
        (y,) = draft.add("Relu", [y])
    return pair(draft, y) if draft.chance(0.7) else [y]


def dense(draft: Draft, x: str) -> list[str]:
    (x,) = pair(draft, x)
    draft.floats(x)
    shape = draft.shape(x)
    draft.require(bool(shape) and bool(shape[-1]))
    weights = _weights(draft, [shape[-1] or 1, 3], 1)
    if len(shape) == 2 and draft.chance(0.5):
        (y,) = draft.add("Gemm", [x, weights, draft.weights(3)])
    else:
        (y,) = draft.add("MatMul", [x, weights])
    return pair(draft, y) if draft.chance(0.7) else [y]


def integers(draft: Draft, x: str) -> list[str]:
    """DynamicQuantizeLinear and an integer product, as onnxruntime's dynamic quantization."""
    draft.floats(x)
    shape = draft.shape(x)
    draft.require(draft.opset >= 11 and len(shape) >= 2 and bool(shape[-1]))
    q, scale, zero = draft.add("DynamicQuantizeLinear", [x], 3)
    dtype = draft.pick(["int8", "uint8"])
    stored = draft.constant(draft.array(dtype, [shape[-1] or 1, 3]))
    weights_zero = draft.constant(np.asarray(3, dtype))
    (total,) = draft.add("MatMulInteger", [q, stored, zero, weights_zero])
    (real,) = draft.add("Cast", [total], to=1)
    (factor,) = draft.add("Mul", [scale, draft.constant(np.asarray(0.05, np.float32))])
    return draft.add("Mul", [real, factor])


STEPS: Final = (pair, pair, convolution, convolution, dense, dense, integers)
