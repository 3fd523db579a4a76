"""Arithmetic that does nothing, or that has a plainer form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.patterns.arithmetic import bounds
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.patterns.registry import recognises

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.patterns.graph import PatternGraph

_SQUARE: Final = 2.0
_HALF: Final = 0.5
_SMALLEST_NORMAL: Final = float(np.finfo(np.float32).tiny)


@recognises("Mul", "Div", "Add", "Sub", "Pow")
def drop_neutral_element(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Times or over one, plus or minus zero, to the power of one: nothing happens."""
    neutral = 0 if node.op_type in {"Add", "Sub"} else 1
    positions = (1, 0) if node.op_type in {"Mul", "Add"} else (1,)
    for position in positions:
        source = node.input[1 - position]
        array = graph.constant(node.input[position])
        if (
            array is not None
            and array.size
            and np.all(array == neutral)
            and _widens_nothing(graph, source, node)
        ):
            return Rewrite(removes=[node], same={node.output[0]: source})
    return None


def _widens_nothing(graph: PatternGraph, source: str, node: Any) -> bool:
    """Whether the result has the shape of one input, whatever the other's."""
    if any(graph.scalar(name) is not None for name in node.input):
        return graph.same_rank(source, node.output[0])
    return graph.same_shape(source, node.output[0])


@recognises("Cast")
def drop_idle_cast(graph: PatternGraph, node: Any) -> Rewrite | None:
    """A Cast to the type that the value has."""
    target = next(attribute.i for attribute in node.attribute if attribute.name == "to")
    if graph.element_type(node.input[0]) != target:
        return None
    return Rewrite(removes=[node], same={node.output[0]: node.input[0]})


@recognises("Pow")
def write_powers_plainly(graph: PatternGraph, node: Any) -> Rewrite | None:
    """A square is Mul, and a root is Sqrt: faster everywhere, and both can be quantized."""
    from onnx import helper

    exponent = graph.scalar(node.input[1])
    if not graph.is_float(node.input[0]):
        return None
    if exponent == _SQUARE:
        plain = helper.make_node("Mul", [node.input[0]] * 2, node.output, name=node.name)
    elif exponent == _HALF:
        plain = helper.make_node("Sqrt", [node.input[0]], node.output, name=node.name)
    else:
        return None
    if not graph.same_rank(node.input[0], node.output[0]):
        return None
    return Rewrite(removes=[node], adds=[plain])


