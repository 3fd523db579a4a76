"""Steps that move elements, or take some of them by position: shapes, axes, slices, paddings."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from converters.random_graphs.draft import Draft

_FAR: Final = 2**63 - 1


def transpose(draft: Draft, x: str) -> list[str]:
    order = [int(axis) for axis in draft.rng.permutation(draft.rank(x))]
    return draft.add("Transpose", [x], perm=order if order and draft.chance(0.9) else None)


def image_order(draft: Draft, x: str) -> list[str]:
    """Between channels first and channels last."""
    rank = draft.rank(x)
    draft.require(rank >= 3)
    order = draft.pick([[0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]])
    return draft.add("Transpose", [x], perm=order)


def flatten(draft: Draft, x: str) -> list[str]:
    rank = draft.rank(x)
    low = 0 if draft.opset < 11 else -rank
    return draft.add("Flatten", [x], axis=draft.between(low, rank) if draft.chance(0.5) else None)


def reshape(draft: Draft, x: str) -> list[str]:
    """To numbers, with one size left open, with sizes copied, or all at once."""
    shape = draft.shape(x)
    rank = len(shape)
    if None in shape:
        inner = [size for size in shape[1:] if size is not None]
        draft.require(len(inner) == rank - 1)
        total = math.prod(inner)
        first = draft.pick([size for size in range(1, total + 1) if total % size == 0])
        target = draft.pick(
            [[0, -1], [-1, total], [-1, first, total // first], [0, first, -1], [-1],
             [0, first, total // first]]
        )  # fmt: skip
    else:
        total = math.prod(draft.known_shape(x))
        draft.require(total > 0)
        first = draft.pick([size for size in range(1, total + 1) if total % size == 0])
        target = draft.pick(
            [[first, total // first], [first, -1], [1, first, -1], [-1], [total],
             [first, 1, total // first, 1], [-1, *shape[1:]] if rank else [1], [*shape, 1],
             [0] * (rank - 1) + [-1] if rank > 1 else [1, -1]]
        )  # fmt: skip
    return draft.add("Reshape", [x], shape=np.array(target, np.int64))


def reshape_by_shape(draft: Draft, x: str) -> list[str]:
    """To a shape that is computed from the value's own, as exporters write it."""
    rank = draft.rank(x)
    draft.require(rank >= 2)
    (sizes,) = draft.add("Shape", [x])
    kept = draft.between(1, rank - 1)
    zero, end = draft.constant(np.array([0])), draft.constant(np.array([kept]))
    if draft.opset < 10:
        (first,) = draft.add("Slice", [sizes], starts=[0], ends=[kept])
    elif draft.chance(0.5):
        (first,) = draft.add("Slice", [sizes, zero, end])
    else:
        (first,) = draft.add("Gather", [sizes, draft.constant(np.arange(kept))])
    (target,) = draft.add("Concat", [first, draft.constant(np.array([-1]))], axis=0)
    return draft.add("Reshape", [x, target])


def unsqueeze(draft: Draft, x: str) -> list[str]:
    rank = draft.rank(x)
    draft.require(rank < 6)
    count = draft.between(1, 2)
    axes = [int(axis) for axis in draft.rng.permutation(rank + count)[:count]]
    if draft.chance(0.3) and draft.opset >= 11:
        axes = [axis - rank - count for axis in axes]
    return draft.add("Unsqueeze", [x], axes=np.array(axes, np.int64))


def squeeze(draft: Draft, x: str) -> list[str]:
    ones = [axis for axis, size in enumerate(draft.shape(x)) if size == 1]
    draft.require(bool(ones))
    if draft.chance(0.2):
        return draft.add("Squeeze", [x])
    axes = [draft.pick(ones) - (draft.rank(x) if draft.chance(0.3) and draft.opset >= 11 else 0)]
    return draft.add("Squeeze", [x], axes=np.array(axes, np.int64))


def expand(draft: Draft, x: str) -> list[str]:
    shape = draft.shape(x)
    target = [draft.between(1, 3) if size == 1 else (size or 1) for size in shape]
    target = [1 if draft.chance(0.2) else size for size in target]
    if draft.chance(0.3) and len(shape) < 5:
        target = [2, *target]
    return draft.add("Expand", [x], shape=np.array(target, np.int64))


def tile(draft: Draft, x: str) -> list[str]:
    repeats = [draft.pick([1, 1, 2, 3]) for _ in draft.shape(x)]
    return draft.add("Tile", [x], repeats=np.array(repeats, np.int64))


