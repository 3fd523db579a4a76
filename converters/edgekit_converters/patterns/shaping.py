"""Reshapes, transposes and expansions in a row, or in pairs that undo each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_graphs import copy_of
from edgekit_converters.patterns.arithmetic import (
    integer_attribute,
    integers_attribute,
    reduced_axes,
)
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.patterns.registry import recognises
from edgekit_converters.sizes.rules import broadcast
from edgekit_converters.sizes.size import number

if TYPE_CHECKING:
    from edgekit_converters.patterns.graph import PatternGraph

_RESHAPES: Final = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_ELEMENTWISE: Final = (
    "Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Exp", "Log", "Sqrt", "Erf", "Clip", "HardSwish",
    "HardSigmoid", "LeakyRelu", "Elu", "Gelu", "Softplus", "Reciprocal", "Cast", "Floor", "Ceil",
)  # fmt: skip
_BROADCASTING: Final = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where")
_REDUCTIONS: Final = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2",
    "ReduceLogSumExp",
)  # fmt: skip
_STEPS: Final = 4
_MAX_CHAIN: Final = 8


@recognises("Reshape")
def reshape_once(graph: PatternGraph, node: Any) -> Rewrite | None:
    """A Reshape of what was only reshaped needs the last shape alone."""
    target = graph.constant(node.input[1])
    before = graph.producer(node.input[0], *_RESHAPES)
    if target is None or before is None or graph.uses(node.input[0]) != 1:
        return None
    # Zero copies a size of the input, and so needs that very input.
    if 0 in target and not integer_attribute(node, "allowzero", 0):
        return None
    plain = copy_of(node)
    plain.input[0] = before.input[0]
    return Rewrite(removes=[before, node], adds=[plain])


@recognises("Reshape", "Expand", "Flatten")
def drop_idle_reshape(graph: PatternGraph, node: Any) -> Rewrite | None:
    """A Reshape or Expand to the shape that the value has."""
    if not graph.same_shape(node.input[0], node.output[0]):
        return None
    return Rewrite(removes=[node], same={node.output[0]: node.input[0]})


@recognises("Transpose")
def transpose_once(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Two transposes are one, or none."""
    from onnx import helper

    rank = graph.rank(node.output[0])
    if rank is None:
        return None
    order = _order(node, rank)
    if order == tuple(range(rank)):
        return Rewrite(removes=[node], same={node.output[0]: node.input[0]})
    before = graph.producer(node.input[0], "Transpose")
    if before is None:
        return None
    first = _order(before, rank)
    joined = tuple(first[axis] for axis in order)
    source = before.input[0]
    # The first one stays where others read it; what is left reads its input.
    removes = [before, node] if graph.uses(node.input[0]) == 1 else [node]
    if joined == tuple(range(rank)):
        return Rewrite(removes=removes, same={node.output[0]: source})
    if len(removes) == 1:
        return None
    plain = helper.make_node("Transpose", [source], node.output, name=node.name, perm=joined)
    return Rewrite(removes=removes, adds=[plain])


@recognises("Transpose")
def cancel_transposes(graph: PatternGraph, node: Any) -> Rewrite | None:
    """A pair of transposes that undo each other, with operators on single elements between."""
    rank = graph.rank(node.output[0])
    chain: list[Any] = []
    name = node.input[0]
    while (
        len(chain) < _MAX_CHAIN
        and graph.uses(name) == 1
        and (step := graph.producer(name, *_ELEMENTWISE)) is not None
    ):
        chain.append(step)
        name = step.input[0]
    first = graph.producer(name, "Transpose")
    if rank is None or not chain or first is None or graph.uses(name) != 1:
        return None
    order, back = _order(first, rank), _order(node, rank)
    if tuple(order[axis] for axis in back) != tuple(range(rank)):
        return None
    adds, alike, source = [], {}, first.input[0]
    for position, step in enumerate(reversed(chain), start=1):
        copy = copy_of(step)
        copy.input[0] = source
        last = position == len(chain)
        source = node.output[0] if last else graph.fresh(f"{step.output[0]}/straight")
        if not last and step.op_type != "Cast":
            alike[source] = first.input[0]
        copy.output[0] = source
        adds.append(copy)
    return Rewrite(removes=[first, *chain, node], adds=adds, alike=alike)


@recognises("Expand")
def leave_broadcasting_to_reader(graph: PatternGraph, node: Any) -> Rewrite | None:
    """An Expand whose only reader broadcasts to the same shape by itself."""
    source, result = node.input[0], node.output[0]
    reader = graph.sole_reader(result, *_BROADCASTING)
    if reader is None:
        return None
    plain = copy_of(reader)
    for position, name in enumerate(plain.input):
        if name == result:
            plain.input[position] = source
    shape = broadcast([graph.sizes(name) for name in plain.input])
    if shape is None or None in shape or shape != graph.sizes(reader.output[0]):
        return None
    return Rewrite(removes=[node, reader], adds=[plain])


@recognises("Slice")
def drop_idle_slice(graph: PatternGraph, node: Any) -> Rewrite | None:
    """A Slice that takes everything, as exporters write for [:, :]."""
    if not graph.same_shape(node.input[0], node.output[0]):
        return None
    steps = graph.constant(node.input[4]) if len(node.input) > _STEPS else np.ones(1)
    if steps is None or np.any(steps < 0):
        return None
    return Rewrite(removes=[node], same={node.output[0]: node.input[0]})


@recognises("Unsqueeze", "Reshape")
def keep_reduced_axes(graph: PatternGraph, node: Any) -> Rewrite | None:
    """A reduction whose axes are put back keeps them in the first place."""
    from onnx import helper

    before = graph.producer(node.input[0], *_REDUCTIONS)
    if before is None or graph.uses(node.input[0]) != 1:
        return None
    if integer_attribute(before, "keepdims", 1):
        return None
    plain = copy_of(before)
    kept = [attribute for attribute in plain.attribute if attribute.name != "keepdims"]
    plain.ClearField("attribute")
    plain.attribute.extend([*kept, helper.make_attribute("keepdims", 1)])
    plain.output[0] = node.output[0]
    axes, shape = reduced_axes(graph, plain), graph.sizes(before.input[0])
    if axes is None or shape is None:
        return None
    wide = tuple(number(1) if axis in axes else size for axis, size in enumerate(shape))
    if None in wide or wide != graph.sizes(node.output[0]):
        return None
    return Rewrite(removes=[before, node], adds=[plain])


def _order(node: Any, rank: int) -> tuple[int, ...]:
    return integers_attribute(node, "perm") or tuple(reversed(range(rank)))
