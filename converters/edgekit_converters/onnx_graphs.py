"""Pieces of ONNX's protobuf that every stage which rewrites a graph works with.

Knows protobuf alone, not even the `onnx` package.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

# Both name ONNX's own operators.
STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx"})


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators that a model uses, 0 where it says none."""
    return max((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), default=0)


def bodies_of(node: Any) -> list[Any]:
    """The graphs that a node holds, in the order of its attributes."""
    return [
        body
        for attribute in node.attribute
        for body in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
    ]


def copy_of(message: Any) -> Any:
    """A protobuf message of its own with the same content."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def replace_nodes(graph: Any, nodes: Iterable[Any]) -> None:
    """Let a graph have these nodes, some of which may be its own."""
    # Its own go with the list that is cleared.
    copies = [copy_of(node) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(copies)