@recognises("Div")
def multiply_by_reciprocal(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Division by constants is multiplication by their reciprocals."""
    from onnx import helper

    divisor = graph.constant(node.input[1])
    if divisor is None or divisor.dtype != np.float32 or graph.is_constant(node.input[0]):
        return None
    with np.errstate(divide="ignore", over="ignore"):
        reciprocal = (1.0 / divisor.astype(np.float64)).astype(np.float32)
    # Zeros, and what is so large that its reciprocal loses bits, stay a division.
    usable = np.isfinite(reciprocal) & (np.abs(reciprocal) >= _SMALLEST_NORMAL)
    if not usable.all():
        return None
    name = graph.fresh(f"{node.output[0]}/reciprocal")
    return Rewrite(
        removes=[node],
        adds=[helper.make_node("Mul", [node.input[0], name], node.output, name=node.name)],
        constants={name: reciprocal},
    )


@recognises("Div")
def multiply_by_inverse_root(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Division by a root that is broadcast is multiplication by its reciprocal.

    Few elements are divided then, and engines have the reciprocal root as one operator.
    """
    from onnx import helper

    root = graph.producer(node.input[1], "Sqrt")
    shape, wide = graph.shape(node.input[1]), graph.shape(node.output[0])
    if root is None or graph.is_constant(node.input[0]) or shape is None or wide is None:
        return None
    if graph.sole_reader(node.input[1]) is not node or not shape or shape[-1] != 1 or wide[-1] == 1:
        return None
    inverse = graph.fresh(f"{node.output[0]}/inverse")
    return Rewrite(
        removes=[node],
        adds=[
            helper.make_node("Reciprocal", [node.input[1]], [inverse], name=inverse),
            helper.make_node("Mul", [node.input[0], inverse], node.output, name=node.name),
        ],
    )


@recognises("Div")
def write_reciprocal(graph: PatternGraph, node: Any) -> Rewrite | None:
    """One divided by a value is its Reciprocal."""
    from onnx import helper

    if graph.scalar(node.input[0]) != 1 or not graph.same_rank(node.input[1], node.output[0]):
        return None
    plain = helper.make_node("Reciprocal", [node.input[1]], node.output, name=node.name)
    return Rewrite(removes=[node], adds=[plain])


@recognises("Mul", "Add", "Sub")
def join_constants(graph: PatternGraph, node: Any) -> Rewrite | None:
    """(x * a) * b is x * (a * b), and so for sums and differences."""
    from onnx import helper

    outer = _constant_of(graph, node)
    before = None if outer is None else graph.producer(outer[0], "Mul", "Add", "Sub")
    inner = None if before is None else _constant_of(graph, before)
    if outer is None or before is None or inner is None:
        return None
    if (node.op_type == "Mul") != (before.op_type == "Mul"):
        return None
    operator = "Mul" if node.op_type == "Mul" else "Add"
    joined = _join(operator, inner[1], outer[1])
    if joined is None:
        return None
    name = graph.fresh(f"{node.output[0]}/constant")
    plain = helper.make_node(operator, [inner[0], name], node.output, name=node.name)
    return Rewrite(removes=[before, node], adds=[plain], constants={name: joined})


@recognises("Mul")
def scale_before_shift(graph: PatternGraph, node: Any) -> Rewrite | None:
    """(x * a + b) * c is x * (a * c) + b * c."""
    from onnx import helper

    outer = _constant_of(graph, node)
    shift = None if outer is None else graph.producer(outer[0], "Add", "Sub")
    middle = None if shift is None else _constant_of(graph, shift)
    product = None if middle is None else graph.producer(middle[0], "Mul")
    inner = None if product is None else _constant_of(graph, product)
    if outer is None or shift is None or middle is None or inner is None:
        return None
    factor, term = _join("Mul", inner[1], outer[1]), _join("Mul", middle[1], outer[1])
    if factor is None or term is None or not graph.same_rank(middle[0], node.output[0]):
        return None
    names = [graph.fresh(f"{node.output[0]}/{role}") for role in ("factor", "term", "scaled")]
    return Rewrite(
        removes=[product, shift, node],
        adds=[
            helper.make_node("Mul", [inner[0], names[0]], [names[2]], name=node.name),
            helper.make_node("Add", [names[2], names[1]], node.output, name=shift.name),
        ],
        constants={names[0]: factor, names[1]: term},
        alike={names[2]: middle[0]},
    )


def _constant_of(graph: PatternGraph, node: Any) -> tuple[str, NDArray[Any]] | None:
    """The value that a node joins a constant to, and what it adds or multiplies by."""
    for position in (1, 0) if node.op_type != "Sub" else (1,):
        array, source = graph.constant(node.input[position]), node.input[1 - position]
        if array is not None and array.dtype.kind == "f" and not graph.is_constant(source):
            return source, -array if node.op_type == "Sub" else array
    return None


def _join(operator: str, first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any] | None:
    """Two constants as one, None where that would lose range or make a much larger constant."""
    if first.dtype != second.dtype or first.dtype.kind != "f":
        return None
    wide = [array.astype(np.float64) for array in (first, second)]
    try:
        exact = wide[0] * wide[1] if operator == "Mul" else wide[0] + wide[1]
    except ValueError:
        return None
    with np.errstate(over="ignore", under="ignore"):
        joined = exact.astype(first.dtype)
    tiny = np.finfo(first.dtype).tiny
    usable = np.isfinite(joined) & ((np.abs(joined) >= tiny) | (exact == 0) | (operator == "Add"))
    if not usable.all() or joined.size > max(first.size, second.size):
        return None
    return joined


@recognises("Max", "Min")
def write_bound(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Max or Min with a number is a Clip."""
    from onnx import TensorProto

    if len(node.input) != 2 or graph.element_type(node.output[0]) != TensorProto.FLOAT:  # noqa: PLR2004
        return None
    for position in (1, 0):
        limit, source = graph.scalar(node.input[position]), node.input[1 - position]
        if limit is None or not graph.same_rank(source, node.output[0]):
            continue
        low, high = (limit, math.inf) if node.op_type == "Max" else (-math.inf, limit)
        return _clip(graph, [node], source, node, low, high)
    return None


@recognises("Clip", "Relu")
def join_bounds(graph: PatternGraph, node: Any) -> Rewrite | None:
    """A Clip of a Clip or Relu is one Clip; a Clip that only cuts off below zero is a Relu."""
    from onnx import TensorProto

    limits = bounds(graph, node)
    if limits is None or graph.element_type(node.output[0]) != TensorProto.FLOAT:
        return None
    before = graph.producer(node.input[0], "Clip", "Relu")
    inner = bounds(graph, before) if before is not None else None
    if before is not None and inner is not None and graph.uses(node.input[0]) == 1:
        if any(math.isnan(limit) for limit in (*limits, *inner)):
            return None
        # The outer bounds are applied to the inner ones, as the values are.
        low, high = (min(max(limit, limits[0]), limits[1]) for limit in inner)
        return _clip(graph, [before, node], before.input[0], node, low, high)
    if node.op_type == "Clip" and limits == (0.0, math.inf):
        return _clip(graph, [node], node.input[0], node, *limits)
    return None


def _clip(
    graph: PatternGraph, removes: list[Any], source: str, node: Any, low: float, high: float
) -> Rewrite:
    from onnx import helper

    if (low, high) == (0.0, math.inf):
        relu = helper.make_node("Relu", [source], node.output, name=node.name)
        return Rewrite(removes=removes, adds=[relu])
    constants, inputs = {}, [source]
    for role, limit in (("low", low), ("high", high)):
        name = graph.fresh(f"{node.output[0]}/{role}") if math.isfinite(limit) else ""
        if name:
            constants[name] = np.array(limit, dtype=np.float32)
        inputs.append(name)
    clip = helper.make_node("Clip", inputs, node.output, name=node.name)
    return Rewrite(removes=removes, adds=[clip], constants=constants)
