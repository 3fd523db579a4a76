"""Numbers on the command line: finite, within bounds, and with a unit that the help names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import click

_HOUR: Final = 3_600
_DAY: Final = 86_400
_UNITS: Final = {"s": 1, "m": 60, "h": _HOUR, "d": _DAY}
# Clocks and threads refuse much more: 31 years.
_MOST_SECONDS: Final = 1e9
_LONG: Final = 1_000


class Amount(click.ParamType):  # type: ignore[type-arg]  # only later clicks have one
    """A finite number of something, within bounds; NaN is none.

    Args:
        name: The unit of a bare number; the help shows it in capitals.
        what: What it is, for whoever gives another thing.
        least: The smallest that makes sense.
        most: The largest that makes sense.
        above: Whether `least` itself makes none.
        units: What may stand behind the number, and how much of the unit each is.
    """

    def __init__(
        self,
        name: str,
        *,
        what: str = "",
        least: float = 0.0,
        most: float = math.inf,
        above: bool = False,
        units: Mapping[str, float] | None = None,
    ) -> None:
        self.name = name
        self._what = what or f"a number of {name}"
        self._least = least
        self._most = most
        self._above = above
        self._units = units or {}

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number in the unit of the name, or click's usage error."""
        text = str(value)
        unit = next((unit for unit in self._units if text.endswith(unit)), "")
        try:
            number = float(text.removesuffix(unit)) * self._units.get(unit, 1)
        except ValueError:
            number = math.nan
        large_enough = number > self._least if self._above else number >= self._least
        if not (math.isfinite(number) and large_enough and number <= self._most):
            self.fail(f"{text!r} is not {self._what}, {self._bounds()}.", param, ctx)
        return number

    def _bounds(self) -> str:
        if math.isinf(self._least):
            return "finite"
        least = f"{'above' if self._above else 'from'} {self._least:g}"
        if math.isinf(self._most):
            return least if self._above else f"{least} on"
        return f"{least} to {self._most:{',.0f' if self._most >= _LONG else 'g'}}"


def _time(name: str, seconds: int, *, above: bool) -> Amount:
    """A time that is given in a unit of so many seconds, or as 90s, 10m, 2h or 7d."""
    units = {unit: each / seconds for unit, each in _UNITS.items()}
    return Amount(name, most=_MOST_SECONDS / seconds, above=above, units=units)


SECONDS: Final = _time("seconds", 1, above=False)
SOME_SECONDS: Final = _time("seconds", 1, above=True)
SOME_HOURS: Final = _time("hours", _HOUR, above=True)
SOME_DAYS: Final = _time("days", _DAY, above=True)
MILLISECONDS: Final = Amount("ms", what="a number of milliseconds")
MEGABYTES: Final = Amount("mb", what="a number of megabytes")
SHARE: Final = Amount("share", what="a share", most=1.0, units={"%": 0.01})
PERCENT: Final = Amount("percent", most=100.0)
SOME_SHARE: Final = Amount("share", what="a share", most=1.0, above=True, units={"%": 0.01})
GROWTH: Final = Amount("share", what="a share", units={"%": 0.01})
NUMBER: Final = Amount("number", what="a number")
FINITE: Final = Amount("number", what="a number", least=-math.inf)
