"""Ctrl-C as a wish that is followed in good order, and as a command when it is repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgekit.cli.render import say


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came: what is under way is ended in good order.

    Who presses Ctrl-C again does not want to wait for that, and gets a KeyboardInterrupt.
    """
    import signal

    came: list[int] = []

    def note(number: int, _frame: object) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt
        say("ending in good order; Ctrl-C again ends it at once")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
