"""Numbers on the command line that make no sense are usage errors, whoever takes them."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgekit.cli import edgekit
from edgekit.cli.amounts import FINITE, NUMBER, PERCENT, SECONDS, SHARE, SOME_HOURS, Amount
from tests.edgekit.cli.commands import ALL

OPTIONS = [
    (name, option)
    for name, command in ALL.items()
    for option in command.params
    if isinstance(option.type, Amount)
]


def test_no_option_takes_a_bare_float() -> None:
    bare = [
        (name, option.name)
        for name, command in ALL.items()
        for option in command.params
        if isinstance(option.type, click.types.FloatParamType | click.FloatRange)
    ]
    assert bare == []


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{n} {o.name}" for n, o in OPTIONS])
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "1e400", "soon", ""])
def test_what_is_no_such_number_is_a_usage_error(
    name: str, option: click.Parameter, text: str
) -> None:
    with pytest.raises(click.BadParameter) as caught:
        option.type.convert(text, option, None)
    assert repr(text) in caught.value.message


def test_a_person_is_told_which_option_and_what_it_takes() -> None:
    command = ["fleet", "request", "logs", "oven-1", "--wait", "nan"]
    done = CliRunner().invoke(edgekit, command)
    assert done.exit_code == 2
    assert "'--wait'" in done.stderr
    assert "'nan' is not a number of seconds, from 0 to 1,000,000,000." in done.stderr


@pytest.mark.parametrize(
    ("kind", "text", "number"),
    [
        (SECONDS, "0", 0.0),
        (SECONDS, "1.5", 1.5),
        (SECONDS, "90s", 90.0),
        (SECONDS, "2h", 7_200.0),
        (SOME_HOURS, "2", 2.0),
        (SOME_HOURS, "30m", 0.5),
        (SOME_HOURS, "7d", 168.0),
        (SHARE, "0.25", 0.25),
        (SHARE, "25%", 0.25),
        (FINITE, "-3", -3.0),
    ],
)
def test_a_number_may_have_its_unit(kind: Amount, text: str, number: float) -> None:
    assert kind.convert(text, None, None) == pytest.approx(number)


@pytest.mark.parametrize(
    ("kind", "text", "bounds"),
    [
        (SOME_HOURS, "0", "a number of hours, above 0 to 277,778"),
        (SHARE, "101%", "a share, from 0 to 1"),
        (PERCENT, "101", "a number of percent, from 0 to 100"),
        (NUMBER, "-0.1", "a number, from 0 on"),
        (FINITE, "nan", "a number, finite"),
        (Amount("ms", above=True), "0", "a number of ms, above 0."),
        (SECONDS, "1e10", "a number of seconds"),
    ],
)
def test_bounds_are_said(kind: Amount, text: str, bounds: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        kind.convert(text, None, None)
    assert bounds in caught.value.message


@given(st.floats(min_value=0, max_value=1e9))
def test_every_number_within_bounds_is_taken_as_it_is(number: float) -> None:
    assert SECONDS.convert(number, None, None) == number
    assert SECONDS.convert(repr(number), None, None) == number
