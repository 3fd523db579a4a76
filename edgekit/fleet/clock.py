"""The time that signatures are made at, passed in so that tests can choose it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Now in UTC, in whole seconds: what TUF metadata can say."""
    return datetime.now(UTC).replace(microsecond=0)


def rfc3339(moment: datetime) -> str:
    """A UTC time as text: "2026-11-24T09:30:00Z"."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
