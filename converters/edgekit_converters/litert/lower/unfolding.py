"""Channels that become cells of space, and cells that are cut off again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit_converters.litert.lower.spatial import (
    IMAGE_RANK,
    SIGNAL_RANK,
    as_planes,
    reshape_like,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit_converters.litert.lower.steps import Steps
    from edgekit_converters.litert.program import Tensor


def unfold(steps: Steps, field: Tensor, phases: Sequence[int], groups: int) -> Tensor:
    """Make neighbours in space of neighbours in the channels.

    Args:
        steps: The formula.
        field: (batch, *space, groups * phases * channels of a group).
        phases: How many cells each spatial axis gets out of one. In the channels the last axis
            runs fastest, but the depth of volumes faster still.
        groups: Into how many the channels are divided.
    """
    count = math.prod(phases)
    if count == 1:
        return field
    channels = (field.shape[-1] or 0) // count
    if groups > 1:
        field = _phases_first(steps, field, groups, count)
    batch, *space, _ = field.shape
    if len(field.shape) == SIGNAL_RANK:
        shape = (batch, _times(space[0], phases[0]), channels)
        return reshape_like(steps, field, shape, field, (1, phases[0], 1))
    if len(field.shape) == IMAGE_RANK:
        return _unfold_image(steps, field, phases)
    depth, *plane = phases
    planes = _unfold_image(steps, as_planes(steps, field), plane)
    _, height, width, inner = planes.shape
    volume = steps.reshape(planes, (batch, space[0], height, width, inner))
    if depth == 1:
        return volume
    area = None if height is None or width is None else height * width
    volume = steps.reshape(volume, (batch, space[0], area, depth, channels))
    volume = steps.transpose(volume, (0, 1, 3, 2, 4))
    return steps.reshape(volume, (batch, _times(space[0], depth), height, width, channels))


def crop(steps: Steps, field: Tensor, axis: int, front: int, behind: int) -> Tensor:
    """Without some cells at both ends of an axis, whose size may be free."""
    if not front and not behind:
        return field
    size = field.shape[axis]
    if size is not None:
        return steps.slice_axis(field, axis, front, size - front - behind)
    rank = len(field.shape)
    begin, end = [0] * rank, [0] * rank
    begin[axis], end[axis] = front, -behind
    others = (1 << rank) - 1 - (1 << axis)
    open_end = others if behind else others | (1 << axis)
    return steps.strided_slice(
        field, begin, end, [1] * rank, field.shape, beginMask=others, endMask=open_end
    )


def _unfold_image(steps: Steps, image: Tensor, phases: Sequence[int]) -> Tensor:
    rows, columns = phases
    batch, height, width, inner = image.shape
    channels = (inner or 0) // (rows * columns)
    shape = (batch, _times(height, rows), _times(width, columns), channels)
    if rows == columns:
        if rows == 1:
            return image
        return steps.step("DEPTH_TO_SPACE", [image], shape, image.dtype, blockSize=rows)
    moved = image
    if rows > 1:
        lines = None if batch is None or height is None else batch * height
        apart = steps.reshape(image, (lines, width, rows, columns * channels))
        moved = steps.transpose(apart, (0, 2, 1, 3))
    return reshape_like(steps, moved, shape, image, (1, rows, columns, 1))


def _phases_first(steps: Steps, field: Tensor, groups: int, phases: int) -> Tensor:
    shape = field.shape
    each = (shape[-1] or 0) // (groups * phases)
    cells = None if None in shape[:-1] else math.prod(size or 0 for size in shape[:-1])
    apart = steps.reshape(field, (cells, groups, phases, each))
    moved = steps.transpose(apart, (0, 2, 1, 3))
    return reshape_like(steps, moved, shape, field, (1,) * len(shape))


def _times(size: int | None, factor: int) -> int | None:
    return None if size is None else size * factor
