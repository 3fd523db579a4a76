"""Cells in front of and behind an axis: one value, the edge, a mirror image, the other end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.size_steps import Extent
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import ANYTHING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

Pads = list[tuple[int, int]]

_MODES: Final = ("constant", "edge", "reflect", "wrap")
# What the kernels take.
_MAX_PAD_RANK: Final = 5
_MAX_MIRROR_RANK: Final = 6


@lowers("Pad", layout=follow, dtypes=ANYTHING)
def lower_pad(build: Builder, node: Node) -> None:
    """Padding that is positive or negative, known or computed."""
    steps = Steps(build, node)
    mode = node.text("mode", "constant")
    if mode not in _MODES:
        raise RefusedNodeError(f"its mode is {mode!r}, supported: {', '.join(_MODES)}")
    pads = _known_pads(build, node)
    if pads is None:
        steps.finish(_pad_computed(steps, mode))
        return
    tensor = _crop(steps, steps.input(), pads)
    grown = [(max(front, 0), max(back, 0)) for front, back in pads]
    if mode == "constant":
        result = _pad_constant(steps, tensor, grown, _fill(steps, tensor))
    elif mode == "reflect" and _mirrors(tensor, grown):
        sizes = steps.integers([list(pair) for pair in grown], "paddings")
        shape = _grow(tensor.shape, grown)
        result = steps.move("MIRROR_PAD", [tensor, sizes], shape, mode="REFLECT")
    else:
        result = tensor
        for axis, (front, back) in enumerate(grown):
            if front or back:
                result = _repeat(steps, result, axis, front, back, mode)
    if result is steps.input():
        build.alias(node, result)
    else:
        steps.finish(result)


def _known_pads(build: Builder, node: Node) -> Pads | None:
    """The padding of each axis in the order in which the node works, None if it is computed."""
    order = build.layout.work
    pads, chosen = build.known(node, 1), build.known(node, 3)
    if pads is None or (chosen is None and node.input(3)):
        return None
    axes = range(len(order)) if chosen is None else [int(a) % len(order) for a in chosen]
    before, after = (half.astype(int).tolist() for half in np.split(pads.reshape(-1), 2))
    by_axis = dict(zip(axes, zip(before, after, strict=True), strict=True))
    return [by_axis.get(axis, (0, 0)) for axis in order]


def _fill(steps: Steps, tensor: Tensor) -> Tensor | None:
    """The value of the new cells, None for zero."""
    known = steps.build.known(steps.node, 2)
    if known is None:
        return steps.in_onnx_order(2) if steps.node.input(2) else None
    if known.size == 0 or not known.reshape(-1)[0]:
        return None
    return steps.constant(known.reshape(-1)[:1].astype(tensor.dtype), "fill")


def _crop(steps: Steps, tensor: Tensor, pads: Pads) -> Tensor:
    """Without what negative padding takes away."""
    if min((min(pair) for pair in pads), default=0) >= 0:
        return tensor
    begin = [max(-front, 0) for front, _ in pads]
    away = [max(-back, 0) for _, back in pads]
    shape = tuple(
        None if size is None else max(size - first - last, 0)
        for size, first, last in zip(tensor.shape, begin, away, strict=True)
    )
    # An axis that loses nothing at its end is sliced up to where it ends.
    rest = sum(1 << axis for axis, last in enumerate(away) if not last)
    return steps.strided_slice(
        tensor, begin, [-last for last in away], [1] * len(pads), shape, endMask=rest
    )


def _grow(shape: Sequence[int | None], pads: Pads) -> tuple[int | None, ...]:
    return tuple(
        None if size is None else size + front + back
        for size, (front, back) in zip(shape, pads, strict=True)
    )


def _mirrors(tensor: Tensor, pads: Pads) -> bool:
    """Whether one reflection is certainly enough, as LiteRT does it."""
    return len(pads) <= _MAX_MIRROR_RANK and all(
        not any(pair) or (size is not None and max(pair) < size)
        for size, pair in zip(tensor.shape, pads, strict=True)
    )


def _pad_constant(steps: Steps, tensor: Tensor, pads: Pads, fill: Tensor | None) -> Tensor:
    """With one value; neighbouring axes are joined where the kernel has not enough of them."""
    if not any(front or back for front, back in pads):
        return tensor
    if len(pads) <= _MAX_PAD_RANK:
        return _pad_plain(steps, tensor, pads, fill)
    padded = [axis for axis, pair in enumerate(pads) if any(pair)]
    for start in range(0, len(padded), _MAX_PAD_RANK - 1):
        chosen = padded[start : start + _MAX_PAD_RANK - 1]
        part = [pair if axis in chosen else (0, 0) for axis, pair in enumerate(pads)]
        tensor = _pad_joined(steps, tensor, part, fill)
    return tensor


def _pad_plain(steps: Steps, tensor: Tensor, pads: Pads, fill: Tensor | None) -> Tensor:
    inputs = [tensor, steps.integers([list(pair) for pair in pads], "paddings")]
    shape = _grow(tensor.shape, pads)
    if fill is None:
        return steps.move("PAD", inputs, shape)
    return steps.move("PADV2", [*inputs, fill], shape, moved=(0, 2))


def _pad_joined(steps: Steps, tensor: Tensor, pads: Pads, fill: Tensor | None) -> Tensor:
    extents = steps.extents(tensor)
    sizes: list[Extent] = []
    joined: Pads = []
    for extent, (front, back) in zip(extents, pads, strict=True):
        behind_padding = bool(joined) and any(joined[-1])
        if front or back or not joined or (behind_padding and not isinstance(extent, int)):
            sizes.append(extent)
            joined.append((front, back))
            continue
        sizes[-1] = steps.times(sizes[-1], extent)
        if isinstance(extent, int):
            joined[-1] = (joined[-1][0] * extent, joined[-1][1] * extent)
    if len(sizes) > _MAX_PAD_RANK:
        raise RefusedNodeError(f"it pads rank {len(pads)} of free sizes")
    padded = _pad_plain(steps, steps.reshaped(tensor, sizes), joined, fill)
    grown = [
        steps.plus(extent, front + back)
        for extent, (front, back) in zip(extents, pads, strict=True)
    ]
    return steps.reshaped(padded, grown)


def _repeat(
    steps: Steps, tensor: Tensor, axis: int, front: Extent, back: Extent, mode: str
) -> Tensor:
    """Along one axis, cells that are copies of others."""
    size = steps.extent(tensor, axis)
    count = steps.plus(steps.plus(size, front), back)
    if isinstance(size, int) and isinstance(front, int) and isinstance(count, int):
        if size == 0:
            raise RefusedNodeError("there is nothing at an empty axis to copy")
        places = _places(np.arange(-front, count - front), size, mode)
        return steps.gather(tensor, steps.integers(places, "places"), axis)
    at = steps.sub(steps.iota(count), steps.scalar(front))
    last = steps.scalar(steps.minus(size, 1))
    if mode == "wrap":
        computed = steps.floor_mod(at, steps.scalar(size))
    elif mode == "edge":
        computed = steps.minimum(steps.maximum(at, 0), last)
    else:
        period = steps.add(last, last)
        phase = steps.floor_mod(at, steps.maximum(period, 1))
        computed = steps.minimum(phase, steps.sub(period, phase))
    return steps.gather(tensor, computed, axis)


def _places(at: np.ndarray[tuple[int], np.dtype[np.int_]], size: int, mode: str) -> object:
    if mode == "wrap":
        return at % size
    if mode == "edge":
        return at.clip(0, size - 1)
    period = 2 * (size - 1)
    phase = at % max(period, 1)
    return np.minimum(phase, period - phase)


def _pad_computed(steps: Steps, mode: str) -> Tensor:
    """Padding that only the running model knows."""
    tensor = steps.input()
    rank = len(tensor.shape)
    pads = _computed_pads(steps, rank)
    sizes = steps.vector(steps.extents(tensor))
    front, back = (
        steps.reshape(steps.slice(pads, [0, side], [rank, 1]), (rank,)) for side in (0, 1)
    )
    free = (None,) * rank
    begin = steps.maximum(steps.neg(front), 0)
    end = steps.add(sizes, steps.minimum(back, 0))
    tensor = steps.strided_slice(tensor, begin, end, [1] * rank, free)
    if mode == "constant":
        if rank > _MAX_PAD_RANK:
            raise RefusedNodeError(f"its padding is computed and its rank is {rank}")
        fill = _fill(steps, tensor)
        inputs = [tensor, steps.maximum(pads, 0)]
        if fill is None:
            return steps.move("PAD", inputs, free)
        return steps.move("PADV2", [*inputs, fill], free, moved=(0, 2))
    front, back = steps.maximum(front, 0), steps.maximum(back, 0)
    for axis in range(rank):
        before, behind = steps.element(front, axis), steps.element(back, axis)
        tensor = _repeat(steps, tensor, axis, before, behind, mode)
    return tensor


def _computed_pads(steps: Steps, rank: int) -> Tensor:
    """The padding as a matrix (axes in the order in which the node works, front and back)."""
    build, node = steps.build, steps.node
    order = build.layout.work
    pads = steps.bounded(steps.in_onnx_order(1))
    chosen = build.known(node, 3)
    if not node.input(3) or chosen is not None:
        axes = list(range(rank) if chosen is None else (int(axis) % rank for axis in chosen))
        count = len(axes)
        # The cell behind the last one is zero, for axes that are not padded.
        places = [
            [axes.index(axis), count + axes.index(axis)] if axis in axes else [2 * count] * 2
            for axis in order
        ]
        vector = steps.pad(steps.reshape(pads, (2 * count,)), [(0, 1)])
        return steps.gather(vector, steps.integers(places, "places"), 0)
    given = steps.from_the_front(build.operand(node, 3), rank)
    (length,) = given.shape
    if length is None:
        raise RefusedNodeError("the number of its axes is free")
    matches = steps.equal(
        steps.integers([[axis] for axis in order], "axes"), steps.reshape(given, (1, length))
    )
    taken = steps.cast(matches, "int32")
    halves = [
        steps.sum(
            steps.mul(taken, steps.reshape(steps.slice(pads, [at], [length]), (1, length))), 1
        )
        for at in (0, length)
    ]
    return steps.stack(halves, 1)
