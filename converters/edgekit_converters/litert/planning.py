"""Choose the order of axes of every value: along the nodes, with an eye on who reads what.

A convolution decides for itself, an elementwise operator and a Transpose may go either way. They
take the order that costs the fewest transposes, of what they read and for those who read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit_converters.litert.layout import (
    LayoutPlan,
    NodeLayout,
    Permutation,
    as_onnx,
    channels_last,
    channels_last_order,
    follow,
    identity,
    relabel,
)

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.litert.layout import LayoutRule

Wishes = Mapping[str, frozenset[Permutation]]
_IMAGE_RANK = 3


@dataclass(slots=True)
class _Plan:
    values: dict[str, Permutation] = field(default_factory=dict)
    nodes: list[NodeLayout] = field(default_factory=list)


def plan_layout(
    graph: Graph, rules: Mapping[str, LayoutRule], borders: Mapping[str, Permutation]
) -> LayoutPlan:
    """Choose the layout of every value, following the nodes in execution order.

    Args:
        graph: What is planned.
        rules: The layout rule of each operator; one without a rule works as ONNX does.
        borders: The inputs and outputs that are stored otherwise than ONNX has them.
    """
    wishes = wished_orders(graph, rules, borders)
    plan = _Plan()
    for name in graph.inputs:
        plan.values[name] = borders.get(name, identity(len(graph.shape(name) or ())))
    for node in graph.nodes:
        rule = rules.get(node.op, as_onnx)
        if rule is follow:
            layout = _following(node, graph, plan.values, wishes)
        elif rule is relabel:
            layout = _relabelling(node, graph, plan.values, wishes)
        else:
            layout = rule(node, graph, plan.values)
        plan.nodes.append(layout)
        for name in node.outputs:
            rank = len(graph.shape(name) or ())
            plan.values[name] = layout.stored if len(layout.stored) == rank else identity(rank)
    return LayoutPlan(nodes=tuple(plan.nodes), values=plan.values)


def wished_orders(
    graph: Graph, rules: Mapping[str, LayoutRule], borders: Mapping[str, Permutation]
) -> Wishes:
    """In which orders each value is read, at once or behind operators that go either way."""
    wishes: dict[str, set[Permutation]] = {}
    for name in graph.outputs:
        order = borders.get(name, identity(len(graph.shape(name) or ())))
        wishes.setdefault(name, set()).add(order)
    for node in reversed(graph.nodes):
        rule = rules.get(node.op, as_onnx)
        rank = len(graph.shape(node.outputs[0]) or ())
        behind = {order for name in node.outputs for order in wishes.get(name, ())}
        for position, name in enumerate(node.inputs):
            own = len(graph.shape(name) or ())
            if not name or name in graph.constants or own < 2:  # noqa: PLR2004 - nothing to order
                continue
            if rule is follow and own == rank:
                wanted = behind
            elif rule is relabel:
                perm = node.integers("perm") or tuple(reversed(range(rank)))
                wanted = {tuple(perm[axis] for axis in order) for order in behind}
            elif rule is channels_last and position == 0 and own >= _IMAGE_RANK:
                wanted = {channels_last_order(own)}
            else:
                wanted = {identity(own)} if rule is as_onnx else set()
            wishes.setdefault(name, set()).update(wanted)
    return {name: frozenset(orders) for name, orders in wishes.items()}


def _following(
    node: Node, graph: Graph, stored: Mapping[str, Permutation], wishes: Wishes
) -> NodeLayout:
    """An elementwise operator: where nothing else decides, the order of most of its inputs."""
    usual = follow(node, graph, stored)
    rank = len(usual.work)
    inputs = {name: stored[name] for name in node.inputs if name in stored and name}
    votes = Counter(order for order in inputs.values() if len(order) == rank)
    wanted = {order for name in node.outputs for order in wishes.get(name, ())}

    def cost(order: Permutation) -> tuple[int, bool, Permutation]:
        moved = votes.total() - votes[order]
        return moved + len(wanted - {order}), order != usual.work, order

    order = min({usual.work, *votes, *(o for o in wanted if len(o) == rank)}, key=cost)
    return NodeLayout(work=order, stored=order)


def _relabelling(
    node: Node, graph: Graph, stored: Mapping[str, Permutation], wishes: Wishes
) -> NodeLayout:
    """A Transpose: its axes under other names, or moved where readers would move them anyway."""
    free = relabel(node, graph, stored)
    rank = len(free.stored)
    perm = node.integers("perm") or tuple(reversed(range(rank)))
    wanted = wishes.get(node.outputs[0], frozenset())

    def cost(order: Permutation) -> tuple[int, bool, Permutation]:
        return (order != free.stored) + len(wanted - {order}), order != identity(rank), order

    order = min({free.stored, identity(rank), *wanted}, key=cost)
    return NodeLayout(work=tuple(perm[axis] for axis in order), stored=order)
