"""Which records of a stream were counted, in whatever order they come. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

# Of a stream; the oldest gaps are given up first: what comes out of one then counts as known.
MAX_GAPS: Final = 32


@dataclass(slots=True)
class Numbers:
    """The numbers of the records that were counted: all up to the last, but for the gaps.

    Attributes:
        last: The highest.
        gaps: First and last number of each span below it that did not come, in order.
    """

    last: int = 0
    gaps: list[list[int]] = field(default_factory=list)

    def add(self, number: int) -> bool:
        """Note a number; whether it is new."""
        if number > self.last:
            if number > self.last + 1:
                self.gaps.append([self.last + 1, number - 1])
                del self.gaps[:-MAX_GAPS]
            self.last = number
            return True
        for place, (first, final) in enumerate(self.gaps):
            if first <= number <= final:
                rest = [[first, number - 1], [number + 1, final]]
                self.gaps[place : place + 1] = [gap for gap in rest if gap[0] <= gap[1]]
                del self.gaps[:-MAX_GAPS]
                return True
        return False


def numbers_of(last: int, gaps: Sequence[Sequence[int]]) -> Numbers:
    """As they were stored."""
    return Numbers(last, [list(gap) for gap in gaps])
