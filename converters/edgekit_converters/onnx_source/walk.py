"""Go through every part of an ONNX model: its graph, the graphs inside nodes, function bodies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A list of nodes and where it stands.

    Attributes:
        place: "" for the model's own graph; else words that a person finds it by.
        body: A `GraphProto` or a `FunctionProto`; both have nodes, inputs and outputs.
        is_function: Whether it is a function's body.
    """

    place: str
    body: Any
    is_function: bool = False

    def at(self, text: str) -> str:
        """A text with this place behind it, where it is not the model's own graph."""
        return f"{text} in {self.place}" if self.place else text


def scopes(model: Any) -> Iterator[Scope]:
    """The model's graph, each graph inside a node, each function body; outer ones first."""
    yield from _nested(Scope(place="", body=model.graph))
    for function in model.functions:
        place = f"the function {function_key(function)}"
        yield from _nested(Scope(place=place, body=function, is_function=True))


def bodies(node: Any) -> Iterator[tuple[str, Any]]:
    """The graphs inside one node, each with the name of its attribute."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        for graph in attribute.graphs:
            yield attribute.name, graph


def tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """Every `TensorProto` that a model stores, with words that a person finds it by."""
    for scope in scopes(model):
        if not scope.is_function:
            for tensor in scope.body.initializer:
                yield scope.at(f"the constant {tensor.name!r}"), tensor
            for sparse in scope.body.sparse_initializer:
                for tensor in (sparse.values, sparse.indices):
                    yield scope.at(f"the sparse constant {sparse.values.name!r}"), tensor
        for node in scope.body.node:
            for attribute in node.attribute:
                text = f"the attribute {attribute.name!r} of {label(node)}"
                for tensor in _tensors_of(attribute):
                    yield scope.at(text), tensor


def label(node: Any) -> str:
    """A node's name and operator; where it has no name, its first output's."""
    return f"{node.name or next(filter(None, node.output), '?')} ({node.op_type})"


def function_key(function: Any) -> str:
    """The name by which nodes call a function."""
    overload = f":{function.overload}" if function.overload else ""
    return f"{function.domain}.{function.name}{overload}"


def call_key(node: Any) -> str:
    """The key of the function that a node would call."""
    overload = f":{node.overload}" if node.overload else ""
    return f"{node.domain}.{node.op_type}{overload}"


def _nested(scope: Scope) -> Iterator[Scope]:
    yield scope
    for node in scope.body.node:
        for name, graph in bodies(node):
            place = f"the {name} of {label(node)}"
            yield from _nested(Scope(place=place, body=graph))


def _tensors_of(attribute: Any) -> Iterator[Any]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    single = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for sparse in (*single, *attribute.sparse_tensors):
        yield from (sparse.values, sparse.indices)
