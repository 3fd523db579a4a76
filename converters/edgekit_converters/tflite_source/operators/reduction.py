"""Reductions along axes, running sums, and the places of the largest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekit_converters.tflite_source.border import element_type
from edgekit_converters.tflite_source.builder import known_axis
from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import identity

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder
    from edgekit_converters.tflite_source.values import Order

_REDUCTIONS: Final = {
    "MEAN": "ReduceMean", "REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd", "SUM": "ReduceSum",
}  # fmt: skip
_LOGICAL: Final = {"REDUCE_ALL": "ReduceMin", "REDUCE_ANY": "ReduceMax"}


@imports(*_REDUCTIONS, inputs=(2, 2), options="ReducerOptions")
def import_reduction(build: Builder) -> None:
    """Reductions that ONNX has under another name."""
    order, axes, keep = _plan(build)
    value = build.input(0, order)
    build.emit(
        _REDUCTIONS[build.operator.code],
        [value, axes],
        order if keep else None,
        keepdims=int(keep),
        noop_with_empty_axes=1,
    )


@imports(*_LOGICAL, inputs=(2, 2), options="ReducerOptions")
def import_logical_reduction(build: Builder) -> None:
    """All or any, as the least or the largest of zeros and ones."""
    from onnx import TensorProto

    order, axes, keep = _plan(build)
    ones = build.node("Cast", [build.input(0, order)], to=TensorProto.INT32)
    reduced = build.node(
        _LOGICAL[build.operator.code], [ones, axes], keepdims=int(keep), noop_with_empty_axes=1
    )
    build.emit("Cast", [reduced], order if keep else None, to=TensorProto.BOOL)


@imports("ARG_MAX", "ARG_MIN", inputs=(2, 2))
def import_arg(build: Builder) -> None:
    """The place of the first largest or smallest."""
    axis = build.axes(1, build.tensor(0).rank)[0]
    op = "ArgMax" if build.operator.code == "ARG_MAX" else "ArgMin"
    found = build.node(op, [build.input(0)], axis=axis, keepdims=0)
    build.emit("Cast", [found], to=element_type(build.operator.outputs[0].dtype))


@imports("TOPK_V2", inputs=(2, 2))
def import_top_k(build: Builder) -> None:
    """The largest of the last axis, in order, and their places."""
    count = build.index_value(1)
    shape = build.sizes([1], "one")
    values, places = build.nodes(
        "TopK", [build.input(0), build.node("Reshape", [count, shape])], 2, axis=-1
    )
    build.finish(values)
    if len(build.operator.outputs) > 1:
        kind = element_type(build.operator.outputs[1].dtype)
        build.finish(build.node("Cast", [places], to=kind), position=1)


@imports("CUMSUM", inputs=(2, 2), options="CumsumOptions")
def import_cumsum(build: Builder) -> None:
    """The running sum along an axis."""
    axis = build.index_value(1)
    if build.is_constant(1):
        axis = build.sizes([build.axes(1, build.tensor(0).rank)[0]], "axis")
    build.emit(
        "CumSum",
        [build.input(0), axis],
        exclusive=int(bool(build.option("exclusive", default=False))),
        reverse=int(bool(build.option("reverse", default=False))),
    )


def _plan(build: Builder) -> tuple[Order, str, bool]:
    """The order to work in, the axes in that order, and whether they stay as ones."""
    rank = build.tensor(0).rank
    keep = bool(build.option("keepDims", default=False))
    if not build.is_constant(1):
        return identity(rank), build.index_value(1), keep
    axes = [known_axis(axis, rank) for axis in build.whole_numbers(1)]
    order = build.order(0)
    kept = [axis for axis in order if axis not in axes]
    # Without the reduced axes the others must be in the file's order.
    if not keep and kept != sorted(kept):
        order = identity(rank)
    return order, build.sizes(sorted({order.index(axis) for axis in axes}), "axes"), keep
