"""Write down what devices say, before the broker may forget it."""

from __future__ import annotations

import logging
import time
from typing import Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.rollouts.fleet_view import FleetView
from edgekit.fleet.store.database import Database
from edgekit.fleet.telemetry.ledger import Ledger, Measured
from edgekit.fleet.telemetry.listener import FleetListener, Heard
from edgekit_runtime.reports import DeviceEvent, DeviceState

_log = logging.getLogger(__name__)

# What was not acknowledged, the broker sends again at the next connection.
_MANY: Final = 1_000
_PAUSE_SECONDS: Final = 0.02
_MOST_UNWRITTEN: Final = 50_000


class Hearing:
    """Takes messages from a listener into the database; acknowledges what is on the disk.

    Args:
        database: Where to.
        listener: Who hears; `listeners` may be others later, at least one.
        ledger: What devices measure.
        clock: The time.
    """

    def __init__(
        self,
        database: Database,
        listener: FleetListener,
        *,
        ledger: Ledger,
        clock: Clock = utc_now,
    ) -> None:
        self.listeners = [listener]
        self._topics = listener.topics
        self._spoke: set[FleetListener] = set()
        self._ledger = ledger
        self._clock = clock
        self._inventory = Inventory(database, actor="service", clock=clock)
        self._unwritten: list[Heard] = []
        self._states: dict[str, DeviceState] = {}
        self._events: list[DeviceEvent] = []
        self._measured: list[Measured] = []
        self._refused = 0
        self.view = FleetView(listener.topics, on_event=self._events.append)

    @property
    def faulty(self) -> int:
        """How many messages were not believed."""
        return self.view.faulty + self._refused

    def turn(self, *, timeout_s: float) -> int:
        """Take in what came; how many messages were written down.

        Raises:
            EnvironmentLackError: If the database cannot be used: nothing is lost, try again.
        """
        heard = self._take(timeout_s)
        room = _MOST_UNWRITTEN - len(self._unwritten)
        if len(heard) > room:
            _log.warning("more waits than is kept: the broker sends the rest again later")
        self._understand(heard[:room])
        if not self._unwritten:
            return 0
        self._inventory.hear(self._states.values(), self._events)
        kept = self._ledger.keep(self._measured, now=self._clock().timestamp())
        self._refused += kept.refused
        for message in self._unwritten:
            message.done()
        count = len(self._unwritten)
        for waiting in (self._unwritten, self._states, self._events, self._measured):
            waiting.clear()
        return count

    def _take(self, timeout_s: float) -> list[Heard]:
        """What comes within a time: a transaction for every message would be all that we do."""
        heard: list[Heard] = []
        self._spoke = set()
        deadline = time.monotonic() + timeout_s
        while True:
            for listener in self.listeners:
                alone = len(self.listeners) == 1
                left = max(0.0, deadline - time.monotonic()) if alone else 0.0
                taken = listener.take(timeout_s=left)
                if taken:
                    self._spoke.add(listener)
                heard += taken
            left = deadline - time.monotonic()
            if left <= 0 or len(heard) >= _MANY:
                return heard
            time.sleep(min(left, _PAUSE_SECONDS))

    def heard_from(self, listener: FleetListener) -> bool:
        """Whether a listener had something in the last turn."""
        return listener in self._spoke

    def _understand(self, messages: list[Heard]) -> None:
        """Read each message once, however often it takes to write it down."""
        topics = self._topics
        telemetry: list[tuple[str, bytes]] = []
        for message in messages:
            self._unwritten.append(message)
            device = topics.device_of(message.topic)
            if device is None:
                continue
            if message.topic == topics.telemetry(device):
                telemetry.append((device, message.payload))
                continue
            before = self.view.states.get(device)
            self.view.take(message.topic, message.payload)
            after = self.view.states.get(device)
            if after is not None and after is not before:
                self._states[device] = after
        self._measured += self._ledger.examine(telemetry, now=self._clock().timestamp())
