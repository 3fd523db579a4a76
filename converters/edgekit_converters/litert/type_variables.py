"""Which inputs and outputs of an ONNX operator share a type, as its schema says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit_converters.graph import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeVariables:
    """One name an input and output: "T", "Tind", or a fixed type such as "tensor(int64)"."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def type_variables(node: Node) -> TypeVariables:
    """The type variables of a node's inputs and outputs, "" for an operator without a schema."""
    inputs, outputs = _of_operator(node.op)
    return TypeVariables(
        inputs=_stretch(inputs, len(node.inputs)), outputs=_stretch(outputs, len(node.outputs))
    )


def main_variable(operator: str) -> str:
    """The variable that a lowering's element types speak of: "T", or that of the first output."""
    inputs, outputs = _of_operator(operator)
    return "T" if "T" in (*inputs, *outputs) or not outputs else outputs[0]


@cache
def _of_operator(operator: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from onnx import defs

    domain, _, name = operator.rpartition(".")
    try:
        schema = defs.get_schema(name, domain=domain)
    except defs.SchemaError:
        return (), ()
    return (
        tuple(entry.type_str for entry in schema.inputs),
        tuple(entry.type_str for entry in schema.outputs),
    )


def _stretch(variables: tuple[str, ...], count: int) -> tuple[str, ...]:
    """As many as a node has; the last one of a schema may be repeated."""
    last = variables[-1:] or ("",)
    return (*variables, *last * max(0, count - len(variables)))[:count]
