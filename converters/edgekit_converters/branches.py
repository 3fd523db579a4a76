"""Put the branch that an If always takes in its place."""

from __future__ import annotations

from typing import Any


def inline_known_branches(model: Any) -> bool:
    """Replace every If whose condition is a constant by its branch, in place.

    Args:
        model: An `onnx.ModelProto`.

    Returns:
        Whether there was one.
    """
    from onnx import numpy_helper

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
        nodes += _inlined(node, branch, graph, taken)
        changed = True
    if changed:
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        graph.ClearField("node")
        graph.node.extend(copies)
    return changed


def _inlined(node: Any, branch: Any, graph: Any, taken: set[str]) -> list[Any]:
    """The nodes of a branch; what it makes is renamed where the name is in use outside."""
    from onnx import helper

    made = [name for inner in branch.node for name in inner.output if name]
    made += [tensor.name for tensor in branch.initializer]
    renamed = {name: _fresh(name, taken) for name in made}
    taken.update(renamed.values())
    for tensor in branch.initializer:
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = renamed[tensor.name]
    nodes = []
    for inner in branch.node:
        copy = type(inner).FromString(inner.SerializeToString())
        _rename(copy, renamed)
        nodes.append(copy)
    for value, output in zip(branch.output, node.output, strict=True):
        if output:
            source = renamed.get(value.name, value.name)
            nodes.append(helper.make_node("Identity", [source], [output], name=node.name))
    return nodes


def _rename(node: Any, renamed: dict[str, str]) -> None:
    """Give values other names in a node and in all bodies in it."""
    for names in (node.input, node.output):
        for position, name in enumerate(names):
            names[position] = renamed.get(name, name)
    for attribute in node.attribute:
        bodies = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for body in bodies:
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
