"""Deformable convolutions: cells read at computed points, then a plain convolution over them."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import channels_last, identity
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.convolution import bias_of, weights_of
from edgekit_converters.litert.lower.convolving import Filters, convolve
from edgekit_converters.litert.lower.point_sampling import Reading, read_points
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import known_sizes
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.lower.window import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_X, _WEIGHTS, _OFFSET, _BIAS, _MASK = range(5)


@lowers("DeformConv", layout=channels_last)
def lower_deformable_convolution(build: Builder, node: Node) -> None:
    """What each cell of the kernel reads becomes a column of an image, which is convolved."""
    steps = Steps(build, node)
    field = steps.input()
    kernel = known_sizes(build.shape(node.input(_WEIGHTS))[2:], "kernel")
    outputs = known_sizes(build.shape(node.input(_OFFSET))[2:], "output")
    taps, places = math.prod(kernel), math.prod(outputs)
    regular = _regular_points(node, kernel, outputs)
    parts = node.integer("offset_group", 1)
    channels = field.shape[-1]
    if channels is None or channels % parts:
        raise RefusedNodeError(f"{channels} channels are not {parts} groups")
    # (batch, places, taps of all parts * axes)
    offsets = _by_place(steps, _OFFSET, places)
    mask = _by_place(steps, _MASK, places) if node.input(_MASK) else None
    read = []
    for part in range(parts):
        own = steps.slice_axis(offsets, -1, part * taps * len(kernel), taps * len(kernel))
        own = steps.reshape(own, (own.shape[0], places * taps, len(kernel)))
        points = [
            steps.add(
                steps.squeeze(steps.slice_axis(own, -1, axis, 1), -1),
                steps.constant(regular[axis], "regular"),
            )
            for axis in range(len(kernel))
        ]
        each = channels // parts
        image = steps.slice_axis(field, -1, part * each, each)
        values = read_points(steps, image, points, Reading(mode="linear", padding="zeros"))
        if mask is not None:
            factor = steps.slice_axis(mask, -1, part * taps, taps)
            values = steps.mul(values, steps.reshape(factor, (mask.shape[0], places * taps, 1)))
        read.append(values)
    columns = steps.concat(read, -1)
    columns = steps.reshape(columns, (field.shape[0], places, taps, channels))
    made = convolve(
        steps,
        columns,
        _filters(build, node, steps, taps),
        _whole_row(places, taps),
        node.integer("group", 1),
    )
    steps.finish(steps.reshape(made, (field.shape[0], *outputs, made.shape[-1])))


def _by_place(steps: Steps, position: int, places: int) -> Tensor:
    """An input that ONNX has as (batch, numbers, *space), as (batch, places, numbers)."""
    name = steps.node.input(position)
    rank = len(steps.build.shape(name))
    tensor = steps.build.input(steps.node, position, order=identity(rank))
    flat = steps.reshape(tensor, (*tensor.shape[:2], places))
    return steps.transpose(flat, (0, 2, 1))


def _regular_points(
    node: Node, kernel: tuple[int, ...], outputs: tuple[int, ...]
) -> list[NDArray[np.float32]]:
    """Where a plain convolution would read along each axis: one number a place and tap."""
    rank = len(kernel)
    strides = node.integers("strides") or (1,) * rank
    dilations = node.integers("dilations") or (1,) * rank
    begins = (node.integers("pads") or (0,) * 2 * rank)[:rank]
    found = []
    for axis in range(rank):
        taps = np.array([tap[axis] for tap in itertools.product(*(range(size) for size in kernel))])
        places = np.array(
            [place[axis] for place in itertools.product(*(range(size) for size in outputs))]
        )
        points = places[:, None] * strides[axis] - begins[axis] + taps * dilations[axis]
        found.append(points.reshape(-1).astype(np.float32))
    return found


def _filters(build: Builder, node: Node, steps: Steps, taps: int) -> Filters:
    weights = weights_of(build, node, _WEIGHTS)
    shape = (weights.shape[0] or 0, 1, taps, weights.shape[-1] or 0)
    row = (
        weights.reshape(shape) if isinstance(weights, np.ndarray) else steps.reshape(weights, shape)
    )
    return Filters(
        kernel=row,
        bias=bias_of(build, node, _BIAS),
        name=node.input(_WEIGHTS),
        bias_name=node.input(_BIAS) or f"{node.outputs[0]}/bias",
    )


def _whole_row(places: int, taps: int) -> Window:
    pair = (0, 0)
    return Window(
        size=(places, taps),
        kernel=(1, taps),
        strides=(1, 1),
        dilations=(1, 1),
        before=pair,
        after=pair,
        extra=pair,
        padding="VALID",
    )
