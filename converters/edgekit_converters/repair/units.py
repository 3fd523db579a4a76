"""Which nodes must change together so that a layer reads something finer than 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit_converters.quantize.to_onnx.roles import Role, activations_of, role_of

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node


def unit_of(layer: Node, graph: Graph) -> tuple[str, ...]:
    """A layer, and the nodes that make what it reads.

    A node that computes in 8 bits gives 8 bits, whatever its reader does: in float or in 16 bits,
    a layer reads values that were rounded already, unless their makers are left in float as well.

    Returns:
        Names, the layer's first.
    """
    makers: Mapping[str, Node] = {name: node for node in graph.nodes for name in node.outputs}
    found = {layer.name: None}
    waiting = [name for name in layer.inputs if name and name not in graph.constants]
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is None or maker.name in found:
            continue
        role = role_of(maker, graph)
        if role in {Role.WEIGHTED, Role.ARITHMETIC}:
            found[maker.name] = None
        # What only passes values on has no scale of its own.
        elif role is not Role.FLOAT:
            waiting += [maker.inputs[at] for at in activations_of(maker, role, graph)]
    return tuple(found)
