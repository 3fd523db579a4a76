"""Reshapes and transposes in a row as one thing: a permutation of blocks that no step takes apart.

Each axis is taken for a product of blocks. A reshape regroups the row of blocks, and may split one;
a transpose reorders it. What comes out in the end can be written again as at most one reshape, one
transpose and one more reshape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgekit_converters.sizes.size import Size, Sizes, number, product


@dataclass(frozen=True, slots=True, kw_only=True)
class MovementPlan:
    """Steps that move elements: reshape, transpose, reshape, each of which may be absent.

    Attributes:
        before: Shape to bring the source into first.
        order: The permutation.
        after: Shape to bring the permuted value into.
    """

    before: tuple[Size, ...] | None
    order: tuple[int, ...] | None
    after: tuple[Size, ...] | None

    @property
    def cost(self) -> tuple[int, int]:
        """How many transposes, and how many steps."""
        steps = (self.before, self.order, self.after)
        return int(self.order is not None), sum(step is not None for step in steps)


class _Block:
    """A factor of an axis; known by its identity."""

    __slots__ = ("size",)

    def __init__(self, size: Size) -> None:
        self.size = size


class Movement:
    """What a row of reshapes and transposes does to a value of a given shape."""

    def __init__(self, source: Sequence[Size]) -> None:
        self._source = tuple(source)
        one = number(1)
        self._before = [[_Block(size)] if size != one else [] for size in self._source]
        self._now = [list(axis) for axis in self._before]

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape after the steps so far."""
        return tuple(_size(axis) for axis in self._now)

    def transpose(self, order: Sequence[int]) -> None:
        """Permute the axes."""
        self._now = [self._now[axis] for axis in order]

    def reshape(self, target: Sizes) -> bool:
        """Regroup the elements in order.

        Returns:
            False where that cannot be said in whole blocks; the movement is of no use then.
        """
        left = [block for axis in self._now for block in axis]
        axes = []
        for size in target:
            axis = []
            if size is None or not size.factor:
                return False
            need = size
            while need != number(1):
                if not left:
                    return False
                block = left.pop(0)
                rest = need.over(block.size)
                if rest is None:
                    beyond = block.size.over(need)
                    if beyond is None:
                        return False
                    block, other = self._split(block, need, beyond)
                    left.insert(0, other)
                    rest = number(1)
                axis.append(block)
                need = rest
            axes.append(axis)
        self._now = axes
        return not left

    def keeps_last_axis(self) -> bool:
        """Whether the last axis is still the source's last, whole and by itself.

        An axis of size one has no identity: it is not kept.
        """
        return bool(self._now) and bool(self._now[-1]) and self._now[-1] == self._before[-1]

    def drop(self, before: int, now: int) -> bool:
        """Take away an axis, as if the source never had it.

        Args:
            before: The axis of the source.
            now: The axis that it has become.

        Returns:
            False where they are not one and the same.
        """
        if self._before[before] != self._now[now] or len(self._before[before]) != 1:
            return False
        del self._before[before], self._now[now]
        self._source = self._source[:before] + self._source[before + 1 :]
        return True

    def plan(self) -> MovementPlan:
        """The cheapest steps that do the same."""
        plans = [self._plan(by_source, by_target) for by_source in (False, True)
                 for by_target in (False, True)]  # fmt: skip
        return min(plans, key=lambda plan: (plan.cost, len(plan.order or ())))

    def _plan(self, by_source: bool, by_target: bool) -> MovementPlan:  # noqa: FBT001
        """Steps with blocks joined wherever they stay neighbours, but not across these axes."""
        place: dict[_Block, int] = {}
        axis_before: dict[_Block, int] = {}
        for axis, blocks in enumerate(self._before):
            for block in blocks:
                place[block] = len(place)
                axis_before[block] = axis
        moved = [(block, axis) for axis, blocks in enumerate(self._now) for block in blocks]
        runs = [[moved[0][0]]] if moved else []
        for (block, axis), (following, next_axis) in pairwise(moved):
            if (
                place[following] == place[block] + 1
                and not (by_source and axis_before[following] != axis_before[block])
                and not (by_target and next_axis != axis)
            ):
                runs[-1].append(following)
            else:
                runs.append([following])
        straight = sorted(runs, key=lambda run: place[run[0]])
        order = tuple(straight.index(run) for run in runs)
        target = self.shape
        if order == tuple(range(len(order))):
            return MovementPlan(
                before=None, order=None, after=None if target == self._source else target
            )
        before = tuple(_size(run) for run in straight)
        permuted = tuple(_size(run) for run in runs)
        return MovementPlan(
            before=None if before == self._source else before,
            order=order,
            after=None if permuted == target else target,
        )

    def _split(self, block: _Block, first: Size, second: Size) -> tuple[_Block, _Block]:
        pair = (_Block(first), _Block(second))
        for axes in (self._before, self._now):
            for axis in axes:
                if block in axis:
                    at = axis.index(block)
                    axis[at : at + 1] = pair
        return pair


def _size(blocks: Sequence[_Block]) -> Size:
    total = product(block.size for block in blocks)
    return number(1) if total is None else total


def written_shape(target: Sequence[Size], source: Sizes | None) -> list[int] | None:
    """A shape as a Reshape takes it: one free size as -1, others as 0 where the source has them.

    Returns:
        None where more than one free size would have to be told.
    """
    written = [size.factor if size.known else -1 for size in target]
    if written.count(-1) > 1 and source is not None:
        for axis, size in enumerate(target):
            if not size.known and axis < len(source) and source[axis] == size:
                written[axis] = 0
    return written if written.count(-1) <= 1 else None
