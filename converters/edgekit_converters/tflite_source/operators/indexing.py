"""Look numbers up by their indices, and put them there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.tflite_source.border import element_type
from edgekit_converters.tflite_source.builder import known_axis
from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder


@imports("GATHER", inputs=(2, 2), options="GatherOptions", moves=True)
def import_gather(build: Builder) -> None:
    """Along an axis; with batch axes where they end at that axis."""
    source, indices = build.tensor(0), build.tensor(1)
    axis = known_axis(int(build.option("axis")), source.rank)
    batch = int(build.option("batchDims"))
    batch = batch + indices.rank if batch < 0 else batch
    if batch == 0:
        build.emit("Gather", [build.input(0), build.index_value(1)], axis=axis)
    elif batch == axis:
        places = build.node("Unsqueeze", [build.index_value(1), build.sizes([-1], "last")])
        build.emit("GatherND", [build.input(0), places], batch_dims=batch)
    else:
        raise RefusedOperatorError(f"its axis is {axis} and it has {batch} batch axes")


@imports("EMBEDDING_LOOKUP", inputs=(2, 2))
def import_embedding_lookup(build: Builder) -> None:
    """Rows of a table; the indices are the first input."""
    build.emit("Gather", [build.input(1), build.index_value(0)], axis=0)


@imports("GATHER_ND", inputs=(2, 2), moves=True)
def import_gather_nd(build: Builder) -> None:
    """By whole coordinates."""
    build.emit("GatherND", [build.input(0), build.index_value(1)])


@imports("SCATTER_ND", inputs=(3, 3))
def import_scatter_nd(build: Builder) -> None:
    """Into zeros of a given shape; what meets at one place is added."""
    updates = build.input(1)
    zero = build.node("CastLike", [build.store(np.zeros((), np.float32), "zero"), updates])
    blank = build.node("Expand", [zero, build.index_value(2)])
    build.emit("ScatterND", [blank, build.index_value(0), updates], reduction="add")


@imports("ONE_HOT", inputs=(4, 4), options="OneHotOptions")
def import_one_hot(build: Builder) -> None:
    """A new axis with one value at the index and another elsewhere.

    ONNX's own OneHot counts negative indices from the end, where LiteRT has none.
    """
    rank = build.operator.outputs[0].rank
    axis = known_axis(int(build.option("axis", -1)), rank)
    if build.is_constant(1):
        places = build.sizes(list(range(max(build.whole_numbers(1)[0], 0))), "places")
    else:
        ends = [build.store(np.array(n, np.int64), f"end{n}") for n in (0, 1)]
        depth = build.node("Reshape", [build.index_value(1), build.sizes([], "scalar")])
        places = build.node("Range", [ends[0], depth, ends[1]])
    column = build.sizes([-1 if i == axis else 1 for i in range(rank)], "column")
    indices = build.node("Unsqueeze", [build.index_value(0), build.sizes([axis], "axis")])
    hit = build.node("Equal", [indices, build.node("Reshape", [places, column])])
    build.emit("Where", [hit, build.input(2), build.input(3)])


@imports("CAST", inputs=(1, 1))
def import_cast(build: Builder) -> None:
    """To another type; integers are taken as they are stored."""
    order = build.follow()
    kind = element_type(build.operator.outputs[0].dtype)
    if not kind:
        raise RefusedOperatorError(f"it casts to {build.operator.outputs[0].dtype}")
    build.emit("Cast", [build.stored(0, order)], order, to=kind)
