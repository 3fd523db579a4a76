"""Put the branch that an If always takes in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit_converters.onnx_graphs import bodies_of, copy_of, replace_nodes


def inline_known_branches(model: Any) -> bool:
    """Replace every If whose condition is a constant by its branch, in place.

    Args:
        model: An `onnx.ModelProto`.

    Returns:
        Whether there was one.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    taken = {name for node in graph.node for name in node.output} | set(constants)
    taken.update(value.name for value in graph.input)
    nodes: list[Any] = []
    changed = False
    for node in graph.node:
        tensor = constants.get(node.input[0]) if node.op_type == "If" else None
        if tensor is None:
            nodes.append(node)
            continue
        wanted = (
            "then_branch" if bool(numpy_helper.to_array(tensor).reshape(-1)[0]) else "else_branch"
        )
        (branch,) = (entry.g for entry in node.attribute if entry.name == wanted)
        inlined, made = inline_body(branch, graph, taken, {})
        nodes += inlined
        nodes += [
            helper.make_node("Identity", [source], [output], name=node.name)
            for source, output in zip(made, node.output, strict=True)
            if output
        ]
        changed = True
    if changed:
        replace_nodes(graph, nodes)
    return changed


def inline_body(
    body: Any, graph: Any, taken: set[str], given: Mapping[str, str]
) -> tuple[list[Any], list[str]]:
    """The nodes of a body as nodes of the graph around it.

    Args:
        body: An `onnx.GraphProto`; it is not changed.
        graph: It gets the body's constants.
        taken: Names that are in use outside; what the body makes is renamed, and added to them.
        given: What the body's inputs are called outside.

    Returns:
        The nodes, and what the body's outputs are called outside.
    """
    made = [name for inner in body.node for name in inner.output if name]
    made += [tensor.name for tensor in body.initializer]
    fresh: dict[str, str] = {}
    for name in made:
        fresh[name] = _fresh(name, taken)
        taken.add(fresh[name])
    renamed = {**given, **fresh}
    for tensor in body.initializer:
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = renamed[tensor.name]
    nodes = []
    for inner in body.node:
        copy = copy_of(inner)
        _rename(copy, renamed)
        nodes.append(copy)
    return nodes, [renamed.get(value.name, value.name) for value in body.output]


def _rename(node: Any, renamed: dict[str, str]) -> None:
    """Give values other names in a node and in all bodies in it."""
    for names in (node.input, node.output):
        for position, name in enumerate(names):
            names[position] = renamed.get(name, name)
    for body in bodies_of(node):
        for inner in body.node:
            _rename(inner, renamed)
        for value in body.output:
            value.name = renamed.get(value.name, value.name)


def _fresh(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate
