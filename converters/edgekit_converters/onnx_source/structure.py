"""Check who makes and who reads each value: nothing missing, nothing twice, no circle."""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Iterable, Iterator
from typing import Any, Final

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS
from edgekit_converters.onnx_source.walk import (
    Scope,
    bodies,
    call_key,
    function_key,
    label,
    scopes,
)

# What onnxruntime's official builds have beside ONNX's own.
_KNOWN_DOMAINS: Final = STANDARD_DOMAINS | {"ai.onnx.ml", "com.microsoft"}
_SHOWN_OF_A_CIRCLE: Final = 8


def text_faults(model: Any) -> list[str]:
    """Names that are no text; protobuf hands them out as bytes and nothing else could use them."""
    strange = [text for text in _texts(model) if not isinstance(text, str)]
    return [f"a name is no UTF-8 text: {strange[0]!r}"] if strange else []


def unknown_operators(model: Any) -> list[str]:
    """Every operator of a domain that nothing here knows and the model does not define itself."""
    functions = {function_key(function) for function in model.functions}
    return [
        scope.at(f"{node.name or next(filter(None, node.output), '?')} ({call_key(node)})")
        for scope in scopes(model)
        for node in scope.body.node
        if node.domain not in _KNOWN_DOMAINS and call_key(node) not in functions
    ]


def name_faults(model: Any) -> list[str]:
    """Values that nothing makes, that two make, and nodes in a circle; in every graph."""
    faults = _circle_faults(Scope(place="", body=model.graph))
    faults += _graph_faults(Scope(place="", body=model.graph), frozenset())
    for function in model.functions:
        place = f"the function {function_key(function)}"
        scope = Scope(place=place, body=function, is_function=True)
        faults += _circle_faults(scope)
        faults += _graph_faults(scope, frozenset())
    return faults


def sort_nodes(graph: Any) -> None:
    """Put the nodes of a graph without circles into an order of execution, in place.

    ONNX demands such an order and exporters do not always keep it. Nodes that are in order stay.
    """
    for node in graph.node:
        for _, body in bodies(node):
            sort_nodes(body)
    sources = _sources(graph)
    if all(source < position for position, found in sources.items() for source in found):
        return
    waiting = {position: len(found) for position, found in sources.items()}
    readers: dict[int, list[int]] = {position: [] for position in sources}
    for position, found in sources.items():
        for source in found:
            readers[source].append(position)
    ready = [position for position, count in waiting.items() if not count]
    ordered = []
    while ready:
        position = heapq.heappop(ready)
        copy = type(graph.node[position])()
        copy.CopyFrom(graph.node[position])
        ordered.append(copy)
        for reader in readers[position]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    del graph.node[:]
    graph.node.extend(ordered)


def _graph_faults(scope: Scope, outer: frozenset[str]) -> list[str]:
    faults = []
    makers: dict[str, str] = {}
    for name, maker, may_repeat in _border(scope):
        if not name:
            faults.append(scope.at(f"{maker} has no name"))
        elif name in makers and not may_repeat:
            faults.append(scope.at(f"{name!r} is {makers[name]} and {maker}"))
        makers[name] = maker
    for node in scope.body.node:
        for name in filter(None, node.output):
            if name in makers:
                faults.append(scope.at(f"{label(node)} writes {name!r}, which is {makers[name]}"))
            elif name in outer:
                faults.append(scope.at(f"{label(node)} writes {name!r}, which is made outside"))
            makers.setdefault(name, f"written by {label(node)}")
    visible = outer | makers.keys()
    for node in scope.body.node:
        for position, name in enumerate(node.input):
            if name and name not in visible:
                text = f"input {position} of {label(node)}, {name!r}, is made by nothing"
                faults.append(scope.at(text))
        for attribute, body in bodies(node):
            place = f"the {attribute} of {label(node)}"
            faults += _graph_faults(Scope(place=place, body=body), visible)
    outputs = [value if scope.is_function else value.name for value in scope.body.output]
    faults += [
        scope.at(f"the output {name!r} is made by nothing")
        for name in outputs
        if name not in visible
    ]
    if not scope.place:
        twice = {name for name in outputs if outputs.count(name) > 1}
        faults += [f"the output {name!r} is there twice" for name in sorted(twice)]
    return faults


def _border(scope: Scope) -> Iterator[tuple[str, str, bool]]:
    """Names that are there before any node ran: the name, what it is, whether it may be known."""
    if scope.is_function:
        yield from ((name, "an input", False) for name in scope.body.input)
        return
    inputs = {value.name for value in scope.body.input}
    yield from ((value.name, "an input", False) for value in scope.body.input)
    seen: set[str] = set()
    sparse = (tensor.values for tensor in scope.body.sparse_initializer)
    for tensor in (*scope.body.initializer, *sparse):
        # A constant may be the default of an input, once.
        yield tensor.name, "a constant", tensor.name in inputs and tensor.name not in seen
        seen.add(tensor.name)


def _circle_faults(scope: Scope) -> list[str]:
    """The nodes of one circle, in this graph or in one inside it."""
    faults = []
    for node in scope.body.node:
        for attribute, body in bodies(node):
            faults += _circle_faults(Scope(place=f"the {attribute} of {label(node)}", body=body))
    try:
        graphlib.TopologicalSorter(_sources(scope.body)).prepare()
    except graphlib.CycleError as error:
        circle = [label(scope.body.node[position]) for position in error.args[1]]
        shown = circle[:_SHOWN_OF_A_CIRCLE] + (["…"] if circle[_SHOWN_OF_A_CIRCLE:] else [])
        faults.append(scope.at(f"its operators form a circle: {' -> '.join(shown)}"))
    return faults


def _sources(graph: Any) -> dict[int, set[int]]:
    """For each node, by its position, the nodes of the same graph that it waits for."""
    makers = {
        name: position for position, node in enumerate(graph.node) for name in node.output if name
    }
    return {
        position: {makers[name] for name in reads(node) if name in makers}
        for position, node in enumerate(graph.node)
    }


def reads(node: Any) -> Iterable[str]:
    """What a node reads, with what the graphs inside it read from outside."""
    names = list(node.input)
    for _, body in bodies(node):
        inside = {value.name for value in body.input} | {t.name for t in body.initializer}
        inside |= {name for inner in body.node for name in inner.output}
        wanted = [name for inner in body.node for name in reads(inner)]
        wanted += [value.name for value in body.output]
        names += [name for name in wanted if name not in inside]
    return names


def _texts(model: Any) -> Iterator[object]:
    yield from (entry.domain for entry in model.opset_import)
    for function in model.functions:
        yield from (function.name, function.domain, function.overload)
        yield from (*function.input, *function.output, *function.attribute)
    for body in _all_bodies(model):
        for node in body.node:
            yield from (node.name, node.op_type, node.domain, node.overload)
            yield from (*node.input, *node.output)
            for attribute in node.attribute:
                yield from (attribute.name, attribute.ref_attr_name)
                yield attribute.t.name
        if hasattr(body, "initializer"):
            yield body.name
            yield from (tensor.name for tensor in body.initializer)
            yield from (tensor.values.name for tensor in body.sparse_initializer)
            for value in (*body.input, *body.output, *body.value_info):
                yield value.name
                yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)


def _all_bodies(model: Any) -> Iterator[Any]:
    """Every graph and function body; asks for no text, unlike `scopes`."""
    waiting = [model.graph, *model.functions]
    while waiting:
        body = waiting.pop()
        yield body
        waiting += [graph for node in body.node for _, graph in bodies(node)]
