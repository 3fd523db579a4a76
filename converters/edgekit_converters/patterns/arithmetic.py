"""Read what a few nodes of arithmetic say: a product of values and a number, bounds, an offset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from edgekit_converters.patterns.graph import PatternGraph

# Exporters write constants in float32, some with seven digits.
_CLOSE: Final = 1e-5
_MAX_NODES: Final = 10
_MAX_POWER: Final = 4
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product of values and one number.

    Attributes:
        scale: The number.
        factors: Names of the values, sorted, one as often as it is multiplied.
        nodes: What computes the product; no value between them is needed elsewhere.
    """

    scale: float
    factors: tuple[str, ...]
    nodes: tuple[Any, ...]


def product_of(graph: PatternGraph, name: str, *, whole: bool = False) -> Product:
    """Take a product apart, whatever the order and nesting in which it is written.

    Args:
        graph: Where it stands.
        name: The product's value.
        whole: Take apart the value itself even where it is read more than once.
    """
    node = graph.producer(name, "Mul", "Div", "Neg", "Pow")
    alone = Product(scale=1.0, factors=(name,), nodes=())
    if node is None or not (whole or graph.uses(name) == 1):
        return alone
    scale, parts = 1.0, list(node.input)
    if node.op_type == "Neg":
        scale = -1.0
    elif node.op_type in {"Div", "Pow"}:
        number = graph.scalar(node.input[1])
        parts = [node.input[0]]
        if number is None or not number:
            return alone
        if node.op_type == "Div":
            scale = 1.0 / number
        elif number.is_integer() and 1 < number <= _MAX_POWER:
            return Product(scale=1.0, factors=(parts[0],) * int(number), nodes=(node,))
        else:
            return alone
    factors: list[str] = []
    nodes: list[Any] = [node]
    for part in parts:
        number = graph.scalar(part)
        if number is not None:
            scale *= number
            continue
        inner = product_of(graph, part)
        scale *= inner.scale
        factors += inner.factors
        nodes += inner.nodes
    if len(nodes) > _MAX_NODES:
        return alone
    return Product(scale=scale, factors=tuple(sorted(factors)), nodes=tuple(nodes))


def close(value: float | None, expected: float) -> bool:
    """Whether a constant is the expected one, up to how exporters round."""
    return value is not None and math.isclose(value, expected, rel_tol=_CLOSE)


def other_input(graph: PatternGraph, node: Any, number: float) -> str | None:
    """The value to which a commutative node joins this number, None if it does not."""
    for position in (0, 1):
        if close(graph.scalar(node.input[1 - position]), number):
            return str(node.input[position])
    return None


def with_scalar(graph: PatternGraph, node: Any) -> tuple[str, float] | None:
    """The value and the number that a commutative node joins, None if neither is a number."""
    for position in (1, 0):
        number = graph.scalar(node.input[position])
        if number is not None:
            return str(node.input[1 - position]), number
    return None


def bounds(graph: PatternGraph, node: Any) -> tuple[float, float] | None:
    """What a Clip or Relu limits its input to, None where that is computed."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    limits = []
    for position, free in ((1, -math.inf), (2, math.inf)):
        name = node.input[position] if position < len(node.input) else ""
        limit = graph.scalar(name) if name else free
        if limit is None:
            return None
        limits.append(free if abs(limit) >= _FLOAT32_MAX and limit * free > 0 else limit)
    return limits[0], limits[1]


def integer_attribute(node: Any, name: str, default: int) -> int:
    """An integer attribute of a node."""
    for attribute in node.attribute:
        if attribute.name == name:
            return int(attribute.i)
    return default


def integers_attribute(node: Any, name: str) -> tuple[int, ...] | None:
    """A list of integers, None where the attribute is absent."""
    for attribute in node.attribute:
        if attribute.name == name:
            return tuple(attribute.ints)
    return None


def number_attribute(node: Any, name: str, default: float) -> float:
    """A float attribute of a node."""
    for attribute in node.attribute:
        if attribute.name == name:
            return float(attribute.f)
    return default


def text_attribute(node: Any, name: str, default: str) -> str:
    """A string attribute of a node."""
    for attribute in node.attribute:
        if attribute.name == name:
            return str(attribute.s.decode("utf-8", "replace"))
    return default


def reduced_axes(graph: PatternGraph, node: Any) -> tuple[int, ...] | None:
    """The axes of a reduction that keeps them, never negative; None for every other one.

    Up to opset 17 most reductions have the axes as an attribute, later as an input.
    """
    rank = graph.rank(node.input[0])
    if rank is None or not integer_attribute(node, "keepdims", 1):
        return None
    axes = integers_attribute(node, "axes")
    if len(node.input) > 1 and node.input[1]:
        array = graph.constant(node.input[1])
        axes = None if array is None else tuple(int(axis) for axis in array.reshape(-1))
    if not axes:
        return None
    return tuple(sorted({axis % rank for axis in axes}))
