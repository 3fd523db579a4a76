"""RoiAlign: regions of an image, read at points of a grid that is laid over each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import channels_last
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import known_sizes
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import FLOAT

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """The grid of all regions along one axis.

    Attributes:
        start: Where each region begins, in cells: (regions,).
        extent: How large it is: (regions,).
        size: Of the image.
        bins: Cells of the output.
        samples: Points a bin, 0 where the region's size decides.
    """

    start: Tensor
    extent: Tensor
    size: int
    bins: int
    samples: int


@lowers("RoiAlign", layout=channels_last, dtypes={"T1": FLOAT})
def lower_roi_align(build: Builder, node: Node) -> None:
    """The mean of a bin's points as two products of matrices, the largest by gathering them."""
    steps = Steps(build, node)
    image = steps.input()
    sizes = known_sizes(image.shape[1:3], "input")
    mode = node.text("mode", "avg")
    bins = (node.integer("output_height", 1), node.integer("output_width", 1))
    samples = node.integer("sampling_ratio", 0)
    rows, columns = _grids(build, node, steps, sizes, bins, max(samples, 0))
    numbers = steps.cast(build.input(node, 2, order=(0,)), "int32")
    if mode == "max":
        if samples <= 0:
            raise RefusedNodeError("how many points it compares depends on the regions")
        steps.finish(_largest(steps, image, numbers, rows, columns))
    elif mode == "avg":
        steps.finish(_mean(steps, image, numbers, rows, columns))
    else:
        raise RefusedNodeError(f"its mode is {mode!r}")


@lowers("MaxRoiPool", dtypes=FLOAT)
def refuse_max_roi_pool(build: Builder, node: Node) -> None:  # noqa: ARG001
    """Windows whose sizes are computed are none of LiteRT's poolings."""
    raise RefusedNodeError("the sizes of its windows are computed; RoiAlign can be converted")


def _grids(
    build: Builder,
    node: Node,
    steps: Steps,
    sizes: tuple[int, ...],
    bins: tuple[int, int],
    samples: int,
) -> tuple[_Grid, _Grid]:
    # Before opset 16, half a cell was not taken off; the attribute that says so is written out.
    mode = node.text("coordinate_transformation_mode", "output_half_pixel")
    aligned = mode == "half_pixel"
    corners = steps.mul(build.input(node, 1, order=(0, 1)), node.number("spatial_scale", 1.0))
    if aligned:
        corners = steps.sub(corners, 0.5)
    left, top, right, bottom = (
        steps.squeeze(steps.slice_axis(corners, 1, place, 1), 1) for place in range(4)
    )
    grids = []
    for axis, (start, end) in enumerate(((top, bottom), (left, right))):
        extent = steps.sub(end, start)
        if not aligned:
            extent = steps.maximum(extent, 1.0)
        grids.append(
            _Grid(start=start, extent=extent, size=sizes[axis], bins=bins[axis], samples=samples)
        )
    return grids[0], grids[1]


def _points(steps: Steps, grid: _Grid) -> tuple[Tensor, Tensor]:
    """The points of every bin, and the share of each in its bin's mean: (regions, bins, points).

    A point outside the image has no share.
    """
    width = _per_region(steps, steps.mul(grid.extent, 1.0 / grid.bins))
    starts = steps.mul(width, steps.constant(np.arange(grid.bins, dtype=np.float32)[:, None]))
    starts = steps.add(starts, _per_region(steps, grid.start))
    if grid.samples:
        places = (np.arange(grid.samples, dtype=np.float32) + 0.5) / grid.samples
        points = steps.add(starts, steps.mul(width, steps.constant(places[None, None])))
        share = steps.select(_meets(steps, points, grid), steps.number(1.0 / grid.samples), 0.0)
        return points, share
    count = steps.ceil(width)
    gap = steps.div(width, steps.maximum(count, 1.0))
    # Points are at least half a cell apart where there is more than one. Those before the image
    # are skipped, and then so many cover it.
    first = steps.ceil(steps.sub(steps.div(steps.sub(-1.0, starts), gap), 0.5))
    first = steps.maximum(first, 0.0)
    most = 2 * (grid.size + 1) + 2
    number = steps.add(first, steps.constant(np.arange(most, dtype=np.float32)[None, None]))
    points = steps.add(starts, steps.mul(steps.add(number, 0.5), gap))
    counted = steps.logical_and(steps.less(number, count), _meets(steps, points, grid))
    share = steps.div(1.0, steps.maximum(count, 1.0))
    return points, steps.select(counted, share, 0.0)