def sliced(draft: Draft, x: str) -> list[str]:
    """Any start, end and step, within the axis or beyond."""
    shape = draft.shape(x)
    draft.require(bool(shape))
    chosen = [int(axis) for axis in draft.rng.permutation(len(shape))]
    chosen = chosen[: draft.between(1, len(shape))]
    starts, ends, steps = [], [], []
    for axis in chosen:
        size = shape[axis] or 4
        step = draft.pick([1, 1, 1, 2, 3, -1, -2]) if draft.opset >= 10 else 1
        starts.append(draft.between(-size - 1, size) if shape[axis] else draft.pick([0, 1, -2]))
        within = draft.between(-size - 1, size + 1)
        ends.append(draft.pick([within, _FAR] if step > 0 else [within, -_FAR]))
        steps.append(step)
    axes = [
        axis - (len(shape) if draft.chance(0.2) and draft.opset >= 10 else 0) for axis in chosen
    ]
    if draft.opset < 10:
        return draft.add("Slice", [x], axes=axes, starts=starts, ends=ends)
    return draft.add(
        "Slice", [x], starts=np.array(starts), ends=np.array(ends),
        axes=None if chosen == list(range(len(chosen))) and draft.chance(0.3) else np.array(axes),
        steps=None if set(steps) == {1} and draft.chance(0.5) else np.array(steps),
    )  # fmt: skip


def padded(draft: Draft, x: str) -> list[str]:
    shape, rank = draft.shape(x), draft.rank(x)
    draft.require(rank > 0)
    modes = ["constant", "constant", "reflect", "edge"]
    mode = draft.pick([*modes, "wrap"] if draft.opset >= 19 else modes)
    most = 2 if mode in {"constant", "edge"} else 1
    axes = list(range(rank))
    if draft.opset >= 18 and draft.chance(0.3):
        axes = axes[draft.between(0, rank - 1) :]
    low = -1 if mode == "constant" and draft.chance(0.2) else 0
    widths = [
        draft.between(low, most) if (shape[axis] or 4) > most and draft.chance(0.7) else 0
        for axis in (*axes, *axes)
    ]
    number = draft.array(draft.dtype(x), []) if mode == "constant" and draft.chance(0.6) else None
    if draft.opset < 11:
        value = None if number is None else float(number)
        return draft.add("Pad", [x], pads=widths, mode=mode, value=value)
    return draft.add(
        "Pad", [x], mode=mode, pads=np.array(widths, np.int64), constant_value=number,
        axes=np.array(axes, np.int64) if len(axes) < rank else None,
    )  # fmt: skip


def concat(draft: Draft, x: str) -> list[str]:
    axis = draft.axis(x)
    shape, dtype = draft.shape(x), draft.dtype(x)
    place = axis % len(shape)
    parts = [x]
    for _ in range(draft.between(0, 2)):
        kind = draft.pick(["same", "constant", "other"])
        if kind == "constant" and None not in shape[:place] + shape[place + 1 :]:
            sizes = [size or 1 for size in shape]
            sizes[place] = draft.between(1, 3)
            parts.append(draft.constant(draft.array(dtype, sizes)))
        elif kind == "other":
            parts.append(draft.pick([n for n in draft.values if draft.dtype(n) == dtype]))
        else:
            parts.append(x)
    if draft.chance(0.3):
        parts.reverse()
    return draft.add("Concat", parts, axis=axis if draft.opset >= 11 else place)


def split(draft: Draft, x: str) -> list[str]:
    axis = draft.axis(x, known=True, least=2)
    size = draft.shape(x)[axis] or 0
    if draft.opset < 11:
        axis %= draft.rank(x)
    if draft.chance(0.3):
        count = draft.between(2, min(size, 3))
        if draft.opset >= 18:
            return draft.add("Split", [x], count, axis=axis, num_outputs=count)
        draft.require(size % count == 0)
        return draft.add("Split", [x], count, axis=axis)
    first = draft.between(1, size - 1)
    return draft.add("Split", [x], 2, axis=axis, split=np.array([first, size - first], np.int64))


def blocks(draft: Draft, x: str) -> list[str]:
    operator = draft.pick(["DepthToSpace", "SpaceToDepth"])
    mode = draft.pick([None, "DCR", "CRD"]) if operator == "DepthToSpace" else None
    return draft.add(operator, [x], blocksize=2, mode=mode)


def reversed_sequence(draft: Draft, x: str) -> list[str]:
    rank = draft.rank(x)
    draft.require(rank >= 2)
    time, batch = draft.pick([(0, 1), (1, 0)])
    size, length = draft.shape(x)[batch], draft.shape(x)[time]
    draft.require(size is not None and length is not None)
    lengths = draft.rng.integers(1, (length or 1) + 1, size=size or 1)
    return draft.add(
        "ReverseSequence", [x, draft.operand(lengths)], time_axis=time, batch_axis=batch
    )


def triangle(draft: Draft, x: str) -> list[str]:
    offset = np.array(draft.between(-2, 2)) if draft.chance(0.6) else None
    return draft.add("Trilu", [x], k=offset, upper=draft.between(0, 1))


STEPS: Final = (
    transpose, transpose, image_order, image_order, flatten, reshape, reshape, reshape_by_shape,
    unsqueeze, squeeze, expand, tile, sliced, sliced, padded, padded, concat, concat, split, blocks,
    reversed_sequence, triangle,
)  # fmt: skip
