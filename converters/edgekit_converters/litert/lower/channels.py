"""Numbers that belong to channels, and channels in groups, wherever the layout has them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit_converters.litert.lower.builder import RefusedNodeError

if TYPE_CHECKING:
    from edgekit_converters.litert.lower.steps import Steps
    from edgekit_converters.litert.program import Tensor


def channel_position(steps: Steps) -> int:
    """Which axis has the channels, in the order that the node works in."""
    order = steps.build.layout.work
    if len(order) < 2:  # noqa: PLR2004
        raise RefusedNodeError("its input has no channels")
    return order.index(1)


def per_channel(steps: Steps, position: int, groups: int = 0) -> Tensor:
    """An input of one number a channel, shaped to be broadcast with the node's first input.

    Args:
        steps: The formula.
        position: Which input.
        groups: Where not zero, the input may have one number for each of so many groups instead.
    """
    build, node = steps.build, steps.node
    at = channel_position(steps)
    shape = build.shape(node.input(0))
    numbers = build.input(node, position, order=(0,))
    count, channels = numbers.shape[0], shape[1]
    if groups and count == groups != channels:
        if channels is None:
            raise RefusedNodeError("its number of channels is free")
        numbers = steps.tile(steps.reshape(numbers, (groups, 1)), (1, channels // groups))
        count = channels
    return steps.reshape(numbers, tuple(count if axis == at else 1 for axis in range(len(shape))))


def split_groups(steps: Steps, value: Tensor, groups: int) -> tuple[Tensor, list[int]]:
    """Cut the channels into groups, as far as the layout keeps a group's cells together.

    Returns:
        The tensor in another shape, and its axes that are a group's own.
    """
    at = channel_position(steps)
    channels = value.shape[at]
    if channels is None or channels % groups:
        raise RefusedNodeError(f"{channels} channels are not {groups} groups")
    batch = value.shape[0]
    space = [size for axis, size in enumerate(value.shape) if axis not in {0, at}]
    area = None if None in space else math.prod(size or 0 for size in space)
    each = channels // groups
    if at == 1:
        rest = None if area is None else each * area
        return _reshape(steps, value, (batch, groups, rest)), [2]
    if at != len(value.shape) - 1:
        raise RefusedNodeError("its channels are neither first nor last")
    return _reshape(steps, value, (batch, area, groups, each)), [1, 3]


def join_groups(steps: Steps, apart: Tensor, like: Tensor) -> Tensor:
    """Groups in the shape of the tensor that they were cut from."""
    if like.shape.count(None) <= 1:
        return steps.reshape(apart, like.shape)
    return steps.reshape_to(apart, steps.shape_of(like), like.shape)


def _reshape(steps: Steps, value: Tensor, shape: tuple[int | None, ...]) -> Tensor:
    """Into a shape whose first axis is the value's and whose others may be free in one place."""
    if shape.count(None) <= 1:
        return steps.reshape(value, shape)
    first = steps.slice(steps.shape_of(value), [0], [1])
    others = steps.integers([-1 if size is None else size for size in shape[1:]], "groups")
    return steps.reshape_to(value, steps.concat([first, others], 0), shape)
