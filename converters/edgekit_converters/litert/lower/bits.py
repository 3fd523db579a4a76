"""Operators on the bits of integers, and other readings of the same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import ANYTHING

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_SHORT: Final = frozenset({"int8", "int16", "int32", "uint8", "uint16", "uint32"})
_LONG: Final = frozenset({"int64", "uint64"})
_WIDTHS: Final = {"int32": 32, "int64": 64}


@lowers("BitwiseAnd", "BitwiseOr", "BitwiseXor", layout=follow, dtypes=_SHORT | _LONG)
def lower_bitwise(build: Builder, node: Node) -> None:
    """Bit by bit; a | b is a ^ b ^ (a & b), for LiteRT has no other."""
    steps = Steps(build, node)
    first, second = steps.input(0), steps.input(1)
    if node.op == "BitwiseXor":
        steps.finish(_exclusive(steps, first, second))
        return
    both = steps.stable("AND", first, second)
    if node.op == "BitwiseAnd":
        steps.finish(both)
    else:
        steps.finish(_exclusive(steps, _exclusive(steps, first, second), both))


@lowers("BitwiseNot", layout=follow, dtypes=_SHORT | _LONG)
def lower_bitwise_not(build: Builder, node: Node) -> None:
    """Every bit turned over."""
    steps = Steps(build, node)
    source = steps.input()
    ones = np.invert(np.zeros((), dtype=source.dtype))
    steps.finish(_exclusive(steps, source, steps.constant(np.asarray(ones), "ones")))


@lowers("BitCast", layout=follow, dtypes={"T1": ANYTHING, "T2": ANYTHING})
def lower_bit_cast(build: Builder, node: Node) -> None:
    """The same bits as another type of the same width."""
    steps = Steps(build, node)
    source = steps.input()
    wanted = build.graph.dtype(node.outputs[0])
    if source.dtype == wanted:
        build.alias(node, source)
    else:
        steps.finish(steps.step("BITCAST", [source], source.shape, wanted))


@lowers("BitShift", layout=follow, dtypes={"T": frozenset({"int32", "uint32"}) | _LONG})
def lower_shift(build: Builder, node: Node) -> None:
    """By as many bits as a second operand says, which may be negative or too many."""
    steps = Steps(build, node)
    source, count = steps.input(0), steps.input(1)
    signed = source.dtype[:3] == "int"
    work = "int64" if source.dtype in _LONG else "int32"
    bits, count = steps.bits(source, work), steps.bits(count, work)
    if node.text("direction", "") == "LEFT":
        shifted = _left(steps, bits, count)
    elif work == "int64":
        shifted = _long_right(steps, bits, count, signed=signed)
    else:
        shifted = _short_right(steps, bits, count, signed=signed)
    steps.finish(steps.bits(shifted, source.dtype))


def _left(steps: Steps, bits: Tensor, count: Tensor) -> Tensor:
    """Times a power of two, which wraps around; zero where nothing is left."""
    width = _WIDTHS[bits.dtype]
    powers = [*(1 << power for power in range(width)), 0]
    table = np.array(powers, dtype=np.uint64).astype(bits.dtype)
    index = steps.cast(steps.select(_outside(steps, count, width), width, count), "int32")
    return steps.mul(bits, steps.gather(steps.constant(table, "powers"), index, 0))


def _short_right(steps: Steps, bits: Tensor, count: Tensor, *, signed: bool) -> Tensor:
    width = _WIDTHS["int32"]
    outside = _outside(steps, count, width)
    within = steps.select(outside, width - 1, count)
    if signed:
        return steps.right_shift(bits, within)
    shifted = steps.right_shift(steps.bits(bits, "uint32"), steps.bits(within, "uint32"))
    return steps.select(outside, 0, steps.bits(shifted, "int32"))


def _long_right(steps: Steps, bits: Tensor, count: Tensor, *, signed: bool) -> Tensor:
    """By halves, of which the kernel for 32 bits shifts one or the other."""
    half = _WIDTHS["int32"]
    outside = _outside(steps, count, 2 * half)
    within = steps.cast(steps.select(outside, 2 * half - 1, count), "int32")
    low, upper = steps.halves(bits)
    kind = "int32" if signed else "uint32"
    high = steps.bits(upper, kind)
    table = np.array([2**power for power in range(half + 1)], dtype=np.int64)
    index = steps.sub(half, steps.minimum(half, within))
    scaled = steps.mul(
        steps.cast(high, "int64"), steps.gather(steps.constant(table, "powers"), index, 0)
    )
    rest = steps.right_shift(low, steps.cast(steps.minimum(half - 1, within), "uint32"))
    near = steps.add(scaled, steps.cast(rest, "int64"))
    beyond = steps.cast(steps.maximum(0, steps.sub(within, half)), kind)
    far = steps.cast(steps.right_shift(high, beyond), "int64")
    shifted = steps.select(steps.less(within, half), near, far)
    return shifted if signed else steps.select(outside, 0, shifted)


def _outside(steps: Steps, count: Tensor, width: int) -> Tensor:
    return steps.logical_or(steps.less(count, 0), steps.greater(count, width - 1))


def _exclusive(steps: Steps, first: Tensor, second: Tensor) -> Tensor:
    """The bits in which two differ; of 64 bits as pairs of 32, for which there is a kernel."""
    if first.dtype not in _LONG:
        return steps.binary("BITWISE_XOR", first, second)
    one, other = (
        steps.step("BITCAST", [tensor], (*tensor.shape, 2), "int32") for tensor in (first, second)
    )
    mixed = steps.binary("BITWISE_XOR", one, other)
    return steps.step("BITCAST", [mixed], mixed.shape[:-1], first.dtype)
