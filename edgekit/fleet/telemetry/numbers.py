"""Which records of a stream were counted, in whatever order they come. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

# Of a stream; the oldest gaps are given up first: what comes out of one then counts as known. Of
# two replicas each takes every other batch of a device, and one that died leaves a gap for each.
MAX_GAPS: Final = 2_000


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
        place = bisect_right(self.gaps, [number, number]) - 1
        # The gap that begins with this number may sort after it, as it is longer.
        for near in (place, place + 1):
            if 0 <= near < len(self.gaps) and self.gaps[near][0] <= number <= self.gaps[near][1]:
                first, final = self.gaps[near]
                rest = [[first, number - 1], [number + 1, final]]
                self.gaps[near : near + 1] = [gap for gap in rest if gap[0] <= gap[1]]
                return True
        return False


def numbers_of(last: int, gaps: Sequence[Sequence[int]]) -> Numbers:
    """As they were stored."""
    return Numbers(last, [list(gap) for gap in gaps])
