"""Operators of one operand that LiteRT has as one, and their other element types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import FLOAT, NUMBERS

if TYPE_CHECKING:
    from edgekit_converters.graph import Node

_KERNELS: Final = {
    "Ceil": "CEIL",
    "Cos": "COS",
    "Exp": "EXP",
    "Floor": "FLOOR",
    "HardSwish": "HARD_SWISH",
    "Log": "LOG",
    "Round": "ROUND",
    "Sigmoid": "LOGISTIC",
    "Sin": "SIN",
    "Sqrt": "SQRT",
    "Tanh": "TANH",
}
_DOUBLE: Final = frozenset({"float64"})
_UNSIGNED: Final = frozenset({"uint64"})


@lowers(*_KERNELS, layout=follow)
def lower_kernel(build: Builder, node: Node) -> None:
    """Operators that LiteRT has under another name."""
    build.emit(_KERNELS[node.op], [build.input(node)], node)


@lowers("Relu", layout=follow, dtypes=NUMBERS)
def lower_relu(build: Builder, node: Node) -> None:
    """The larger of it and zero; the kernel has floats alone."""
    steps = Steps(build, node)
    source = steps.input()
    steps.finish(steps.relu(source) if source.dtype == "float32" else steps.maximum(0, source))


@lowers("Neg", layout=follow, dtypes=NUMBERS | _DOUBLE)
def lower_negative(build: Builder, node: Node) -> None:
    """The negative; of the least integer, itself."""
    steps = Steps(build, node)
    steps.finish(steps.negative(steps.input()))


@lowers("Abs", layout=follow, dtypes=NUMBERS | _DOUBLE | _UNSIGNED)
def lower_magnitude(build: Builder, node: Node) -> None:
    """The magnitude; of the least integer, itself."""
    steps = Steps(build, node)
    source = steps.input()
    if source.dtype == "uint64":
        build.alias(node, source)
    elif source.dtype == "float64":
        bits = steps.bits(source, "int64")
        cleared = steps.select(steps.less(bits, 0), steps.flipped(bits), bits)
        steps.finish(steps.bits(cleared, "float64"))
    elif source.dtype == "int64":
        steps.finish(steps.maximum(source, steps.neg(source)))
    else:
        steps.finish(steps.abs(source))


@lowers("Sign", layout=follow, dtypes=NUMBERS | _DOUBLE | _UNSIGNED)
def lower_sign(build: Builder, node: Node) -> None:
    """-1, 0 or 1."""
    steps = Steps(build, node)
    source = steps.input()
    if source.dtype == "int64":
        steps.finish(steps.minimum(1, steps.maximum(-1, source)))
    elif source.dtype == "uint64":
        set_bits = steps.not_equal(steps.bits(source, "int64"), 0)
        steps.finish(steps.cast(set_bits, "int64"))
    else:
        steps.finish(steps.sign(source))


@lowers("Reciprocal", layout=follow)
def lower_reciprocal(build: Builder, node: Node) -> None:
    """One divided by the input."""
    steps = Steps(build, node)
    steps.finish(steps.div(1.0, steps.input()))


@lowers("IsNaN", layout=follow, dtypes={"T1": FLOAT | _DOUBLE})
def lower_is_nan(build: Builder, node: Node) -> None:
    """What does not equal itself."""
    steps = Steps(build, node)
    steps.finish(steps.is_nan(steps.input()))


@lowers("IsInf", layout=follow, dtypes={"T1": FLOAT | _DOUBLE})
def lower_is_infinite(build: Builder, node: Node) -> None:
    """Infinity of one sign, or of both."""
    steps = Steps(build, node)
    source = steps.input()
    order = steps.order(source)
    found = [
        steps.equal(order, steps.order(steps.number(infinity, source.dtype)))
        for attribute, infinity in (
            ("detect_positive", float("inf")),
            ("detect_negative", float("-inf")),
        )
        if node.integer(attribute, 1)
    ]
    if not found:
        steps.finish(steps.like(source, 0.0, "bool"))
    elif len(found) == 1:
        steps.finish(found[0])
    else:
        steps.finish(steps.logical_or(*found))
