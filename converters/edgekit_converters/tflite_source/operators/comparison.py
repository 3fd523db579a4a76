"""Comparisons, truth values, and the choice between two values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder

_BINARY: Final = {
    "EQUAL": "Equal", "GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual", "LESS": "Less",
    "LESS_EQUAL": "LessOrEqual", "LOGICAL_AND": "And", "LOGICAL_OR": "Or",
}  # fmt: skip


@imports(*_BINARY, inputs=(2, 2))
def import_comparison(build: Builder) -> None:
    """Operators that ONNX has under another name."""
    order = build.follow()
    sides = [build.aligned(position, order) for position in (0, 1)]
    build.emit(_BINARY[build.operator.code], sides, order)


@imports("NOT_EQUAL", inputs=(2, 2))
def import_not_equal(build: Builder) -> None:
    """Not equal."""
    order = build.follow()
    sides = [build.aligned(position, order) for position in (0, 1)]
    build.emit("Not", [build.node("Equal", sides)], order)


@imports("LOGICAL_NOT", inputs=(1, 1))
def import_not(build: Builder) -> None:
    """The other truth value."""
    order = build.follow()
    build.emit("Not", [build.input(0, order)], order)


@imports("SELECT_V2", inputs=(3, 3))
def import_select(build: Builder) -> None:
    """One of two values for each element, all three broadcast."""
    order = build.follow()
    build.emit("Where", [build.aligned(position, order) for position in range(3)], order)


@imports("SELECT", inputs=(3, 3))
def import_select_rows(build: Builder) -> None:
    """As SELECT_V2, but a condition of one axis chooses whole rows."""
    condition, value = build.tensor(0), build.tensor(1)
    if condition.rank in {value.rank, 0}:
        import_select(build)
        return
    if condition.rank != 1:
        raise RefusedOperatorError("its condition has neither one axis nor its values' axes")
    column = build.sizes([-1] + [1] * (value.rank - 1), "column")
    chosen = build.node("Reshape", [build.input(0), column])
    build.emit("Where", [chosen, build.input(1), build.input(2)])


@imports("WHERE", inputs=(1, 1))
def import_where(build: Builder) -> None:
    """The indices of what is true or not zero, a row each."""
    build.emit("Transpose", [build.node("NonZero", [build.input(0)])], perm=[1, 0])
