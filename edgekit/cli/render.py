"""Text for the terminal: tables, sizes, JSON."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import click

_KILO: Final = 1000
# A figure with its unit, or a dash for none.
_FIGURE: Final = r"-|\d[\d.,e+-]*( ?[%A-Za-z]{1,3})?"


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str], none: str = "") -> str:
    """Columns under a head, numbers to the right; `none` where there are no rows."""
    if none and not rows:
        return none
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    right = [
        bool(rows) and all(re.fullmatch(_FIGURE, row[column]) for row in rows)
        for column in range(len(head))
    ]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(cells, widths, right, strict=True)
        ).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(head), rule, *[line(row) for row in rows]])


def size(count: float) -> str:
    """A number of bytes for people: "81.4 kB"."""
    for unit in ("B", "kB", "MB"):
        if count < _KILO:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KILO
    return f"{count:.1f} GB"


def percent(share: float) -> str:
    """A share of one for people: "98.52 %"."""
    return f"{share * 100:.2f} %"


def milliseconds(value: float) -> str:
    """A latency for people, with three significant digits."""
    return f"{value:.3g} ms"


def moment(seconds: float | None, *, none: str = "-") -> str:
    """A moment for people, UTC, to the minute."""
    return none if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def emit_json(document: object) -> None:
    """Print a JSON document, and nothing else, to standard output."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """Progress, to standard error: standard output is for results."""
    click.echo(click.style("· ", fg="cyan") + text, err=True)


def wait_for_interrupt(goes_on: Callable[[], bool] = lambda: True) -> None:
    """Wait until Ctrl-C, which is the ordinary end here, or until something has ended."""
    try:
        while goes_on():
            time.sleep(0.2)
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
