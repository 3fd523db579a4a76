"""Several transports behind the interface of one, in the order in which they are preferred.

Each chunk is asked for at one of them: the first that is connected, and the next one when it is
not to be had there, or does not come. States and events go to all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from edgekit_agent.transports.arrivals import (
    Arrival,
    ChunkLacking,
    Connected,
    Disconnected,
    MetadataCame,
    OrderCame,
    ReportKind,
    Transport,
)

MakeTransport = Callable[[Callable[[Arrival], None]], Transport]


class SeveralTransports:
    """One transport made of several."""

    def __init__(
        self, makers: Sequence[tuple[str, MakeTransport]], *, post: Callable[[Arrival], None]
    ) -> None:
        """Make them; `start` begins.

        Args:
            makers: A name for each, and what makes it; the preferred first.
            post: Takes arrivals; those that differ by where they come from name their source.
        """
        self._post = post
        self._names = [name for name, _ in makers]
        self._transports = [
            make(lambda arrival, place=place: self._arrived(place, arrival))  # type: ignore[misc]
            for place, (_, make) in enumerate(makers)
        ]
        self._lock = threading.Lock()
        self._connected: set[int] = set()
        # Where each wanted chunk is asked for, and where it was not to be had.
        self._asked: dict[str, int] = {}
        self._lacking: dict[str, set[int]] = {}

    def start(self) -> None:
        """Begin with all of them."""
        for transport in self._transports:
            transport.start()

    def want(self, names: Iterable[str]) -> None:
        """Ask for these chunks, instead of those said before."""
        with self._lock:
            wanted = list(names)
            first = self._best(set())
            self._asked = {name: self._asked.get(name, first) for name in wanted}
            self._lacking = {n: places for n, places in self._lacking.items() if n in self._asked}
        self._ask()

    def received(self, name: str) -> None:
        """Do not ask for a chunk any more."""
        with self._lock:
            place = self._asked.pop(name, None)
            self._lacking.pop(name, None)
        if place is not None:
            self._transports[place].received(name)

    def retry(self, names: Iterable[str]) -> None:
        """Ask for these chunks at the next transport."""
        again: dict[int, list[str]] = {}
        with self._lock:
            for name in names:
                place = self._asked.get(name)
                if place is None:
                    continue
                self._lacking.setdefault(name, set()).add(place)
                after = self._best(self._lacking[name])
                if after in self._lacking[name]:
                    # All were tried: begin anew.
                    self._lacking[name] = set()
                    after = self._best(set())
                self._asked[name] = after
                if after == place:
                    again.setdefault(place, []).append(name)
        self._ask()
        for place, repeated in again.items():
            self._transports[place].retry(repeated)

    def publish_state(self, message: bytes) -> None:
        """Through all of them."""
        for transport in self._transports:
            transport.publish_state(message)

    def publish_report(self, kind: ReportKind, key: int, message: bytes) -> None:
        """Through all of them; whoever takes it first has taken it."""
        for transport in self._transports:
            transport.publish_report(kind, key, message)

    def close(self, last_state: bytes) -> None:
        """End all of them."""
        for transport in self._transports:
            transport.close(last_state)

    def _best(self, without: set[int]) -> int:
        """The preferred transport that is connected; the last one, if there is none."""
        for place in range(len(self._transports)):
            if place in self._connected and place not in without:
                return place
        return len(self._transports) - 1

    def _ask(self) -> None:
        with self._lock:
            shares: list[list[str]] = [[] for _ in self._transports]
            for name, place in self._asked.items():
                shares[place].append(name)
        for transport, share in zip(self._transports, shares, strict=True):
            transport.want(share)

    def _arrived(self, place: int, arrival: Arrival) -> None:
        match arrival:
            case Connected():
                with self._lock:
                    self._connected.add(place)
                    for name, asked in self._asked.items():
                        if asked not in self._connected or (
                            place < asked and place not in self._lacking.get(name, ())
                        ):
                            self._asked[name] = place
                self._post(Connected(source=self._names[place]))
                self._ask()
            case Disconnected():
                with self._lock:
                    self._connected.discard(place)
                    left = bool(self._connected)
                    for name, asked in self._asked.items():
                        if asked == place:
                            self._asked[name] = self._best(set())
                if not left:
                    self._post(arrival)
                self._ask()
            case MetadataCame() | OrderCame():
                self._post(replace(arrival, source=self._names[place]))
            case ChunkLacking(sha256=name):
                with self._lock:
                    if self._asked.get(name) == place:
                        tried = self._lacking.setdefault(name, set())
                        tried.add(place)
                        # Where nothing is left, a broker may still get it: it is asked last.
                        self._asked[name] = self._best(tried)
                self._ask()
            case _:
                self._post(arrival)
