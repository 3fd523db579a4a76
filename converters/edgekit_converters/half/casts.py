"""Tidy the casts of a half-converted graph: none that undoes another, none twice, all in order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

from edgekit_converters.half.element_types import captured
from edgekit_converters.onnx_graphs import bodies_of


def cast_captured(model: Any, halved: set[str]) -> None:
    """Let bodies, which stay in float32, read what has become float16 outside through a cast.

    Args:
        model: Its bodies are rewritten.
        halved: The values of the outermost graph that are float16.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    made: dict[str, str] = {}
    for node in list(graph.node):
        for name in sorted(captured(node) & halved):
            if name not in made:
                made[name] = f"{name}/float32"
                graph.node.append(
                    helper.make_node(
                        "Cast", [name], [made[name]], name=made[name], to=TensorProto.FLOAT
                    )
                )
        rename_inside(node, made)


def tidy_casts(graph: Any, *, stand_ins: set[str]) -> None:
    """Take out casts that cancel each other, and bring the nodes into order.

    A number that goes to float16 and back in between two float32 nodes would be rounded for
    nothing.

    Args:
        graph: Changed in place.
        stand_ins: Names of Identity nodes that were put in only for the conversion.
    """
    _cancel(graph, stand_ins)
    _share(graph)
    _drop_unread(graph)
    sort_nodes(graph)


def sort_nodes(graph: Any) -> None:
    """Bring nodes into an order of execution, as near to the present one as possible.

    What bodies read from outside counts, too.
    """
    nodes = list(graph.node)
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    waits: list[set[int]] = []
    followers: list[list[int]] = [[] for _ in nodes]
    for place, node in enumerate(nodes):
        needed = {makers[name] for name in _reads(node) if name in makers}
        waits.append(needed)
        for maker in needed:
            followers[maker].append(place)
    ready = [place for place, needed in enumerate(waits) if not needed]
    heapq.heapify(ready)
    order = []
    while ready:
        place = heapq.heappop(ready)
        order.append(nodes[place])
        for follower in followers[place]:
            waits[follower].discard(place)
            if not waits[follower]:
                heapq.heappush(ready, follower)
    del graph.node[:]
    graph.node.extend(order)


def _cancel(graph: Any, stand_ins: set[str]) -> None:
    from onnx import TensorProto

    makers = {name: node for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    for node in graph.node:
        if _target(node) != TensorProto.FLOAT:
            continue
        maker = makers.get(node.input[0])
        while maker is not None and maker.name in stand_ins:
            maker = makers.get(maker.input[0])
        if maker is None or _target(maker) != TensorProto.FLOAT16:
            continue
        whole, shown = maker.input[0], node.output[0]
        if shown not in outputs:
            renamed[shown] = whole
        elif whole in makers and whole not in outputs:
            # The output keeps its name: its maker takes it over.
            _rename(makers[whole], {whole: shown}, outputs=True)
            renamed[whole] = shown
            node.output[0] = f"{shown}/unused"
            makers[shown] = makers.pop(whole)
    final = {name: _last(renamed, name) for name in renamed}
    for node in graph.node:
        _rename(node, final)


def _share(graph: Any) -> None:
    """Casts of one value to one type become one."""
    outputs = {value.name for value in graph.output}
    first: dict[tuple[str, int], str] = {}
    renamed: dict[str, str] = {}
    for node in graph.node:
        target = _target(node)
        if target is None or node.output[0] in outputs:
            continue
        shared = first.setdefault((node.input[0], target), node.output[0])
        if shared != node.output[0]:
            renamed[node.output[0]] = shared
    for node in graph.node:
        _rename(node, renamed)


def _drop_unread(graph: Any) -> None:
    """Casts and stand-ins that nobody reads any more."""
    while True:
        read = {name for node in graph.node for name in _reads(node)}
        read |= {value.name for value in graph.output}
        unread = [
            place
            for place, node in enumerate(graph.node)
            if node.op_type in {"Cast", "Identity"} and not read.intersection(node.output)
        ]
        for place in reversed(unread):
            del graph.node[place]
        if not unread:
            return


def _target(node: Any) -> int | None:
    """The type that a cast casts to; None for other nodes."""
    if node.op_type != "Cast":
        return None
    return next((int(a.i) for a in node.attribute if a.name == "to"), None)


def _reads(node: Any) -> Iterator[str]:
    yield from (name for name in node.input if name)
    yield from captured(node)


def _last(renamed: dict[str, str], name: str) -> str:
    while name in renamed:
        name = renamed[name]
    return name


def _rename(node: Any, names: dict[str, str], *, outputs: bool = False) -> None:
    for field in (node.input, node.output) if outputs else (node.input,):
        for place, name in enumerate(field):
            if name in names:
                field[place] = names[name]
    rename_inside(node, names)


def rename_inside(node: Any, names: dict[str, str]) -> None:
    """Rename what the bodies of a node read from outside."""
    if not names:
        return
    for body in bodies_of(node):
        inside = {value.name for value in body.input} | {t.name for t in body.initializer}
        inside |= {name for inner in body.node for name in inner.output}
        outside = {old: new for old, new in names.items() if old not in inside}
        for inner in body.node:
            _rename(inner, outside)
