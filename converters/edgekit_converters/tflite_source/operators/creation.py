"""Tensors made from sizes: shapes, ranges, fillings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.tflite_source.border import element_type
from edgekit_converters.tflite_source.registry import imports

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder


@imports("SHAPE", inputs=(1, 1))
def import_shape(build: Builder) -> None:
    """The sizes of a tensor."""
    found = build.node("Shape", [build.stored(0)])
    kind = build.operator.outputs[0].dtype
    if kind == "int64":
        build.finish(found)
    else:
        build.emit("Cast", [found], to=element_type(kind))


@imports("RANK", inputs=(1, 1))
def import_rank(build: Builder) -> None:
    """How many axes a tensor has."""
    build.emit("Identity", [build.store(np.array(build.tensor(0).rank, dtype=np.int32), "rank")])


@imports("RANGE", inputs=(3, 3))
def import_range(build: Builder) -> None:
    """From a start to before a limit, by a step."""
    build.emit("Range", [build.input(position) for position in range(3)])


@imports("FILL", inputs=(2, 2), moves=True)
def import_fill(build: Builder) -> None:
    """One value in a given shape."""
    build.emit("Expand", [build.input(1), build.index_value(0)])


@imports("ZEROS_LIKE", inputs=(1, 1))
def import_zeros_like(build: Builder) -> None:
    """Zeros in a tensor's shape."""
    build.emit("Expand", [build.scalar(0.0), build.node("Shape", [build.stored(0)])])
