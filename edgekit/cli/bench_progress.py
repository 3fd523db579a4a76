"""How far `edgekit bench` is: a bar where somebody looks, plain lines where nobody does."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType
from typing import Final, Self

import click

from edgekit.cli.render import say

_WIDTH: Final = 24
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """Steps of a known number, on standard error."""

    def __init__(self, steps: int, *, live: bool | None = None) -> None:
        """Draw a bar if `live`; by default if standard error is a terminal."""
        self._steps = max(1, steps)
        self._done = 0
        self._text = ""
        self._live = sys.stderr.isatty() if live is None else live

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave a clean line, whatever happened."""
        if self._live:
            click.echo(_CLEAR, nl=False, err=True, color=True)

    def say(self, text: str) -> None:
        """What is being done now."""
        self._text = text
        if self._live:
            self._draw()
        else:
            say(text)

    def advance(self) -> None:
        """One step is done."""
        self._done = min(self._steps, self._done + 1)
        if self._live:
            self._draw()

    def _draw(self) -> None:
        full = _WIDTH * self._done // self._steps
        bar = "█" * full + "░" * (_WIDTH - full)
        columns = shutil.get_terminal_size().columns
        line = f"{bar} {self._done}/{self._steps}  {self._text}"
        click.echo(_CLEAR + line[: max(20, columns - 1)], nl=False, err=True, color=True)
