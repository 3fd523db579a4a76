"""Operators that change a tensor's shape or the order of its axes, and no number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_converters.tflite_source.builder import known_axis
from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError, identity

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder


@imports("RESHAPE", inputs=(1, 2), moves=True)
def import_reshape(build: Builder) -> None:
    """To the shape of the second input, or of the options where there is none."""
    if not build.has(1):
        shape = [int(size) for size in build.option("newShape", ())]
        _reshape(build, shape)
    elif build.is_constant(1):
        _reshape(build, build.whole_numbers(1))
    else:
        build.emit("Reshape", [build.input(0), build.index_value(1)], allowzero=1)


@imports("SQUEEZE", inputs=(1, 1), moves=True)
def import_squeeze(build: Builder) -> None:
    """Without some axes of size one, or without all."""
    source = build.tensor(0)
    named = build.option("squeezeDims", None)
    axes = [known_axis(int(axis), source.rank) for axis in (() if named is None else named)]
    axes = axes or [axis for axis, size in enumerate(build.shape(0)) if size == 1]
    if len(set(axes)) != source.rank - build.operator.outputs[0].rank:
        raise RefusedOperatorError("which axes it removes is not known in advance")
    build.emit("Squeeze", [build.input(0), build.sizes(sorted(set(axes)), "axes")])


@imports("EXPAND_DIMS", inputs=(2, 2), moves=True)
def import_expand_dims(build: Builder) -> None:
    """With one more axis of size one."""
    axis = known_axis(build.whole_numbers(1)[0], build.tensor(0).rank + 1)
    build.emit("Unsqueeze", [build.input(0), build.sizes([axis], "axes")])


@imports("TRANSPOSE", inputs=(2, 2), moves=True)
def import_transpose(build: Builder) -> None:
    """In another order of axes: that is a different reading of the same value."""
    perm = build.whole_numbers(1)
    rank = build.tensor(0).rank
    if sorted(perm) != list(range(rank)):
        raise RefusedOperatorError(f"its order {perm} is no order of {rank} axes")
    build.emit("Transpose", [build.input(0)], perm=perm)


@imports("TILE", inputs=(2, 2), moves=True)
def import_tile(build: Builder) -> None:
    """Repeated along each axis."""
    build.emit("Tile", [build.input(0), build.index_value(1)])


@imports("BROADCAST_TO", inputs=(2, 2), moves=True)
def import_broadcast(build: Builder) -> None:
    """Repeated along axes of size one."""
    build.emit("Expand", [build.input(0), build.index_value(1)])


def _reshape(build: Builder, shape: list[int]) -> None:
    order = build.order(0)
    source = build.tensor(0)
    # Where only axes of size one are in another place, the numbers lie in the file's order.
    wide = [axis for axis in order if source.shape[axis] != 1]
    if wide != sorted(wide):
        order = identity(source.rank)
    value = build.input(0, order)
    zero = 1 if 0 in shape else None
    build.emit("Reshape", [value, build.sizes(shape, "shape")], allowzero=zero)
