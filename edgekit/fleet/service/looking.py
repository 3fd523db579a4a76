"""Come back to each of several things now and then, and let none of them keep the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeVar

from edgekit_runtime.errors import EdgekitError

# Signing takes a millisecond or two a device: the devices are heard in between.
TOLD_AT_ONCE: Final = 50

_log = logging.getLogger(__name__)


class _Named(Protocol):
    @property
    def id(self) -> str: ...


_Thing = TypeVar("_Thing", bound=_Named)


class Looks:
    """When each thing is looked at next: the longer a look takes, the fewer there are.

    A look at ten thousand devices takes seconds, in which nobody hears them.

    Args:
        seconds: Between two looks of less than a second.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next: dict[str, float] = {}

    def take(self, name: str, look: Callable[[], object]) -> None:
        """Look now, if it is time; the first look is at once."""
        began = time.monotonic()
        if began < self._next.get(name, float("-inf")):
            return
        try:
            look()
        finally:
            took = time.monotonic() - began
            self._next[name] = began + self._seconds * max(1.0, took)


def bring_forward(kind: str, things: Iterable[_Thing], act: Callable[[_Thing], None]) -> None:
    """Do something for each; what cannot go on is logged, and does not keep the others."""
    for thing in things:
        try:
            act(thing)
        except EdgekitError as error:
            _log.warning("%s %s: %s", kind, thing.id, error)
