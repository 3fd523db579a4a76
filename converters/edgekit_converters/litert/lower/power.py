"""Pow, in all pairs of types: of floats by LiteRT's kernel, of integers by repeated squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import NUMBERS

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

# No power of an integer beyond the 63rd fits, unless it is of -1, 0 or 1, where it matters
# whether the exponent is even.
_LARGEST_EXPONENT: Final = 64
_EXPONENT_BITS: Final = 7
_FEW: Final = 16


@lowers("Pow", layout=follow, dtypes=NUMBERS)
def lower_power(build: Builder, node: Node) -> None:
    """A power; its type is the base's, whatever the exponent's."""
    steps = Steps(build, node)
    base, exponent = steps.input(0), steps.input(1)
    if base.dtype == "float32":
        steps.finish(steps.pow(base, steps.cast(exponent, "float32")))
    elif exponent.dtype in {"float16", "float32", "float64"}:
        steps.finish(_power_of_float(steps, base, exponent))
    else:
        steps.finish(_power_of_integer(steps, base, steps.cast(exponent, "int64")))


def _power_of_float(steps: Steps, base: Tensor, exponent: Tensor) -> Tensor:
    """An integer to a float: exact where that is whole, else to float32's digits, cut."""
    exponent = steps.cast(exponent, "float32")
    if exponent.data is not None and (exponent.data == np.round(exponent.data)).all():
        return _power_of_integer(steps, base, steps.cast(exponent, "int64"))
    whole = _power_of_integer(steps, base, steps.cast(exponent, "int64"))
    broken = steps.cast(steps.pow(steps.cast(base, "float32"), exponent), base.dtype)
    return steps.select(steps.equal(exponent, steps.round(exponent)), whole, broken)


def _power_of_integer(steps: Steps, base: Tensor, exponent: Tensor) -> Tensor:
    known = exponent.data
    alone = known is not None and known.size == 1 and known.ndim <= len(base.shape)
    if known is not None and alone and 0 < known.item() <= _FEW:
        return _repeated(steps, base, known.item())
    return _computed(steps, base, exponent)


def _repeated(steps: Steps, base: Tensor, exponent: int) -> Tensor:
    """By the bits of a known exponent above zero."""
    result: Tensor | None = None
    while True:
        if exponent % 2:
            result = base if result is None else steps.mul(result, base)
        exponent //= 2
        if result is not None and not exponent:
            return result
        base = steps.mul(base, base)


def _computed(steps: Steps, base: Tensor, exponent: Tensor) -> Tensor:
    """By the bits of an exponent that the model computes; below zero, one over the power."""
    below = steps.less(exponent, 0)
    size = steps.maximum(exponent, steps.neg(exponent))
    odd = steps.floor_mod(size, 2)
    largest = steps.add(odd, _LARGEST_EXPONENT)
    rest = steps.cast(steps.minimum(size, largest), "int32")
    square = base
    result = steps.select(_is_odd(steps, rest), square, 1)
    for _ in range(_EXPONENT_BITS - 1):
        square = steps.mul(square, square)
        rest = steps.right_shift(rest, steps.number(1, "int32"))
        result = steps.mul(result, steps.select(_is_odd(steps, rest), square, 1))
    # One over it, cut towards zero, is itself for -1 and 1, and else zero.
    unit = steps.equal(steps.maximum(base, steps.neg(base)), 1)
    inverse = steps.select(unit, result, 0)
    return steps.select(below, inverse, result)


def _is_odd(steps: Steps, number: Tensor) -> Tensor:
    return steps.equal(steps.floor_mod(number, 2), 1)
