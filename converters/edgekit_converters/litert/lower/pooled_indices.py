"""MaxPool with the places of the largest cells, and MaxUnpool, which puts them back there."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.lower.spatial import known_sizes, windows_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgekit_converters.litert.lower.steps import Steps
    from edgekit_converters.litert.lower.window import Window
    from edgekit_converters.litert.program import Tensor


def pool_with_indices(
    steps: Steps, field: Tensor, window: Window, *, columnwise: bool
) -> tuple[Tensor, Tensor]:
    """The largest cell of every window, and its number among all cells of the input.

    Args:
        steps: The formula.
        field: (batch, *space, channels).
        window: Over the spatial axes.
        columnwise: Whether cells are numbered with the first spatial axis running fastest.

    Returns:
        Two tensors of shape (batch, *space, channels), the second int32.
    """
    size = known_sizes(window.size, "input")
    counts = known_sizes(windows_in(window), "output")
    batch, channels = field.shape[0], field.shape[-1]
    cells, area = _cells_of_windows(window, size, counts), int(np.prod(size))
    count, taps = cells.shape
    flat = steps.reshape(field, (batch, area, channels))
    taken = steps.gather(flat, steps.integers(cells, "cells"), 1)
    largest = steps.max(taken, 2)
    winner = steps.arg_max(taken, 2)
    # A window's row in the table of cells, and the winner's place in it.
    rows = np.arange(count)[:, None] * taps
    place = steps.add(winner, steps.integers(rows, "rows"))
    numbers = steps.integers(_numbered(cells, size, columnwise=columnwise).ravel(), "numbers")
    indices = steps.gather(numbers, place, 0)
    planes = plane_starts(steps, field, area)
    shape = (batch, *counts, channels)
    return (
        steps.reshape(largest, shape),
        steps.reshape(steps.add(indices, planes), shape),
    )


def plane_starts(steps: Steps, field: Tensor, area: int) -> Tensor:
    """How many cells come before each channel of each sample: (batch, 1, channels), int32."""
    batch, channels = field.shape[0], field.shape[-1] or 0
    within = np.arange(channels)[None, None] * area
    if batch is not None:
        starts = np.arange(batch)[:, None, None] * channels * area
        return steps.integers(starts + within, "planes")
    size = steps.reshape(steps.slice(steps.shape_of(field), [0], [1]), ())
    samples = steps.step("RANGE", [steps.number(0, "int32"), size, steps.number(1, "int32")],
                         (None,), "int32")  # fmt: skip
    before = steps.mul(steps.reshape(samples, (None, 1, 1)), channels * area)
    return steps.add(before, steps.integers(within, "planes"))


def _cells_of_windows(
    window: Window, size: Sequence[int], counts: Sequence[int]
) -> NDArray[np.int64]:
    """The cells of each window, counted row by row: (windows, taps).

    In place of a cell beyond the border stands the window's first cell that is not.
    """
    axes = []
    for axis, count in enumerate(counts):
        starts = np.arange(count) * window.strides[axis] - window.before[axis]
        taps = np.arange(window.kernel[axis]) * window.dilations[axis]
        places = starts[:, None] + taps
        inside = (places >= 0) & (places < size[axis])
        first = np.take_along_axis(places, inside.argmax(axis=1)[:, None], axis=1)
        axes.append(np.clip(np.where(inside, places, first), 0, size[axis] - 1))
    cells = np.zeros((1, 1), dtype=np.int64)
    for places, length in zip(axes, size, strict=True):
        wide = cells[:, None, :, None] * length + places[None, :, None, :]
        cells = wide.reshape(cells.shape[0] * places.shape[0], -1)
    return cells


def _numbered(
    cells: NDArray[np.int64], size: Sequence[int], *, columnwise: bool
) -> NDArray[np.int64]:
    if not columnwise:
        return cells
    places = np.unravel_index(cells, tuple(size))
    steps = itertools.accumulate((1, *size[:-1]), lambda first, second: first * second)
    return np.asarray(
        sum(place * step for place, step in zip(places, steps, strict=True)), dtype=np.int64
    )
