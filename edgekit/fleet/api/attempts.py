"""Bounds on how often somebody may try a secret that is not theirs."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Final

from edgekit_runtime.errors import GateFailedError

_MOST_PLACES: Final = 10_000
_IPV6_SITE_BITS: Final = 64


class TooManyAttemptsError(GateFailedError):
    """Too much was refused lately; `seconds` says when to come back."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "too many attempts from this address were refused",
            fix=f"wait {seconds:.0f} seconds, and try with a token that is valid",
        )
        self.seconds = seconds


class Attempts:
    """Counts what was refused by where it came from; may be used from many threads.

    Args:
        most: How many refusals within the time are borne.
        seconds: The time.
        clock: Monotonic seconds.
    """

    def __init__(
        self, *, most: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._refused: OrderedDict[str, deque[float]] = OrderedDict()

    def count(self, place: str) -> None:
        """Note a refusal.

        Raises:
            TooManyAttemptsError: If as many as are borne came from there within the time.
        """
        with self._lock:
            site = _site(place)
            recent = self._recent(site)
            if len(recent) >= self._most:
                raise TooManyAttemptsError(max(1.0, recent[0] + self._seconds - self._clock()))
            recent.append(self._clock())
            self._refused[site] = recent
            self._refused.move_to_end(site)
            while len(self._refused) > _MOST_PLACES:
                self._refused.popitem(last=False)

    def _recent(self, site: str) -> deque[float]:
        recent = self._refused.get(site, deque())
        while recent and recent[0] <= self._clock() - self._seconds:
            recent.popleft()
        return recent


def _site(place: str) -> str:
    """An address, or the network that one household has of IPv6's."""
    try:
        address = ip_address(place)
    except ValueError:
        return place
    if isinstance(address, IPv6Address):
        return str(int(address) >> _IPV6_SITE_BITS)
    return str(address)
