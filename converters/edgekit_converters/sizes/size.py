"""A size: a number, or a number times sizes that are free."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """A product of a number and free sizes.

    Attributes:
        factor: The number.
        free: Names of the free sizes, sorted, one as often as it is multiplied.
    """

    factor: int
    free: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether it is a number."""
        return not self.free

    def __mul__(self, other: Size) -> Size:
        """The product of two sizes."""
        factor = self.factor * other.factor
        return Size(factor, tuple(sorted(self.free + other.free)) if factor else ())

    def over(self, other: Size) -> Size | None:
        """The quotient where it is exact for every value of the free sizes, else None."""
        rest = Counter(self.free)
        rest.subtract(other.free)
        if not other.factor or min(rest.values(), default=0) < 0 or self.factor % other.factor:
            return None
        return Size(self.factor // other.factor, tuple(sorted(rest.elements())))

    def __str__(self) -> str:
        """The product as a person writes it."""
        return "*".join([*([str(self.factor)] if self.factor != 1 or self.known else []),
                         *self.free])  # fmt: skip


# What cannot be said as such a product is None.
Sizes = tuple[Size | None, ...]


def number(value: int) -> Size:
    """A size that is known."""
    return Size(int(value))


def product(sizes: Iterable[Size | None]) -> Size | None:
    """The product of sizes, None if one of them cannot be said."""
    total = Size(1)
    for size in sizes:
        if size is None:
            return None
        total *= size
    return total


def numbers(sizes: Sizes) -> tuple[int, ...] | None:
    """The sizes as numbers, None if one of them is free."""
    if any(size is None or not size.known for size in sizes):
        return None
    return tuple(size.factor for size in sizes if size is not None)


def count(sizes: Sizes) -> int | None:
    """The number of elements of a shape that is known, else None."""
    known = numbers(sizes)
    return None if known is None else math.prod(known)
