"""Steps along axes: reductions, positions of extremes, sums so far, softmax, normalisations."""

from __future__ import annotations

from typing import Final

import numpy as np

from converters.random_graphs.draft import Draft

_REDUCTIONS: Final = (
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSumExp", "ReduceSumSquare", "ReduceLogSum",
)  # fmt: skip


def _axes(draft: Draft, x: str, count: int) -> list[int]:
    rank = draft.rank(x)
    axes = [int(axis) for axis in draft.rng.permutation(rank)[:count]]
    if draft.opset >= 11 and draft.chance(0.4):
        axes = [axis - rank for axis in axes]
    return axes


def reduction(draft: Draft, x: str) -> list[str]:
    operator = draft.pick(_REDUCTIONS)
    if operator == "ReduceLogSum":
        (x,) = draft.add("Softplus", [x])
    rank = draft.rank(x)
    axes = _axes(draft, x, draft.between(1, rank)) if rank and draft.chance(0.85) else None
    none = axes is None and draft.opset >= 18 and draft.chance(0.3)
    return draft.add(
        operator, [x], axes=None if axes is None else np.array(axes, np.int64),
        keepdims=draft.pick([None, 0, 1]),
        noop_with_empty_axes=1 if none else None,
    )  # fmt: skip


def images_mean(draft: Draft, x: str) -> list[str]:
    """Over height and width, with the axes kept or not."""
    draft.require(draft.rank(x) == 4)
    operator = draft.pick(["ReduceMean", "ReduceMax", "ReduceSum"])
    axes = draft.pick([[2, 3], [3, 2], [-1, -2]] if draft.opset >= 11 else [[2, 3]])
    return draft.add(operator, [x], axes=np.array(axes, np.int64), keepdims=draft.between(0, 1))


def extreme_index(draft: Draft, x: str) -> list[str]:
    last = draft.between(0, 1) if draft.opset >= 12 else None
    axis = draft.axis(x)
    if draft.opset < 11:
        axis %= draft.rank(x)
    operator = draft.pick(["ArgMax", "ArgMin"])
    return draft.add(operator, [x], axis=axis, keepdims=draft.between(0, 1), select_last_index=last)


def running(draft: Draft, x: str) -> list[str]:
    axis = draft.operand(np.asarray(draft.axis(x), draft.pick([np.int64, np.int32])))
    return draft.add(
        "CumSum", [x, axis], exclusive=draft.between(0, 1), reverse=draft.between(0, 1)
    )


def softmax(draft: Draft, x: str) -> list[str]:
    axis = draft.axis(x)
    if draft.opset < 11:
        axis %= draft.rank(x)
    operator = draft.pick(["Softmax", "Softmax", "LogSoftmax", "Hardmax"])
    return draft.add(operator, [x], axis=axis if draft.chance(0.8) else None)


def _channels(draft: Draft, x: str) -> int:
    draft.floats(x)
    shape = draft.shape(x)
    draft.require(len(shape) >= 2 and bool(shape[1]))
    return shape[1] or 1


def _positive(draft: Draft, *shape: int) -> str:
    return draft.constant((np.abs(draft.rng.normal(size=shape)) + 0.5).astype(np.float32))


def batch_norm(draft: Draft, x: str) -> list[str]:
    count = _channels(draft, x)
    inputs = [x, *(draft.weights(count) for _ in range(3)), _positive(draft, count)]
    return draft.add("BatchNormalization", inputs, epsilon=draft.pick([None, 1e-3]))


def instance_norm(draft: Draft, x: str) -> list[str]:
    count = _channels(draft, x)
    return draft.add("InstanceNormalization", [x, draft.weights(count), draft.weights(count)])


def group_norm(draft: Draft, x: str) -> list[str]:
    count = _channels(draft, x)
    groups = draft.pick([size for size in range(1, count + 1) if count % size == 0])
    size = count if draft.opset >= 21 else groups
    return draft.add(
        "GroupNormalization", [x, draft.weights(size), draft.weights(size)], num_groups=groups
    )


def layer_norm(draft: Draft, x: str) -> list[str]:
    draft.floats(x)
    shape = draft.shape(x)
    draft.require(len(shape) >= 2)
    axis = draft.between(1, len(shape) - 1)
    sizes = [size for size in shape[axis:] if size is not None]
    draft.require(len(sizes) == len(shape) - axis)
    operator = draft.pick(["LayerNormalization", "LayerNormalization", "RMSNormalization"])
    inputs = [x, draft.weights(*sizes)]
    if operator == "LayerNormalization" and draft.chance(0.7):
        inputs.append(draft.weights(*sizes))
    return draft.add(operator, inputs, axis=draft.pick([axis, axis - len(shape)]))


def plain_norm(draft: Draft, x: str) -> list[str]:
    draft.floats(x)
    operator = draft.pick(["LpNormalization", "LRN", "MeanVarianceNormalization"])
    if operator == "LRN":
        size = draft.pick([1, 3, 5, 2])
        return draft.add("LRN", [x], size=size, alpha=0.1, beta=0.75, bias=1.0)
    if operator == "LpNormalization":
        return draft.add(operator, [x], axis=draft.axis(x), p=draft.between(1, 2))
    return draft.add(operator, [x], axes=_axes(draft, x, draft.between(1, draft.rank(x))))


STEPS: Final = (
    reduction, reduction, reduction, images_mean, images_mean, extreme_index, running, softmax,
    softmax, batch_norm, instance_norm, group_norm, layer_norm, plain_norm,
)  # fmt: skip
