"""Arithmetic on one or two elements at a time, with broadcasting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.tflite_source.border import element_type
from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder
    from edgekit_converters.tflite_source.values import Order

_UNARY: Final = {
    "ABS": "Abs", "CEIL": "Ceil", "COS": "Cos", "EXP": "Exp", "FLOOR": "Floor", "LOG": "Log",
    "NEG": "Neg", "ROUND": "Round", "SIGN": "Sign", "SIN": "Sin", "SQRT": "Sqrt",
}  # fmt: skip
_ACTIVATED: Final = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div"}
_BINARY: Final = {
    "BITWISE_XOR": "BitwiseXor", "POW": "Pow", "STABLEHLO_ADD": "Add", "STABLEHLO_MULTIPLY": "Mul",
}  # fmt: skip
_EXTREMES: Final = {
    "MAXIMUM": "Max", "MINIMUM": "Min", "STABLEHLO_MAXIMUM": "Max", "STABLEHLO_MINIMUM": "Min",
}  # fmt: skip
_SHORT: Final = frozenset({"int8", "uint8", "int16", "uint16"})


@imports(*_UNARY, inputs=(1, 1))
def import_unary(build: Builder) -> None:
    """Operators that ONNX has under another name."""
    order = build.follow()
    build.emit(_UNARY[build.operator.code], [build.input(0, order)], order)


@imports("SQUARE", inputs=(1, 1))
def import_square(build: Builder) -> None:
    """The input times itself."""
    order = build.follow()
    value = build.input(0, order)
    build.emit("Mul", [value, value], order)


@imports("RSQRT", inputs=(1, 1))
def import_rsqrt(build: Builder) -> None:
    """One divided by the root."""
    order = build.follow()
    build.emit("Reciprocal", [build.node("Sqrt", [build.input(0, order)])], order)


@imports(*_ACTIVATED, inputs=(2, 2))
def import_arithmetic(build: Builder) -> None:
    """The four operations; whole numbers are divided towards zero in both formats."""
    order, factors = _operands(build)
    build.emit_activated(_ACTIVATED[build.operator.code], factors, order)


@imports(*_BINARY, inputs=(2, 2))
def import_binary(build: Builder) -> None:
    """Operators of two inputs that have no activation function."""
    order, factors = _operands(build)
    build.emit(_BINARY[build.operator.code], factors, order)


@imports(*_EXTREMES, inputs=(2, 2))
def import_extreme(build: Builder) -> None:
    """The larger or the smaller of two; onnxruntime has neither for short integers."""
    order, factors = _operands(build)
    op, tensor = _EXTREMES[build.operator.code], build.tensor(0)
    if tensor.dtype not in _SHORT or tensor.quantization is not None:
        build.emit(op, factors, order)
        return
    wide = [build.node("Cast", [factor], to=element_type("int32")) for factor in factors]
    build.emit("Cast", [build.node(op, wide)], order, to=element_type(tensor.dtype))


@imports("STABLEHLO_AND", inputs=(2, 2))
def import_and(build: Builder) -> None:
    """Of truth values, or of the bits of integers."""
    order, factors = _operands(build)
    build.emit("And" if build.tensor(0).dtype == "bool" else "BitwiseAnd", factors, order)


@imports("ADD_N", inputs=(2, 1 << 16))
def import_add_n(build: Builder) -> None:
    """A sum of any number of inputs of one shape."""
    order = build.follow()
    total, *others = (
        build.input(position, order) for position in range(len(build.operator.inputs))
    )
    # onnxruntime's Sum has no whole numbers; Add has.
    for term in others[:-1]:
        total = build.node("Add", [total, term])
    build.emit("Add", [total, others[-1]], order)


@imports("SQUARED_DIFFERENCE", inputs=(2, 2))
def import_squared_difference(build: Builder) -> None:
    """The square of the difference."""
    order, factors = _operands(build)
    difference = build.node("Sub", factors)
    build.emit("Mul", [difference, difference], order)


@imports("FLOOR_DIV", inputs=(2, 2))
def import_floor_division(build: Builder) -> None:
    """Division towards minus infinity; ONNX divides whole numbers towards zero."""
    order, (dividend, divisor) = _operands(build)
    if _is_float(build):
        build.emit("Floor", [build.node("Div", [dividend, divisor])], order)
        return
    rest = build.node("Mod", [dividend, divisor])
    build.emit("Div", [build.node("Sub", [dividend, rest]), divisor], order)


@imports("FLOOR_MOD", inputs=(2, 2))
def import_floor_mod(build: Builder) -> None:
    """The rest has the sign of the divisor; for floats as TFLite's `FloorMod` does it."""
    order, (dividend, divisor) = _operands(build)
    if not _is_float(build):
        build.emit("Mod", [dividend, divisor], order)
        return
    zero = build.scalar(0.0)
    rest = build.node("Mod", [dividend, divisor], fmod=1)
    signs = [build.node("Less", [value, zero]) for value in (divisor, rest)]
    some = build.node("Not", [build.node("Equal", [rest, zero])])
    wrong = build.node("And", [some, build.node("Xor", signs)])
    moved = build.node("Add", [rest, divisor])
    build.emit("Where", [wrong, moved, rest], order)


@imports("ATAN2", inputs=(2, 2))
def import_atan2(build: Builder) -> None:
    """The angle of a point, from the arc tangent of y / x, which knows half of the circle.

    The sign of a zero counts, as in C: it says on which side of the cut the point lies.
    """
    order, (y, x) = _operands(build)
    zero, one, full = (build.scalar(value) for value in (0.0, 1.0, np.pi))
    left, below = (
        build.node("Or", [less, build.node("And", [none, build.node("Less", [inverse, zero])])])
        for less, none, inverse in (
            (
                build.node("Less", [value, zero]),
                build.node("Equal", [value, zero]),
                build.node("Div", [one, value]),
            )
            for value in (x, y)
        )
    )
    origin = build.node("And", [build.node("Equal", [v, zero]) for v in (x, y)])
    angle = build.node("Atan", [build.node("Div", [y, x])])
    angle = build.node("Where", [origin, y, angle])
    turn = build.node("Where", [below, build.node("Neg", [full]), full])
    build.emit("Where", [left, build.node("Add", [angle, turn]), angle], order)


def _operands(build: Builder) -> tuple[Order, list[str]]:
    order = build.follow()
    return order, [build.aligned(position, order) for position in (0, 1)]


def _is_float(build: Builder) -> bool:
    tensor = build.tensor(0)
    if tensor.dtype == "bool":
        raise RefusedOperatorError("it computes with truth values")
    return tensor.quantization is not None or np.dtype(tensor.dtype).kind == "f"
