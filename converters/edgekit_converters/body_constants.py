"""Give the bodies of nodes their own copies of the small constants that they read from outside.

ONNX's shape inference does not see the values of outer constants inside of a body, and so takes a
Squeeze or a Reshape there for one with computed axes or sizes.
"""

from __future__ import annotations

import math
from typing import Any, Final

from edgekit_converters.onnx_graphs import bodies_of

# Axes, sizes, numbers; weights stay where they are.
_MOST_ELEMENTS: Final = 1024


def copy_constants_into_bodies(model: Any) -> bool:
    """Copy small initialisers into every body that reads them, under new names, in place.

    Returns:
        Whether there was one to copy.
    """
    graph = model.graph
    constants = {
        tensor.name: tensor
        for tensor in graph.initializer
        if math.prod(tensor.dims) <= _MOST_ELEMENTS
    }
    changed = False
    for node in graph.node:
        for body in bodies_of(node):
            changed |= _copy_into(body, constants)
    return changed


def reads_of(node: Any) -> set[str]:
    """What a node reads, and what all bodies in it read."""
    names = set(node.input)
    for body in bodies_of(node):
        names.update(value.name for value in body.output)
        for inner in body.node:
            names |= reads_of(inner)
    return names


def _copy_into(body: Any, outer: dict[str, Any]) -> bool:
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    own.update(name for node in body.node for name in node.output)
    copied: dict[str, str] = {}
    changed = False
    for node in body.node:
        for position, name in enumerate(node.input):
            if name in outer and name not in own:
                node.input[position] = _copy(body, outer[name], copied)
                changed = True
        inner = {name: tensor for name, tensor in outer.items() if name not in own}
        inner |= {tensor.name: tensor for tensor in body.initializer}
        for deeper in bodies_of(node):
            changed |= _copy_into(deeper, inner)
    return changed


def _copy(body: Any, tensor: Any, copied: dict[str, str]) -> str:
    if tensor.name not in copied:
        # A body may not give a name of the outer graph another meaning.
        name = f"{tensor.name}/in/{body.name}"
        copied[tensor.name] = name
        copy = body.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = name
    return copied[tensor.name]
