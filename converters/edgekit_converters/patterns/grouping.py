"""Group normalization as PyTorch's exporters write it: groups reshaped into instances.

ONNX has one operator for it, which onnxruntime takes apart again; the reshaped form is faster
there. Where channels come last, it is the reshapes that cost: they need the channels in front.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.patterns.arithmetic import number_attribute
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.patterns.registry import recognises

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.patterns.graph import PatternGraph

_RESHAPED: Final = 3


@recognises("InstanceNormalization", opset=21, target="litert")
def group_normalization(graph: PatternGraph, node: Any) -> Rewrite | None:
    """(n, c, ...) to (n, groups, rest), each normalised, and back, then scaled and shifted."""
    from onnx import helper

    before = graph.producer(node.input[0], "Reshape")
    after = graph.sole_reader(node.output[0], "Reshape")
    if before is None or after is None or not graph.same_shape(before.input[0], after.output[0]):
        return None
    shape, groups = graph.shape(before.input[0]) or (), graph.shape(node.input[0]) or ()
    if len(groups) != _RESHAPED or len(shape) < _RESHAPED or shape[0] != groups[0]:
        return None
    channels, count = shape[1], groups[1]
    parameters = [graph.constant(name) for name in node.input[1:]]
    if not (isinstance(channels, int) and isinstance(count, int)) or channels % count:
        return None
    scale, shift = (
        None if array is None else array.repeat(channels // count) for array in parameters
    )
    if scale is None or shift is None:
        return None
    result, removes = after.output[0], [before, node, after]
    for operator in ("Mul", "Add"):
        behind = _per_channel(graph, result, operator, channels, len(shape))
        if behind is None:
            continue
        array, reader = behind
        if operator == "Mul":
            scale, shift = scale * array, shift * array
        else:
            shift = shift + array
        removes.append(reader)
        result = reader.output[0]
    names = [graph.fresh(f"{result}/{role}") for role in ("scale", "shift")]
    whole = helper.make_node(
        "GroupNormalization", [before.input[0], *names], [result], name=removes[-1].name,
        num_groups=count, epsilon=number_attribute(node, "epsilon", 1e-5),
    )  # fmt: skip
    constants = dict(zip(names, (scale, shift), strict=True))
    return Rewrite(removes=removes, adds=[whole], constants=constants)


def _per_channel(
    graph: PatternGraph, name: str, operator: str, channels: int, rank: int
) -> tuple[NDArray[Any], Any] | None:
    """A constant that a value is joined to, as one number a channel, and what joins it."""
    reader = graph.sole_reader(name, operator)
    for position in (0, 1) if reader is not None else ():
        array = graph.constant(reader.input[position])
        if array is None or array.dtype != np.float32 or array.ndim > rank:
            continue
        wide = array.reshape((1,) * (rank - array.ndim) + array.shape)
        if wide.size == wide.shape[1] and wide.size in {1, channels}:
            return np.broadcast_to(wide.reshape(-1), (channels,)), reader
    return None
