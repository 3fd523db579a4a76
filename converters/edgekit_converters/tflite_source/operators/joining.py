"""Join tensors, and take them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_converters.tflite_source.builder import known_axis
from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder

_MANY = 1 << 16


@imports("CONCATENATION", inputs=(1, _MANY), options="ConcatenationOptions", moves=True)
def import_concatenation(build: Builder) -> None:
    """Behind each other along an axis."""
    axis = known_axis(int(build.option("axis")), build.operator.outputs[0].rank)
    order = build.follow()
    parts = [build.input(position, order) for position in range(len(build.operator.inputs))]
    build.emit_activated("Concat", parts, order, axis=order.index(axis))


@imports("PACK", inputs=(1, _MANY), options="PackOptions", moves=True)
def import_pack(build: Builder) -> None:
    """Behind each other along a new axis."""
    axis = known_axis(int(build.option("axis")), build.operator.outputs[0].rank)
    place = build.sizes([axis], "axis")
    parts = [
        build.node("Unsqueeze", [build.input(position), place])
        for position in range(len(build.operator.inputs))
    ]
    build.emit("Concat", parts, axis=axis)


@imports("UNPACK", inputs=(1, 1), options="UnpackOptions", moves=True)
def import_unpack(build: Builder) -> None:
    """One output for each index of an axis, which is gone afterwards."""
    axis = known_axis(int(build.option("axis")), build.tensor(0).rank)
    count = len(build.operator.outputs)
    place = build.sizes([axis], "axis")
    value = build.input(0)
    parts = [value]
    if count > 1:
        parts = build.nodes("Split", [value, build.sizes([1] * count, "sizes")], count, axis=axis)
    for position, part in enumerate(parts):
        build.finish(build.node("Squeeze", [part, place]), position=position)


@imports("SPLIT", inputs=(2, 2), moves=True)
def import_split(build: Builder) -> None:
    """Into equal parts; the axis is the first input."""
    source = build.tensor(1)
    axis = build.axes(0, source.rank)[0]
    count, size = len(build.operator.outputs), build.shape(1)[axis]
    if size is not None and size % count:
        raise RefusedOperatorError(f"{size} cannot be split into {count} equal parts")
    build.emit_all("Split", [build.input(1)], axis=axis, num_outputs=count)


@imports("SPLIT_V", inputs=(3, 3), moves=True)
def import_split_v(build: Builder) -> None:
    """Into parts of given sizes, one of which may be -1: the rest."""
    source = build.tensor(0)
    axis = build.axes(2, source.rank)[0]
    if not build.is_constant(1):
        build.emit_all("Split", [build.input(0), build.index_value(1)], axis=axis)
        return
    sizes, whole = build.whole_numbers(1), build.shape(0)[axis]
    if sizes.count(-1) == 1 and whole is not None:
        sizes[sizes.index(-1)] = whole - sum(sizes) - 1
    if min(sizes) < 0 or len(sizes) != len(build.operator.outputs):
        raise RefusedOperatorError(f"its sizes are {sizes}")
    build.emit_all("Split", [build.input(0), build.sizes(sizes, "sizes")], axis=axis)
