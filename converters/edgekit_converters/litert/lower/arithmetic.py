"""Sums, products, quotients, rests, and the larger and smaller, in all types of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import FLOAT, NUMBERS

if TYPE_CHECKING:
    from edgekit_converters.graph import Node

_UNSIGNED: Final = frozenset({"uint64"})
_DOUBLE: Final = frozenset({"float64"})
_NARROW: Final = frozenset({"int8", "int16", "uint8"})
_ARITHMETIC: Final = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL"}


@lowers(*_ARITHMETIC, layout=follow, dtypes=NUMBERS | _UNSIGNED | _DOUBLE)
def lower_arithmetic(build: Builder, node: Node) -> None:
    """Sum, difference and product, broadcast as numpy does; integers wrap around."""
    steps = Steps(build, node)
    first, second = steps.input(0), steps.input(1)
    code = _ARITHMETIC[node.op]
    if first.dtype == "float64":
        if code == "SUB":
            code, second = "ADD", steps.negative(second)
        steps.finish(steps.stable(code, first, second))
    elif first.dtype == "uint64":
        bits = steps.binary(code, steps.bits(first, "int64"), steps.bits(second, "int64"))
        steps.finish(steps.bits(bits, "uint64"))
    else:
        build.emit(code, [first, second], node, fusedActivationFunction="NONE")


@lowers("Div", layout=follow, dtypes=NUMBERS | _UNSIGNED)
def lower_division(build: Builder, node: Node) -> None:
    """The quotient; of integers, cut towards zero."""
    steps = Steps(build, node)
    first, second = steps.input(0), steps.input(1)
    if first.dtype == "float32":
        build.emit("DIV", [first, second], node, fusedActivationFunction="NONE")
    else:
        steps.finish(steps.quotient(first, second))


@lowers("Mod", layout=follow, dtypes=NUMBERS | _UNSIGNED)
def lower_rest(build: Builder, node: Node) -> None:
    """The rest, with the divisor's sign, or with `fmod` the dividend's."""
    steps = Steps(build, node)
    first, second = steps.input(0), steps.input(1)
    cut = bool(node.integer("fmod", 0))
    if first.dtype == "uint64":
        count = steps.bits(steps.quotient(first, second), "int64")
        bits, divisor = steps.bits(first, "int64"), steps.bits(second, "int64")
        rest = steps.bits(steps.sub(bits, steps.mul(count, divisor)), "uint64")
    elif first.dtype != "float32":
        rest = steps.cut_rest(first, second) if cut else steps.floor_rest(first, second)
    elif cut:
        # Of numbers without signs nothing is added that would be rounded.
        size = steps.floor_mod(steps.abs(first), steps.abs(second))
        rest = steps.select(steps.less(first, 0.0), steps.neg(size), size)
    else:
        rest = steps.floor_mod(first, second)
    steps.finish(rest)


@lowers("Sum", "Mean", layout=follow, dtypes=FLOAT)
def lower_sum(build: Builder, node: Node) -> None:
    """The sum or mean of any number of inputs, one after the other."""
    steps = Steps(build, node)
    total = steps.input(0)
    if len(node.inputs) == 1:
        build.alias(node, total)
        return
    for position in range(1, len(node.inputs)):
        total = steps.add(total, steps.input(position))
    if node.op == "Mean":
        total = steps.div(total, float(len(node.inputs)))
    steps.finish(total)


@lowers("Max", "Min", layout=follow, dtypes=NUMBERS | _NARROW | _UNSIGNED | _DOUBLE)
def lower_extremum(build: Builder, node: Node) -> None:
    """The largest or smallest of any number of inputs; NaN where one of them is."""
    steps = Steps(build, node)
    code = "MAXIMUM" if node.op == "Max" else "MINIMUM"
    result = steps.input(0)
    if len(node.inputs) == 1:
        build.alias(node, result)
        return
    for position in range(1, len(node.inputs)):
        result = steps.extreme(code, result, steps.input(position))
    steps.finish(result)
