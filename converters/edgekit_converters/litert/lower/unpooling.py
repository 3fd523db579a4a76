"""What puts cells back where they came from: MaxUnpool and Col2Im."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import identity
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.folding_steps import FoldingSteps
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import known_sizes
from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor


@lowers("MaxUnpool", dtypes={"T1": frozenset({"float32"})})
def lower_max_unpool(build: Builder, node: Node) -> None:
    """Segments of one cell each; where several fall into one, the largest stays."""
    steps = Steps(build, node)
    value = steps.input()
    rank = len(value.shape) - 2
    kernel = node.integers("kernel_shape") or (1,) * rank
    strides = node.integers("strides") or (1,) * rank
    pads = node.integers("pads") or (0,) * (2 * rank)
    channels, *size = known_sizes(value.shape[1:], "input")
    whole = [
        (cells - 1) * strides[axis] - pads[axis] - pads[axis + rank] + kernel[axis]
        for axis, cells in enumerate(size)
    ]
    wanted = known_sizes(build.shape(node.outputs[0])[2:], "output")
    each = channels * math.prod(whole)
    batch = value.shape[0]
    if batch is None:
        measured = steps.reshape(steps.slice(steps.shape_of(value), [0], [1]), ())
        total = steps.mul(measured, each)
    else:
        total = steps.integers(batch * each, "total")
    numbers = steps.flatten(
        steps.cast(build.input(node, 1, order=identity(len(value.shape))), "int32")
    )
    count = None if batch is None else batch * each
    placed = steps.step(
        "UNSORTED_SEGMENT_MAX", [steps.flatten(value), numbers, total], (count,), "float32"
    )
    # An empty segment holds the lowest number there is.
    placed = steps.select(steps.equal(placed, float(np.finfo(np.float32).min)), 0.0, placed)
    # Cells are numbered in what the pooling saw; a larger output has it in its first corner, as
    # ONNX's own cases have it.
    field = steps.reshape(placed, (batch, channels, *whole))
    if any(made < cells for made, cells in zip(wanted, whole, strict=True)):
        raise RefusedNodeError(f"its output {list(wanted)} is smaller than {whole}")
    grown = [(0, made - cells) for made, cells in zip(wanted, whole, strict=True)]
    steps.finish(steps.pad(field, [(0, 0), (0, 0), *grown]))


@lowers("Col2Im")
def lower_columns_to_image(build: Builder, node: Node) -> None:
    """Sums of what falls into each cell of the image."""
    steps = FoldingSteps(build, node)
    value = steps.input()
    channels, *image = known_sizes(build.shape(node.outputs[0])[1:], "output")
    rows, columns = known_sizes(value.shape[1:], "input")
    taps = rows // channels
    area = math.prod(image)
    cells = _cells_of_columns(build, node, steps, (taps, columns), image)
    batch = value.shape[0]
    planes = None if batch is None else batch * channels
    # The cells first, whose number every sample and channel shares.
    flat = steps.transpose(steps.reshape(value, (planes, taps * columns)), (1, 0))
    summed = steps.step(
        "UNSORTED_SEGMENT_SUM",
        [flat, steps.reshape(cells, (taps * columns,)), steps.integers(area + 1, "cells")],
        (area + 1, planes),
        "float32",
    )
    kept = steps.transpose(steps.slice_axis(summed, 0, 0, area), (1, 0))
    steps.finish(steps.reshape(kept, (batch, channels, *image)))


def _cells_of_columns(
    build: Builder, node: Node, steps: FoldingSteps, size: tuple[int, int], image: list[int]
) -> Tensor:
    """The cell of the image for each tap of each column, one behind it for none: int32."""
    rank = len(image)
    strides = node.integers("strides") or (1,) * rank
    dilations = node.integers("dilations") or (1,) * rank
    pads = node.integers("pads") or (0,) * (2 * rank)
    block = _numbers(build, node, steps, 2, rank)
    tap = steps.integers(np.arange(size[0])[:, None], "taps")
    column = steps.integers(np.arange(size[1])[None], "columns")
    cells = steps.integers(0, "cells")
    inside = steps.constant(np.ones((), dtype=bool), "inside")
    scale = 1
    # From the innermost axis outwards, as both taps and columns are counted.
    for axis in reversed(range(rank)):
        padded = image[axis] + pads[axis] + pads[axis + rank]
        reach = steps.add(steps.mul(steps.sub(block[axis], 1), dilations[axis]), 1)
        starts = steps.add(steps.floor_div(steps.sub(padded, reach), strides[axis]), 1)
        place = steps.mul(steps.floor_mod(column, starts), strides[axis])
        shift = steps.mul(steps.floor_mod(tap, block[axis]), dilations[axis])
        place = steps.sub(steps.add(place, shift), pads[axis])
        column = steps.floor_div(column, starts)
        tap = steps.floor_div(tap, block[axis])
        within = steps.logical_and(steps.greater_equal(place, 0), steps.less(place, image[axis]))
        inside = steps.logical_and(inside, within)
        cells = steps.add(cells, steps.mul(place, scale))
        scale *= image[axis]
    return steps.select(inside, cells, scale)


def _numbers(
    build: Builder, node: Node, steps: FoldingSteps, position: int, count: int
) -> list[Tensor]:
    """An input of so many integers as scalars, constant or computed."""
    known = build.known(node, position)
    if known is not None:
        return [steps.integers(int(number), "number") for number in known.reshape(-1)]
    vector = steps.cast(build.input(node, position, order=(0,)), "int32")
    return [steps.reshape(steps.slice(vector, [at], [1]), ()) for at in range(count)]
