"""Steps that take or put elements by index."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.random_graphs.draft import Draft


def _indices(draft: Draft, size: int, shape: list[int], *, negative: bool = True) -> NDArray[Any]:
    low = -size if negative and draft.opset >= 11 and draft.chance(0.5) else 0
    dtype = draft.pick([np.int64, np.int64, np.int32])
    return np.asarray(draft.rng.integers(low, size, size=shape)).astype(dtype)


def gather(draft: Draft, x: str) -> list[str]:
    axis = draft.axis(x, least=2)
    size = min(array.shape[axis] for array in draft.values[x])
    negative = draft.shape(x)[axis] is not None
    indices = _indices(draft, size, draft.pick([[], [2], [2, 3], [1], [3]]), negative=negative)
    return draft.add("Gather", [x, draft.operand(indices)], axis=axis)


def gather_elements(draft: Draft, x: str) -> list[str]:
    shape = draft.known_shape(x)
    axis = draft.axis(x)
    sizes = list(shape)
    sizes[axis] = draft.between(1, 4)
    return draft.add(
        "GatherElements", [x, draft.operand(_indices(draft, shape[axis], sizes))], axis=axis
    )


def gather_nd(draft: Draft, x: str) -> list[str]:
    shape = draft.known_shape(x)
    draft.require(bool(shape))
    depth = draft.between(1, len(shape))
    columns = [_indices(draft, size, [3]).astype(np.int64) for size in shape[:depth]]
    return draft.add("GatherND", [x, draft.operand(np.stack(columns, axis=-1))])


def scatter_elements(draft: Draft, x: str) -> list[str]:
    shape = draft.known_shape(x)
    axis = draft.axis(x)
    sizes = [draft.between(1, size) for size in shape]
    place = axis % len(shape)
    sizes[place] = 1
    reduction = None
    if draft.opset >= 16:
        reduction = draft.pick(["none", "add", "mul"] + (["max", "min"] * (draft.opset >= 18)))
    updates = draft.operand(draft.array(draft.dtype(x), sizes))
    indices = draft.operand(_indices(draft, shape[axis], sizes).astype(np.int64))
    return draft.add("ScatterElements", [x, indices, updates], axis=axis, reduction=reduction)


def scatter_nd(draft: Draft, x: str) -> list[str]:
    shape = draft.known_shape(x)
    draft.require(bool(shape))
    depth = draft.between(1, len(shape))
    # One place each: the order of updates is no one's to define.
    first = draft.rng.permutation(shape[0])[: draft.between(1, shape[0])]
    columns = [first, *(draft.rng.integers(0, size, size=len(first)) for size in shape[1:depth])]
    indices = draft.operand(np.stack(columns, axis=-1))
    updates = draft.operand(draft.array(draft.dtype(x), [len(first), *shape[depth:]]))
    reduction = draft.pick(["none", "add", "mul"]) if draft.opset >= 16 else None
    return draft.add("ScatterND", [x, indices, updates], reduction=reduction)


def one_hot(draft: Draft, x: str) -> list[str]:
    count = draft.between(2, 5)
    indices = draft.operand(_indices(draft, count, draft.pick([[3], [2, 2], []])))
    depth = draft.operand(np.asarray(draft.pick([count, [count]])))
    values = draft.operand(draft.array(draft.pick(["float32", "int64", "int32"]), [2]))
    return draft.add("OneHot", [indices, depth, values], axis=draft.pick([None, -1, 0]))


def compressed(draft: Draft, x: str) -> list[str]:
    axis = draft.axis(x, known=True, least=2)
    size = draft.shape(x)[axis] or 0
    condition = draft.operand(np.arange(size) % 2 == draft.between(0, 1))
    return draft.add("Compress", [x, condition], axis=axis if draft.opset >= 11 else None)


def non_zero(draft: Draft, x: str) -> list[str]:
    (found,) = draft.add("NonZero", [x])
    return draft.add("Cast", [found], to=1) if draft.chance(0.5) else [found]


def range_of(draft: Draft, x: str) -> list[str]:
    dtype = draft.pick(["int64", "int32", "float32"])
    start, step = draft.between(-3, 3), draft.pick([1, 2, -1])
    bounds = [start, start + step * draft.between(1, 5), step]
    return draft.add("Range", [draft.operand(np.asarray(bound, dtype)) for bound in bounds])


def top(draft: Draft, x: str) -> list[str]:
    axis = draft.axis(x, least=2)
    count = draft.between(1, min(array.shape[axis] for array in draft.values[x]))
    values, places = draft.add(
        "TopK", [x], 2, k=np.array([count], np.int64), axis=axis if draft.opset >= 11 else None,
        largest=draft.between(0, 1) if draft.opset >= 11 else None,
    )  # fmt: skip
    return draft.pick([[values], [places], [values, places]])


def shape_of(draft: Draft, x: str) -> list[str]:
    if draft.opset < 15:
        return draft.add(draft.pick(["Shape", "Size"]), [x])
    start, end = draft.pick([(None, None), (1, None), (0, -1), (-2, None), (0, 1)])
    return draft.add("Shape", [x], start=start, end=end)


def filled(draft: Draft, x: str) -> list[str]:
    """A tensor of a value's shape, made from its Shape."""
    from onnx import numpy_helper

    (sizes,) = draft.add("Shape", [x])
    number = numpy_helper.from_array(draft.array(draft.pick(["float32", "int64"]), [1]))
    return draft.add("ConstantOfShape", [sizes], value=number)


STEPS: Final = (
    gather, gather, gather_elements, gather_nd, scatter_elements, scatter_nd, one_hot, compressed,
    non_zero, range_of, top, top, shape_of, filled,
)  # fmt: skip