def _meets(steps: Steps, points: Tensor, grid: _Grid) -> Tensor:
    return steps.logical_and(
        steps.greater_equal(points, -1.0), steps.less_equal(points, float(grid.size))
    )


def _mean(steps: Steps, image: Tensor, numbers: Tensor, rows: _Grid, columns: _Grid) -> Tensor:
    """Rows and columns weighted one after the other: (regions, bins, bins, channels)."""
    batch, height, width, channels = image.shape
    across, down = _matrix(steps, columns), _matrix(steps, rows)
    regions = down.shape[0]
    if batch == 1:
        chosen = steps.reshape(image, (height, width, channels))
        # One image is not copied for every region.
        weighted = steps.matmul(steps.expand_dims(across, 1), chosen)
    else:
        weighted = steps.matmul(steps.expand_dims(across, 1), steps.gather(image, numbers, 0))
    flat = steps.reshape(weighted, (regions, height, columns.bins * (channels or 0)))
    made = steps.matmul(down, flat)
    return steps.reshape(made, (regions, rows.bins, columns.bins, channels))


def _matrix(steps: Steps, grid: _Grid) -> Tensor:
    """How much each cell of an axis counts in each bin: (regions, bins, size)."""
    points, share = _points(steps, grid)
    held = steps.minimum(steps.maximum(points, 0.0), grid.size - 1.0)
    cells = steps.constant(np.arange(grid.size, dtype=np.float32))
    distance = steps.abs(steps.sub(steps.expand_dims(held, -1), cells))
    near = steps.maximum(steps.sub(1.0, distance), 0.0)
    return steps.sum(steps.mul(near, steps.expand_dims(share, -1)), 2)


def _largest(steps: Steps, image: Tensor, numbers: Tensor, rows: _Grid, columns: _Grid) -> Tensor:
    """The largest of all weighted cells of a bin's points, as onnxruntime defines it."""
    batch, height, width, channels = image.shape
    row_cells, row_weights = _taps(steps, rows)
    column_cells, column_weights = _taps(steps, columns)
    # Every row with every column of a region: five axes.
    row_cells, row_weights = (
        steps.expand_dims(steps.expand_dims(tensor, 2), -1) for tensor in (row_cells, row_weights)
    )
    column_cells, column_weights = (
        steps.expand_dims(steps.expand_dims(tensor, 1), -2)
        for tensor in (column_cells, column_weights)
    )
    cells = steps.add(steps.mul(row_cells, float(width or 0)), column_cells)
    weights = steps.mul(row_weights, column_weights)
    area = (height or 0) * (width or 0)
    regions, taps = cells.shape[0], 4 * rows.samples * columns.samples
    shape = (regions, rows.bins * columns.bins, taps)
    starts = steps.reshape(steps.mul(numbers, area), (regions, 1, 1))
    places = steps.add(steps.cast(steps.reshape(cells, shape), "int32"), starts)
    flat = steps.reshape(image, (None if batch is None else batch * area, channels))
    taken = steps.mul(
        steps.gather(flat, places, 0), steps.expand_dims(steps.reshape(weights, shape), -1)
    )
    return steps.reshape(steps.max(taken, 2), (regions, rows.bins, columns.bins, channels))


def _taps(steps: Steps, grid: _Grid) -> tuple[Tensor, Tensor]:
    """Both cells around every point, and their weights: (regions, bins, points * 2)."""
    points, share = _points(steps, grid)
    held = steps.minimum(steps.maximum(points, 0.0), grid.size - 1.0)
    below = steps.floor(held)
    rest = steps.sub(held, below)
    above = steps.minimum(steps.add(below, 1.0), grid.size - 1.0)
    counts = steps.mul(share, float(grid.samples))
    shape = (points.shape[0], grid.bins, 2 * grid.samples)
    weights = [steps.mul(steps.sub(1.0, rest), counts), steps.mul(rest, counts)]
    return (
        steps.reshape(steps.stack([below, above], -1), shape),
        steps.reshape(steps.stack(weights, -1), shape),
    )


def _per_region(steps: Steps, numbers: Tensor) -> Tensor:
    return steps.reshape(numbers, (numbers.shape[0], 1, 1))
