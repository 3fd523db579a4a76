"""Times of the week at which devices may be told to update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from edgekit_runtime.errors import UsageError
from edgekit_runtime.fields import FieldReader

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES_OF_DAY: Final = 24 * 60
_TIME: Final = r"(?:[01]\d|2[0-3]):[0-5]\d"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A time of day on some days of the week; one that ends before it begins goes past midnight.

    Attributes:
        days: On which it begins: "mon" to "sun".
        begin: "HH:MM".
        end: "HH:MM"; the same as `begin` for the whole day.
        timezone: Of the IANA database: "Europe/Berlin".
    """

    days: tuple[str, ...]
    begin: str
    end: str
    timezone: str = "UTC"

    def holds(self, now: float) -> bool:
        """Whether a moment, in seconds since 1970, lies in it."""
        there = datetime.fromtimestamp(now, ZoneInfo(self.timezone))
        minute = there.hour * 60 + there.minute
        begin, end = _minutes(self.begin), _minutes(self.end)
        length = (end - begin - 1) % _MINUTES_OF_DAY + 1
        # Seconds within the minute do not matter; a window of yesterday may reach into today.
        today = DAYS[there.weekday()] in self.days and 0 <= minute - begin < length
        yesterday = (
            DAYS[there.weekday() - 1] in self.days and minute + _MINUTES_OF_DAY - begin < length
        )
        return today or yesterday

    def to_json(self) -> dict[str, object]:
        """The window as it is kept."""
        return {
            "days": list(self.days),
            "begin": self.begin,
            "end": self.end,
            "timezone": self.timezone,
        }


def is_open(windows: Sequence[Window], now: float) -> bool:
    """Whether one of the windows holds; always if there is none."""
    return not windows or any(window.holds(now) for window in windows)


def parse_window(text: str) -> Window:
    """Read a window as people write it: `mon-fri 22:00-04:00 Europe/Berlin`.

    Raises:
        UsageError: If it is none.
    """
    days_text, _, rest = text.strip().partition(" ")
    times, _, timezone = rest.strip().partition(" ")
    begin, _, end = times.partition("-")
    days: list[str] = []
    for part in days_text.lower().split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            days = []
            break
        start = DAYS.index(first)
        count = (DAYS.index(last) - start) % len(DAYS) if dash else 0
        days += [DAYS[(start + step) % len(DAYS)] for step in range(count + 1)]
    document = {
        "days": list(dict.fromkeys(days)),
        "begin": begin,
        "end": end,
        "timezone": timezone.strip() or "UTC",
    }
    reader = FieldReader(document)
    window = read_window(reader)
    if reader.faults:
        raise UsageError(
            f"{text!r} is no window: {'; '.join(reader.faults)}",
            fix="write it like: mon-fri 22:00-04:00 Europe/Berlin",
        )
    return window


def read_window(reader: FieldReader) -> Window:
    """Read what `Window.to_json` made; faults gather in the reader."""
    days = reader.texts("days", most=len(DAYS))
    if not days or not set(days) <= set(DAYS):
        reader.fault("days", f"must be some of {', '.join(DAYS)}")
    timezone = reader.text("timezone", default="UTC", most=64)
    try:
        ZoneInfo(timezone)
    except (ValueError, OSError, LookupError):
        reader.fault("timezone", f"{timezone!r} is not known here")
    return Window(
        days=days,
        begin=reader.text("begin", pattern=_TIME),
        end=reader.text("end", pattern=_TIME),
        timezone=timezone,
    )


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
