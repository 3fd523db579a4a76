"""Comparisons, logic, and the choice between two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import ANYTHING, NUMBERS

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_ORDERS: Final = {
    "Greater": "GREATER",
    "GreaterOrEqual": "GREATER_EQUAL",
    "Less": "LESS",
    "LessOrEqual": "LESS_EQUAL",
}
_LOGIC: Final = {"And": "LOGICAL_AND", "Or": "LOGICAL_OR", "Xor": "NOT_EQUAL"}
_WIDE: Final = frozenset({"float64", "uint64"})
_BOOL: Final = frozenset({"bool"})


@lowers(*_ORDERS, layout=follow, dtypes=NUMBERS | _WIDE)
def lower_comparison(build: Builder, node: Node) -> None:
    """Which of two is larger; never where one is NaN."""
    _compare(Steps(build, node), _ORDERS[node.op])


@lowers("Equal", layout=follow, dtypes=NUMBERS | _WIDE | _BOOL)
def lower_equality(build: Builder, node: Node) -> None:
    """Whether two are equal; NaN is not, not even to itself."""
    _compare(Steps(build, node), "EQUAL")


@lowers(*_LOGIC, layout=follow, dtypes=_BOOL)
def lower_logic(build: Builder, node: Node) -> None:
    """Both, one of two, exactly one of two."""
    steps = Steps(build, node)
    steps.finish(steps.binary(_LOGIC[node.op], steps.input(0), steps.input(1), "bool"))


@lowers("Not", layout=follow, dtypes=_BOOL)
def lower_negation(build: Builder, node: Node) -> None:
    """The opposite."""
    steps = Steps(build, node)
    steps.finish(steps.logical_not(steps.input()))


@lowers("Where", layout=follow, dtypes=ANYTHING)
def lower_choice(build: Builder, node: Node) -> None:
    """The first where a condition holds, else the second; all three are broadcast."""
    steps = Steps(build, node)
    steps.finish(steps.select(steps.input(0), steps.input(1), steps.input(2)))


def _compare(steps: Steps, code: str) -> None:
    first, second = steps.input(0), steps.input(1)
    found = steps.binary(code, steps.order(first), steps.order(second), "bool")
    if first.dtype == "float64":
        found = steps.logical_and(found, steps.logical_not(_either_is_nan(steps, first, second)))
    steps.finish(found)


def _either_is_nan(steps: Steps, first: Tensor, second: Tensor) -> Tensor:
    return steps.logical_or(steps.is_nan(first), steps.is_nan(second))
