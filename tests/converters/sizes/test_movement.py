from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit_converters.sizes.movement import Movement, MovementPlan, written_shape
from edgekit_converters.sizes.size import Size, number


def shape_of(*sizes: int | str) -> tuple[Size, ...]:
    return tuple(number(s) if isinstance(s, int) else Size(1, (s,)) for s in sizes)


def apply(plan: MovementPlan, array: Any) -> Any:
    for shape, order in ((plan.before, None), (None, plan.order), (plan.after, None)):
        if shape is not None:
            array = array.reshape([size.factor for size in shape])
        if order is not None:
            array = array.transpose(order)
    return array


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[int], list[tuple[str, list[int]]]]:
    """A shape, and reshapes and transposes that may follow."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    now, steps = list(shape), []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            order = draw(st.permutations(range(len(now))))
            now = [now[axis] for axis in order]
            steps.append(("transpose", list(order)))
            continue
        factors = [prime for size in now for prime in _primes(size)]
        cuts = sorted(draw(st.lists(st.integers(0, len(factors)), max_size=4)))
        bounds = [0, *cuts, len(factors)]
        now = [math.prod(factors[a:b]) for a, b in itertools.pairwise(bounds)]
        steps.append(("reshape", list(now)))
    return shape, steps


def _primes(size: int) -> list[int]:
    for prime in (2, 3):
        if size % prime == 0:
            return [prime, *_primes(size // prime)]
    return []


@settings(max_examples=300, deadline=None)
@given(rows())
def test_a_plan_does_what_the_steps_do(row: tuple[list[int], list[tuple[str, list[int]]]]) -> None:
    shape, steps = row
    expected = array = np.arange(math.prod(shape)).reshape(shape)
    movement = Movement(shape_of(*shape))
    for kind, argument in steps:
        if kind == "transpose":
            movement.transpose(argument)
            expected = expected.transpose(argument)
        else:
            if not movement.reshape(shape_of(*argument)):
                return
            expected = expected.reshape(argument)
    plan = movement.plan()
    np.testing.assert_array_equal(apply(plan, array), expected)
    assert [size.factor for size in movement.shape] == list(expected.shape)
    assert plan.cost <= (
        sum(kind == "transpose" for kind, _ in steps),
        max(len(steps), 3),
    )


def test_a_free_size_moves_like_any_other() -> None:
    movement = Movement(shape_of(12, "n", 32))
    assert movement.reshape((number(12), Size(4, ("n",)), number(8)))
    movement.transpose((1, 0, 2))
    assert movement.reshape(shape_of("n", 4, 12, 8))
    plan = movement.plan()
    assert plan.before == shape_of(12, "n", 4, 8)
    assert plan.order == (1, 2, 0, 3)
    assert plan.after is None


def test_what_does_not_divide_cannot_be_said() -> None:
    assert not Movement(shape_of(4, 3)).reshape(shape_of(6, 2))
    assert not Movement(shape_of("n", 3)).reshape(shape_of("m", 3))
    assert not Movement(shape_of(4)).reshape((None,))
    assert not Movement(shape_of(4)).reshape(shape_of(2))
    assert not Movement(shape_of(4)).reshape(shape_of(4, 2))
    assert not Movement(shape_of(0)).reshape(shape_of(0))


def test_a_transpose_stays_one_step() -> None:
    movement = Movement(shape_of("n", 3, 4, 5))
    movement.transpose((0, 2, 3, 1))
    assert movement.plan() == MovementPlan(before=None, order=(0, 2, 3, 1), after=None)


def test_nothing_costs_nothing() -> None:
    movement = Movement(shape_of("n", 3))
    movement.transpose((1, 0))
    movement.transpose((1, 0))
    assert movement.plan().cost == (0, 0)


def test_the_last_axis_is_kept_only_whole() -> None:
    movement = Movement(shape_of("n", 5, 8))
    movement.transpose((1, 0, 2))
    assert movement.keeps_last_axis()
    assert movement.reshape((number(5), Size(2, ("n",)), number(4)))
    assert not movement.keeps_last_axis()


def test_an_axis_is_dropped_only_as_a_whole() -> None:
    movement = Movement(shape_of("n", 3, 4))
    movement.transpose((1, 0, 2))
    assert not movement.drop(1, 1)
    assert movement.drop(1, 0)
    assert movement.shape == shape_of("n", 4)


def test_a_written_shape_tells_one_free_size_and_copies_others() -> None:
    assert written_shape(shape_of("n", 12), shape_of("n", 3, 4)) == [-1, 12]
    assert written_shape(shape_of("n", "m", 4), shape_of("n", "m", 2, 2)) == [0, 0, 4]
    assert written_shape(shape_of("m", "n"), shape_of("n", "m")) is None
    assert written_shape(shape_of("n", "m"), None) is None
