"""Tensors made of sizes, bounds and places instead of other tensors' elements."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.size_steps import Extent
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import ANYTHING, NUMBERS

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_HOT: Final = frozenset({"float32", "int8", "uint8", "int32", "int64", "bool"})
# SELECT_V2 broadcasts up to this rank.
_MAX_RANK: Final = 6


@lowers("Range", dtypes={"T": NUMBERS | {"bfloat16"}})
def lower_range(build: Builder, node: Node) -> None:
    """Numbers at equal distances; none where the bounds are the wrong way around."""
    steps = Steps(build, node)
    start, limit, delta = (steps.reshape(steps.in_onnx_order(at), ()) for at in range(3))
    shape = build.shape(node.outputs[0])
    if start.dtype == "bfloat16":
        # As ONNX defines it, rounded once.
        start, limit, delta = (steps.cast(bound, "float32") for bound in (start, limit, delta))
    if start.dtype == "float32":
        # RANGE would add up the rounding errors of all steps.
        way = steps.sub(limit, start)
        rest = steps.floor_mod(way, delta)
        whole = steps.round(steps.div(steps.sub(way, rest), delta))
        begun = steps.cast(steps.not_equal(rest, 0.0), "float32")
        count = steps.cast(steps.maximum(steps.add(whole, begun), 0.0), "int32")
        places = steps.cast(steps.iota(count), "float32")
        steps.finish(steps.add(steps.mul(places, delta), start))
        return
    # The kernel refuses bounds that are the wrong way around.
    if delta.data is not None:
        end = steps.maximum(limit, start) if delta.data > 0 else steps.minimum(limit, start)
    else:
        end = steps.select(
            steps.greater(delta, 0), steps.maximum(limit, start), steps.minimum(limit, start)
        )
    steps.finish(steps.step("RANGE", [start, end, delta], shape, start.dtype))


@lowers("ConstantOfShape", dtypes=ANYTHING)
def lower_constant_of_shape(build: Builder, node: Node) -> None:
    """One value everywhere."""
    steps = Steps(build, node)
    shape = build.shape(node.outputs[0])
    value = node.attributes.get("value")
    fill = np.zeros(1, dtype=np.float32) if value is None else np.asarray(value)
    number = fill.reshape(-1)[0]
    if None not in shape:
        sizes = [size or 0 for size in shape]
        build.alias(node, steps.constant(np.full(sizes, number, dtype=fill.dtype), "filled"))
        return
    scalar = steps.constant(np.array(number, dtype=fill.dtype), "value")
    steps.finish(steps.fill(steps.bounded(steps.in_onnx_order(0)), scalar, shape))


@lowers("EyeLike", dtypes={})
def lower_eye_like(build: Builder, node: Node) -> None:
    """Ones on a diagonal, in the shape of a matrix."""
    steps = Steps(build, node)
    offset = node.integer("k", 0)
    dtype = build.graph.dtype(node.outputs[0])
    rows, columns = steps.extents(steps.in_onnx_order(0))
    if isinstance(rows, int) and isinstance(columns, int):
        build.alias(node, steps.constant(np.eye(rows, columns, offset, dtype=dtype), "eye"))
        return
    places = steps.add(steps.coordinates(rows, 0, 2), offset)
    diagonal = steps.equal(places, steps.coordinates(columns, 1, 2))
    if dtype == "uint64":
        steps.finish(steps.bits(steps.cast(diagonal, "int64"), dtype))
    else:
        steps.finish(diagonal)


@lowers("OneHot", dtypes={})
def lower_one_hot(build: Builder, node: Node) -> None:
    """One value where an axis has the index, another one elsewhere."""
    steps = Steps(build, node)
    indices = _as_indices(steps, steps.in_onnx_order(0))
    known = build.known(node, 1)
    depth: Extent
    if known is None:
        depth = steps.reshape(steps.bounded(_as_indices(steps, steps.in_onnx_order(1))), ())
    else:
        depth = int(known.reshape(-1)[0])
    indices = steps.from_the_front(indices, depth)
    values = steps.in_onnx_order(2)
    off, on = (steps.element(values, at) for at in (0, 1))
    shape = build.shape(node.outputs[0])
    axis = node.integer("axis", -1) % len(shape)
    if values.dtype in _HOT:
        inputs = [indices, steps.scalar(depth), on, off]
        steps.finish(steps.step("ONE_HOT", inputs, shape, values.dtype, axis=axis))
        return
    true, false = (steps.constant(np.array(truth), "truth") for truth in (True, False))
    inputs = [indices, steps.scalar(depth), true, false]
    hot = steps.step("ONE_HOT", inputs, shape, "bool", axis=axis)
    steps.finish(steps.select(hot, on, off))


def _as_indices(steps: Steps, tensor: Tensor) -> Tensor:
    """Numbers of any type in one that the kernels take as indices."""
    if tensor.dtype in {"int32", "int64"}:
        return tensor
    if tensor.dtype == "uint64":
        return steps.bits(tensor, "int64")
    return steps.cast(tensor, "int64" if tensor.dtype in {"uint32", "float64"} else "int32")


@lowers("Trilu", dtypes=ANYTHING)
def lower_trilu(build: Builder, node: Node) -> None:
    """The upper or lower triangle of matrices, zero elsewhere."""
    steps = Steps(build, node)
    tensor = steps.in_onnx_order(0)
    upper = bool(node.integer("upper", 1))
    known = build.known(node, 1) if node.input(1) else np.zeros(1, dtype=np.int64)
    shape = tensor.shape
    if len(shape) > _MAX_RANK:
        if shape.count(None) > 1 or None in shape[-2:]:
            raise RefusedNodeError(f"it has rank {len(shape)} and free sizes")
        leading = shape[:-2]
        count = None if None in leading else math.prod(size or 0 for size in leading)
        tensor = steps.reshape(tensor, (count, *shape[-2:]))
    rows, columns = steps.extent(tensor, -2), steps.extent(tensor, -1)
    if known is not None and isinstance(rows, int) and isinstance(columns, int):
        limit = max(rows, columns)
        offset = int(np.clip(known.reshape(-1)[0], -limit, limit))
        ones = np.ones((rows, columns), dtype=bool)
        kept = steps.constant(np.triu(ones, offset) if upper else np.tril(ones, offset), "kept")
    else:
        given = steps.reshape(steps.bounded(steps.in_onnx_order(1)), ()) if node.input(1) else None
        # Above this, every element of a matrix is on one side.
        bound = np.iinfo(np.int32).max // 2
        across = steps.sub(steps.coordinates(columns, 1, 2), steps.coordinates(rows, 0, 2))
        offsets = (
            steps.integers(0)
            if given is None
            else steps.minimum(steps.maximum(given, -bound), bound)
        )
        compare = steps.greater_equal if upper else steps.less_equal
        kept = compare(across, offsets)
    zero = steps.constant(np.zeros((), dtype=tensor.dtype), "zero")
    result = steps.select(kept, tensor, zero)
    steps.finish(steps.reshape(result, shape) if len(shape) > _MAX_RANK else result)
