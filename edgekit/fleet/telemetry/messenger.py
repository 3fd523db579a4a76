"""Deliver notices: to each who is to be told in turn, and to none later because another is slow."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from edgekit.fleet.folder import BrokerAddress
from edgekit.fleet.telemetry.notices import Notice, Target
from edgekit.fleet.telemetry.outbox import Outbox, Waiting, place_of
from edgekit.fleet.telemetry.sending import FAILURES, name_of, send
from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.protocol import Topics

_log = logging.getLogger(__name__)

_MOST_WAITING: Final = 1_000
_TRIES: Final = 3
_FIRST_PAUSE_SECONDS: Final = 1.0
_GOODBYE_SECONDS: Final = 15.0
# A command that is told to end may take as long, twice.
_END_SECONDS: Final = 6.0

Refill = Callable[[Notice], Notice]
"""Gives a notice that was kept without its files those that go with it."""


class Messenger:
    """Sends notices, each destination's from a thread of its own; never waits, never fails.

    What cannot be sent is tried again, then counted. What was not sent when the control plane
    ended, in whatever way, is sent by the next one: a notice may come twice, with the same `id`.

    Args:
        targets: Who is told what.
        fleet: For the MQTT topic.
        broker: For MQTT; None to leave that out.
        outbox: Where notices wait; None to keep them in memory alone.
        refill: See there.
        pause: How to wait between two tries; by default until it is closed at most.

    Raises:
        EnvironmentLackError: If the database cannot be used.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        fleet: str,
        broker: BrokerAddress | None = None,
        outbox: Outbox | None = None,
        refill: Refill = lambda notice: notice,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        stopping = threading.Event()
        waiting: dict[str, list[Waiting]] = {}
        if outbox is not None:
            waiting = {place_of(target): outbox.waiting(target) for target in targets}
            if gone := outbox.drop_others(targets):
                _log.warning("%d notices waited for who is told nothing any more", gone)
        topic = f"{Topics(fleet).base}/notices"
        self._stopping = stopping
        self._destinations = [
            _Destination(
                target,
                deliver=partial(send, topic=topic, broker=broker, stopping=stopping),
                outbox=outbox,
                # Where one stands in the file twice, the first takes what waits for both.
                waiting=waiting.pop(place_of(target), ()),
                refill=refill,
                pause=pause or stopping.wait,
                stopping=stopping,
            )
            for target in targets
        ]

    @property
    def sent(self) -> int:
        """How many were delivered."""
        return sum(destination.sent for destination in self._destinations)

    @property
    def lost(self) -> int:
        """How many never will be."""
        return sum(destination.lost for destination in self._destinations)

    def tell(self, notice: Notice) -> None:
        """Send a notice to all who want it; if too many wait for one, it is lost and counted."""
        for destination in self._destinations:
            if destination.target.wants(notice.kind):
                destination.take(notice)

    def close(self) -> None:
        """Send what waits, for some seconds at most, and end; commands that run are ended."""
        deadline = time.monotonic() + _GOODBYE_SECONDS
        for destination in self._destinations:
            destination.no_more()
        for destination in self._destinations:
            destination.join(deadline - time.monotonic())
        self._stopping.set()
        deadline = time.monotonic() + _END_SECONDS
        for destination in self._destinations:
            destination.join(deadline - time.monotonic())


class _Destination:
    def __init__(
        self,
        target: Target,
        *,
        deliver: Callable[[Target, Notice], None],
        outbox: Outbox | None,
        waiting: Sequence[Waiting],
        refill: Refill,
        pause: Callable[[float], object],
        stopping: threading.Event,
    ) -> None:
        self.target = target
        self.sent = self.lost = 0
        self._deliver_once = deliver
        self._outbox = outbox
        self._refill = refill
        self._pause = pause
        self._stopping = stopping
        self._waiting: queue.Queue[Waiting | None] = queue.Queue()
        # Delivered, and still in the database because that could not be used.
        self._done: list[str] = []
        for item in waiting:
            self._waiting.put(item)
        self._restored = {item.name for item in waiting}
        self._thread = threading.Thread(
            target=self._run, name=f"notices to {name_of(target)}", daemon=True
        )
        self._thread.start()

    def take(self, notice: Notice) -> None:
        """Let a notice wait for its turn."""
        if self._waiting.qsize() >= _MOST_WAITING:
            self.lost += 1
            return
        item = Waiting(name="", notice=notice)
        if self._outbox is not None:
            try:
                item = self._outbox.add(self.target, notice)
            except EnvironmentLackError as error:
                _log.warning("a notice waits in memory alone: %s", error)
        self._waiting.put(item)

    def no_more(self) -> None:
        """End after what waits."""
        self._waiting.put(None)

    def join(self, seconds: float) -> None:
        """Wait for the end."""
        self._thread.join(max(0.0, seconds))

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None and not self._stopping.is_set():
            delivered = self._deliver(item)
            if not delivered and self._stopping.is_set():
                # Whoever serves next begins with it.
                return
            self.sent += delivered
            self.lost += not delivered
            self._forget(item)

    def _deliver(self, item: Waiting) -> bool:
        for attempt in range(_TRIES):
            if attempt:
                self._pause(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
            if self._stopping.is_set():
                break
            try:
                notice = item.notice
                if item.name in self._restored:
                    notice = self._refill(notice)
                self._deliver_once(self.target, notice)
            except FAILURES as error:
                name = name_of(self.target)
                _log.warning("%s could not be told of %s: %s", name, item.notice.kind, error)
            else:
                return True
        return False

    def _forget(self, item: Waiting) -> None:
        if self._outbox is None or not item.name:
            return
        self._done.append(item.name)
        try:
            self._outbox.remove(self._done)
        except EnvironmentLackError as error:
            _log.warning("a notice that was delivered is still kept: %s", error)
        else:
            self._done.clear()
