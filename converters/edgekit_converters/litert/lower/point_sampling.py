"""Images and volumes read at computed points between their cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.lower.interpolation import cubic_weights
from edgekit_converters.litert.lower.spatial import known_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit_converters.litert.lower.steps import Steps
    from edgekit_converters.litert.program import Tensor

# How many cells before and behind a point each mode takes.
_REACH: Final = {"linear": 1, "cubic": 2}
_CUBIC_A: Final = -0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How points are read.

    Attributes:
        mode: "nearest", "linear" or "cubic".
        padding: What is beyond the border: "zeros", "border" or "reflection".
        corners: Whether reflection is about the middle of the outermost cells, not their edges.
    """

    mode: str
    padding: str
    corners: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taps:
    """What points are made of along one axis: tensors of shape (*points, taps).

    Attributes:
        cells: As float32; some beyond the border where that reads zero.
        weights: None where the only tap has weight one.
        inside: Which cells are none beyond the border, None where all are inside.
    """

    cells: Tensor
    weights: Tensor | None
    inside: Tensor | None


def read_points(steps: Steps, field: Tensor, points: Sequence[Tensor], reading: Reading) -> Tensor:
    """Read a field at points.

    Args:
        steps: The formula.
        field: (batch, *space, channels); the spatial sizes are known.
        points: One tensor (batch, *points) for each spatial axis, in cells, 0 the first's middle.
        reading: How.

    Returns:
        (batch, *points, channels).
    """
    cells, weights = point_cells(steps, field, points, reading)
    taken = take_cells(steps, field, cells, zero=reading.padding == "zeros")
    count = len(cells.shape) - 1
    if weights is None:
        return steps.squeeze(taken, count)
    return steps.sum(steps.mul(taken, steps.expand_dims(weights, -1)), count)


def point_cells(
    steps: Steps, field: Tensor, points: Sequence[Tensor], reading: Reading
) -> tuple[Tensor, Tensor | None]:
    """The cells that points are made of, counted row by row, and their weights.

    One more cell than the field has stands for the zero beyond its border.

    Returns:
        Two tensors of shape (batch, *points, taps), the first int32.
    """
    sizes = known_sizes(field.shape[1:-1], "input")
    cells = weights = inside = None
    for size, places in zip(sizes, points, strict=True):
        taps = _taps_of(steps, places, size, reading)
        if cells is None:
            cells, weights, inside = taps.cells, taps.weights, taps.inside
            continue
        cells = _combine(steps, steps.mul(cells, float(size)), taps.cells, "ADD")
        if weights is not None and taps.weights is not None:
            weights = _combine(steps, weights, taps.weights, "MUL")
        if inside is not None and taps.inside is not None:
            inside = _combine(steps, inside, taps.inside, "LOGICAL_AND")
    if cells is None:
        raise AssertionError("a field has spatial axes")
    if inside is not None:
        cells = steps.select(inside, cells, float(math.prod(sizes)))
    return steps.cast(cells, "int32"), weights


def take_cells(steps: Steps, field: Tensor, cells: Tensor, *, zero: bool) -> Tensor:
    """The cells of each sample, by their number: (batch, *cells, channels)."""
    batch, *space, channels = field.shape
    area = math.prod(known_sizes(tuple(space), "input"))
    flat = steps.reshape(field, (batch, area, channels))
    if zero:
        flat = steps.pad(flat, [(0, 0), (0, 1), (0, 0)])
        area += 1
    if (batch is None) == (cells.shape[0] is None):
        return steps.gather(flat, cells, 1, batch_dims=1)
    # The runtime allocates a free batch as one before it knows better, which is not the other's.
    count = (cells.shape[0] if batch is None else batch) or 0
    starts = np.arange(count).reshape(-1, *[1] * (len(cells.shape) - 1)) * area
    whole = steps.reshape(flat, (None if batch is None else batch * area, channels))
    return steps.gather(whole, steps.add(cells, steps.integers(starts, "starts")), 0)


def _taps_of(steps: Steps, places: Tensor, size: int, reading: Reading) -> _Taps:
    low, high = (0.0, size - 1.0) if reading.corners else (-0.5, size - 0.5)
    if reading.mode == "nearest":
        places = steps.round(places)
    if reading.padding == "border" and reading.mode != "cubic":
        # A cubic reads on from where the point is, and only its cells are held at the border.
        places = steps.minimum(steps.maximum(places, 0.0), size - 1.0)
    elif reading.padding == "reflection":
        places = _reflect(steps, places, low, high)
    if reading.mode == "nearest":
        return _at_border(steps, steps.expand_dims(places, -1), None, size, reading)
    reach = _REACH[reading.mode]
    base = steps.floor(places)
    rest = steps.expand_dims(steps.sub(places, base), -1)
    offsets = np.arange(1 - reach, reach + 1, dtype=np.float32)
    cells = steps.add(steps.expand_dims(base, -1), steps.constant(offsets, "taps"))
    distance = steps.abs(steps.sub(rest, steps.constant(offsets, "taps")))
    if reading.mode == "linear":
        weights = steps.sub(1.0, distance)
    else:
        weights = cubic_weights(steps, distance, _CUBIC_A)
    return _at_border(steps, cells, weights, size, reading)


def _at_border(
    steps: Steps, cells: Tensor, weights: Tensor | None, size: int, reading: Reading
) -> _Taps:
    if reading.padding == "zeros":
        last = size - 1.0
        inside = steps.logical_and(steps.greater_equal(cells, 0.0), steps.less_equal(cells, last))
        return _Taps(cells=cells, weights=weights, inside=inside)
    if reading.padding == "reflection":
        low, high = (0.0, size - 1.0) if reading.corners else (-0.5, size - 0.5)
        # What is cut off behind the comma is what onnxruntime cuts off.
        cells = steps.floor(_reflect(steps, cells, low, high))
    cells = steps.minimum(steps.maximum(cells, 0.0), size - 1.0)
    return _Taps(cells=cells, weights=weights, inside=None)


def _reflect(steps: Steps, places: Tensor, low: float, high: float) -> Tensor:
    span = high - low
    if span == 0:
        return steps.mul(places, 0.0)
    there_and_back = steps.floor_mod(steps.sub(places, low), 2 * span)
    return steps.add(steps.minimum(there_and_back, steps.sub(2 * span, there_and_back)), low)


def _combine(steps: Steps, outer: Tensor, inner: Tensor, code: str) -> Tensor:
    """Every pair of taps of two axes: (*points, taps of both)."""
    count = (outer.shape[-1] or 0) * (inner.shape[-1] or 0)
    if count == 1:
        return steps.binary(code, outer, inner)
    pairs = steps.binary(code, steps.expand_dims(outer, -1), steps.expand_dims(inner, -2))
    if pairs.shape.count(None) <= 1:
        return steps.reshape(pairs, (*outer.shape[:-1], count))
    # Split off and join again: of a shape of which more is free, RESHAPE cannot be told.
    taps = steps.split(pairs, [1] * (outer.shape[-1] or 0), -2)
    return steps.concat([steps.squeeze(tap, -2) for tap in taps], -1)
