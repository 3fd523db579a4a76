from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from edgekit_converters.sizes.size import Size, count, number, numbers, product

NAMES = ("batch", "length", "width")


@st.composite
def sizes(draw: st.DrawFn) -> Size:
    free = draw(st.lists(st.sampled_from(NAMES), max_size=3))
    return Size(draw(st.integers(1, 60)), tuple(sorted(free)))


def at(size: Size, values: dict[str, int]) -> int:
    """The number that a size is where its free sizes have these values."""
    return size.factor * math.prod(values[name] for name in size.free)


values = st.fixed_dictionaries({name: st.integers(1, 9) for name in NAMES})


@given(sizes(), sizes(), values)
def test_products_are_those_of_the_numbers(
    first: Size, second: Size, known: dict[str, int]
) -> None:
    assert at(first * second, known) == at(first, known) * at(second, known)


@given(sizes(), sizes(), values)
def test_quotients_are_exact_or_none(first: Size, second: Size, known: dict[str, int]) -> None:
    quotient = first.over(second)
    if quotient is not None:
        assert at(quotient, known) * at(second, known) == at(first, known)


@given(sizes(), sizes())
def test_a_product_has_its_factors_as_quotients(first: Size, second: Size) -> None:
    assert (first * second).over(second) == first


@given(st.lists(sizes(), max_size=4), values)
def test_a_shape_has_as_many_elements(shape: list[Size], known: dict[str, int]) -> None:
    total = product(shape)
    assert total is not None
    assert at(total, known) == math.prod(at(size, known) for size in shape)


def test_what_cannot_be_said_is_none() -> None:
    batch = Size(1, ("batch",))
    assert product([batch, None]) is None
    assert numbers((number(2), batch)) is None
    assert count((number(2), number(3))) == 6
    assert count((number(2), None)) is None
    assert batch.over(number(2)) is None
    assert number(7).over(number(2)) is None
    assert number(7).over(number(0)) is None


def test_zero_is_zero_whatever_is_free() -> None:
    assert number(0) * Size(3, ("batch",)) == number(0)


def test_a_size_reads_as_a_person_writes_it() -> None:
    shown = [str(size) for size in (number(4), Size(1, ("n",)), Size(4, ("m", "n")), number(1))]
    assert shown == ["4", "n", "4*m*n", "1"]
