"""Recurrent layers: initial states that say no more than their absence does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_graphs import copy_of
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.patterns.registry import recognises

if TYPE_CHECKING:
    from edgekit_converters.patterns.graph import PatternGraph

_STATES: Final = (5, 6)
_MAX_DEPTH: Final = 6
# What has only elements of its first input, or of none.
_MOVERS: Final = frozenset(
    {"Expand", "Reshape", "Slice", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Tile",
     "Gather", "Split"}
)  # fmt: skip


@recognises("LSTM", "GRU", "RNN")
def drop_zero_states(graph: PatternGraph, node: Any) -> Rewrite | None:
    """An initial state of zeros is what a layer starts from anyway.

    It is often computed for a free batch, from the shape of the input; without it that is unread.
    """
    inputs = list(node.input)
    zeros = [at for at in _STATES if at < len(inputs) and _is_zero(graph, inputs[at], _MAX_DEPTH)]
    if not zeros:
        return None
    for position in zeros:
        inputs[position] = ""
    while not inputs[-1]:
        inputs.pop()
    plain = copy_of(node)
    plain.ClearField("input")
    plain.input.extend(inputs)
    return Rewrite(removes=[node], adds=[plain])


def _is_zero(graph: PatternGraph, name: str, depth: int) -> bool:
    """Whether a value is zero throughout, whatever the model is given."""
    from onnx import numpy_helper

    array = graph.constant(name) if name else None
    if array is not None:
        return not np.any(array)
    node = graph.producer(name) if name and depth else None
    if node is None or node.domain:
        return False
    if node.op_type == "ConstantOfShape":
        values = [numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"]
        return not any(np.any(value) for value in values)
    if node.op_type == "Mul":
        numbers = [graph.constant(part) for part in node.input]
        # Zero times what is computed might be zero times infinity.
        return any(_is_zero(graph, part, depth - 1) for part in node.input) and all(
            number is not None and np.all(np.isfinite(number)) for number in numbers
        )
    if node.op_type == "Concat":
        return all(_is_zero(graph, part, depth - 1) for part in node.input)
    return node.op_type in _MOVERS and _is_zero(graph, node.input[0], depth - 1)
