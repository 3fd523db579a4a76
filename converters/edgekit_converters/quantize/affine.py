"""Integers for reals: real = scale * (integer - zero_point), and which integers and scales to take.

Pure arithmetic on numpy arrays; it knows no model format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.quantize.plan import Range

# What is narrower than this is zero; the scale must stay a normal float32.
_LEAST_SPAN: Final = 1e-30
# Of the extreme. Further below, the squared error may be less still, but large weights are cut that
# the outputs depend on: over the models of docs/quantization.md it costs answers. Above, nothing is
# won.
_SEARCHED_SHARES: Final = np.linspace(0.8, 1.1, 16, dtype=np.float32)
_NIBBLE: Final = 0xF


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """The integers that a tensor's values become.

    Attributes:
        low: The least one in use.
        high: The largest one in use.
        dtype: What they are stored as, a numpy type name, or "int4".
        zero: The one that always stands for zero, half way between; None where the range decides.
    """

    low: int
    high: int
    dtype: str
    zero: int | None = None

    @property
    def reach(self) -> int:
        """How many integers lie above the fixed zero."""
        return self.high - (self.zero or 0)


UINT8: Final = Codes(low=0, high=255, dtype="uint8")
INT8: Final = Codes(low=-128, high=127, dtype="int8")
INT16: Final = Codes(low=-32767, high=32767, dtype="int16", zero=0)
WEIGHTS_INT8: Final = Codes(low=-127, high=127, dtype="int8", zero=0)
WEIGHTS_INT4: Final = Codes(low=-8, high=7, dtype="int4", zero=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """How the integers of one tensor are to be read.

    Attributes:
        scale: A number, or one a channel.
        zero_point: The integer that stands for zero.
        codes: Which integers there are.
    """

    scale: NDArray[np.float32]
    zero_point: int
    codes: Codes

    def integers(self, values: NDArray[Any], axis: int | None = None) -> NDArray[np.int64]:
        """The nearest integers; what lies outside becomes the first or the last one.

        Args:
            values: Of any shape.
            axis: Where the channels are, if there is a scale for each.
        """
        scale = self.scale.astype(np.float64)
        if axis is not None:
            scale = scale.reshape([-1 if at == axis else 1 for at in range(values.ndim)])
        # Halves go to the even neighbour, as the engines' QuantizeLinear does.
        scaled = np.rint(values / scale) + self.zero_point
        return np.asarray(np.clip(scaled, self.codes.low, self.codes.high), np.int64)


def affine_of(span: Range, codes: Codes) -> Affine:
    """The finest reading that holds a range, and zero exactly."""
    low, high = min(span.low, 0.0), max(span.high, 0.0)
    if high - low < _LEAST_SPAN:
        scale, zero = 1.0, codes.low if codes.zero is None else codes.zero
    elif codes.zero is None:
        scale = (high - low) / (codes.high - codes.low)
        zero = min(max(round(codes.low - low / scale), codes.low), codes.high)
    else:
        scale, zero = max(-low, high) / codes.reach, codes.zero
    return Affine(scale=np.asarray(scale, np.float32), zero_point=zero, codes=codes)


def weight_scales(
    weights: NDArray[Any], axis: int | None, codes: Codes, *, search: bool = False
) -> NDArray[np.float32]:
    """One scale a channel, or one for all where there is no axis.

    A channel without weights gets its neighbours' scale.

    Args:
        weights: Finite.
        axis: Where the channels are.
        codes: With a fixed zero.
        search: Whether to look for the scale with the least squared error; else none is clipped.
    """
    rows = _rows(weights, axis)
    largest = np.abs(rows).max(axis=1, initial=0.0)
    scales = largest / codes.reach
    if search:
        scales = _least_error(rows, scales, codes)
    used = scales[scales > _LEAST_SPAN]
    scales[scales <= _LEAST_SPAN] = np.median(used) if used.size else 1.0
    return np.asarray(scales if axis is not None else scales.reshape(()), np.float32)


def weight_affine(scales: NDArray[np.float32], codes: Codes) -> Affine:
    """How weights with these scales are read."""
    return Affine(scale=scales, zero_point=codes.zero or 0, codes=codes)


def quantize_blocks(
    array: NDArray[Any], axis: int, block: int, codes: Codes
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Integers with one scale for every few neighbours along an axis.

    Returns:
        The integers in the array's shape; and the scales, with as many entries along the axis as
        there are blocks, the last one perhaps for fewer neighbours than the others.
    """
    moved = np.moveaxis(array, axis, 0)
    count, rest = -(-moved.shape[0] // block), moved.shape[1:]
    padded = np.zeros((count * block, *rest), np.float32)
    padded[: moved.shape[0]] = moved
    channels = np.moveaxis(padded.reshape(count, block, *rest), 1, -1)
    rows = channels.reshape(-1, block)
    scales = weight_scales(rows, 0, codes, search=True)
    integers = weight_affine(scales, codes).integers(rows, 0).reshape(channels.shape)
    merged = np.moveaxis(integers, -1, 1).reshape(padded.shape)[: moved.shape[0]]
    return (
        np.ascontiguousarray(np.moveaxis(merged, 0, axis)),
        np.ascontiguousarray(np.moveaxis(scales.reshape(count, *rest), 0, axis)),
    )


def widen_for_bias(
    scales: NDArray[np.float32], bias: NDArray[Any], input_scale: float, *, most: float = 2.0**30
) -> NDArray[np.float32]:
    """The weights' scales, larger where the integer of the bias would be more than `most`.

    The integer of a bias has the scale of the products that it is added to; beside very small
    weights, or none, it would overflow, and the engines wrap it around without a word.
    """
    # By itself, half of what an int32 holds is left for the sum of products.
    least = np.abs(bias).astype(np.float64) / (most * input_scale)
    return np.asarray(np.maximum(scales, least), np.float32)


def pack_nibbles(values: NDArray[np.int64]) -> bytes:
    """Two 4-bit integers a byte, the first one in the lower half, as ONNX and LiteRT store them."""
    flat = values.reshape(-1) & _NIBBLE
    if flat.size % 2:
        flat = np.append(flat, 0)
    return (flat[0::2] | flat[1::2] << 4).astype(np.uint8).tobytes()


def _rows(weights: NDArray[Any], axis: int | None) -> NDArray[np.float64]:
    if axis is None:
        return weights.reshape(1, -1).astype(np.float64)
    return np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1).astype(np.float64)


def _least_error(
    rows: NDArray[np.float64], scales: NDArray[np.float64], codes: Codes
) -> NDArray[np.float64]:
    best = scales.copy()
    least = np.full(len(rows), np.inf)
    safe = np.where(scales > _LEAST_SPAN, scales, 1.0)
    for share in _SEARCHED_SHARES:
        tried = safe * share
        low, high = codes.low - (codes.zero or 0), codes.reach
        integers = np.clip(np.rint(rows / tried[:, None]), low, high)
        error = np.square(rows - integers * tried[:, None]).sum(axis=1)
        better = error < least
        least[better] = error[better]
        best[better] = np.where(scales > _LEAST_SPAN, tried, scales)[better]
    return best
