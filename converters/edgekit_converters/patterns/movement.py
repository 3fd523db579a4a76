"""Rows of Reshape and Transpose written as the fewest, through dense layers where that helps.

Attention is exported with the batch in front of the steps or behind them, and moves it back and
forth. What a dense layer does to the last axis is the same before and after other axes move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit_converters.patterns.arithmetic import integer_attribute
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.patterns.moves import (
    MOVERS,
    DenseLayer,
    Row,
    Steps,
    dense_layer_of,
    follow,
    known_sizes,
    movements_up_to,
)
from edgekit_converters.patterns.registry import recognises
from edgekit_converters.sizes.movement import Movement
from edgekit_converters.sizes.size import number

if TYPE_CHECKING:
    from edgekit_converters.patterns.graph import PatternGraph


@recognises(*MOVERS)
def merge_movements(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Reshapes and transposes in a row, where fewer do the same."""
    row = movements_up_to(graph, node.output[0])
    if row is None or len(row.nodes) == 1:
        return None
    source, result = known_sizes(graph, row.source), known_sizes(graph, node.output[0])
    if source is None or result is None:
        return None
    movement = Movement(source)
    told = follow(graph, movement, row) and movement.shape == result
    plan = movement.plan()
    if not told or plan.cost >= row.cost:
        return None
    if plan.cost == (0, 0):
        return Rewrite(removes=row.nodes, same={node.output[0]: row.source})
    steps = Steps(graph=graph, name=row.source, label=node.name or node.output[0])
    if not steps.move(plan, result):
        return None
    return steps.instead_of(row.nodes, node.output[0])


@recognises(*MOVERS)
def merge_movements_around_layer(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Movements before and behind a dense layer, joined on the side where they cost less."""
    behind = movements_up_to(graph, node.output[0])
    layer = None if behind is None else dense_layer_of(graph, behind.source)
    if behind is None or layer is None or graph.uses(layer.source) != 1:
        return None
    before = movements_up_to(graph, layer.source)
    if before is None:
        return None
    found = [
        steps
        for joined in (_joined_before, _joined_behind)
        if (steps := joined(graph, before, layer, behind)) is not None
    ]
    if not found:
        return None
    steps = min(found, key=lambda steps: _cost(steps.nodes))
    if _cost(steps.nodes) >= _cost((*before.nodes, *behind.nodes)):
        return None
    return steps.instead_of([*before.nodes, *layer.nodes, *behind.nodes], node.output[0])


def _joined_before(
    graph: PatternGraph, before: Row, layer: DenseLayer, behind: Row
) -> Steps | None:
    """Both movements, then the layer; the one behind must leave the layer's axis alone."""
    source, middle = known_sizes(graph, before.source), known_sizes(graph, layer.source)
    wide, result = known_sizes(graph, behind.source), known_sizes(graph, behind.nodes[-1].output[0])
    if source is None or middle is None or wide is None or result is None:
        return None
    second = Movement(wide)
    if not follow(graph, second, behind) or not second.keeps_last_axis():
        return None
    movement = Movement(source)
    if not follow(graph, movement, before) or not follow(graph, movement, behind, width=middle[-1]):
        return None
    steps = Steps(graph=graph, name=before.source, label=behind.nodes[-1].output[0])
    if not steps.move(movement.plan(), (*result[:-1], middle[-1])):
        return None
    steps.compute(layer)
    return steps


def _joined_behind(
    graph: PatternGraph, before: Row, layer: DenseLayer, behind: Row
) -> Steps | None:
    """The layer, then both movements; the one before must leave the layer's axis alone."""
    source, wide = known_sizes(graph, before.source), known_sizes(graph, behind.source)
    result = known_sizes(graph, behind.nodes[-1].output[0])
    if not source or not wide or result is None:
        return None
    first = Movement(source)
    if not follow(graph, first, before) or not first.keeps_last_axis():
        return None
    movement = Movement((*source[:-1], wide[-1]))
    told = follow(graph, movement, before, width=wide[-1]) and follow(graph, movement, behind)
    if not told or movement.shape != result:
        return None
    plan = movement.plan()
    steps = Steps(graph=graph, name=before.source, label=behind.nodes[-1].output[0])
    steps.compute(layer)
    return steps if steps.move(plan, result) else None


def _cost(nodes: Any) -> tuple[int, int]:
    """How many transposes, and how many movements."""
    names = [node.op_type for node in nodes]
    return names.count("Transpose"), sum(name in MOVERS for name in names)


@recognises("Gather")
def select_weights(graph: PatternGraph, node: Any) -> Rewrite | None:
    """One of the parts that a dense layer computes together becomes a layer of its own.

    Queries, keys and values are often one product, which is moved and then taken apart. Done where
    every part is moved once more, so that each of them moves but once.
    """
    axis = _selected_axis(graph, node)
    row = movements_up_to(graph, node.input[0])
    layer = None if row is None else dense_layer_of(graph, row.source)
    if axis is None or row is None or layer is None or not _all_parts_move(graph, node, axis):
        return None
    source, whole = known_sizes(graph, row.source), known_sizes(graph, node.input[0])
    chosen = graph.scalar(node.input[1])
    if source is None or whole is None or chosen is None or not whole[axis].known:
        return None
    count = whole[axis].factor
    each = source[-1].over(number(count))
    if each is None:
        return None
    # The parts as an axis of their own, which must arrive as the very axis that they are taken of.
    movement = Movement((*source[:-1], number(count), each))
    told = follow(graph, movement, row) and movement.drop(len(source) - 1, axis)
    if not told or movement.shape != known_sizes(graph, node.output[0]):
        return None
    steps = Steps(graph=graph, name=layer.source, label=node.output[0])
    steps.compute(layer.part(int(chosen) % count, count))
    if not steps.move(movement.plan(), movement.shape):
        return None
    return steps.instead_of([node], node.output[0])


def _selected_axis(graph: PatternGraph, node: Any) -> int | None:
    """The axis of which a Gather takes one element, None where it does anything else."""
    rank = graph.rank(node.input[0])
    if not rank or graph.rank(node.input[1]) != 0 or graph.scalar(node.input[1]) is None:
        return None
    return integer_attribute(node, "axis", 0) % rank


def _all_parts_move(graph: PatternGraph, node: Any, axis: int) -> bool:
    """Whether all that read a moved value take a part of one axis, and transpose that part."""
    readers = graph.readers(node.input[0])
    for reader in readers:
        if reader.op_type != "Gather" or _selected_axis(graph, reader) != axis:
            return False
        mover = graph.sole_reader(reader.output[0], *MOVERS)
        while mover is not None and mover.op_type != "Transpose":
            mover = graph.sole_reader(mover.output[0], *MOVERS)
        if mover is None:
            return False
    return graph.uses(node.input[0]) == len(readers)
