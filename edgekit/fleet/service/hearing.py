"""Write down what devices say, before the broker may forget it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.telemetry import store_batches
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit.fleet.telemetry.listener import FleetListener, Heard
from edgekit.fleet.telemetry.screening import Screen
from edgekit.fleet.watch import merge_state
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.reports import DeviceEvent, DeviceState, parse_event, parse_state
from edgekit_runtime.telemetry import TelemetryBatch

_log = logging.getLogger(__name__)

_Report = TypeVar("_Report", DeviceState, DeviceEvent)
# What was not acknowledged, the broker sends again at the next connection.
_MOST_UNWRITTEN: Final = 50_000


class Hearing:
    """Takes messages from a listener into the database; acknowledges what is on the disk.

    Args:
        database: Where to.
        listener: Who hears.
        ledger: Where rollouts look up how models do.
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
        self._database = database
        self._listener = listener
        self._ledger = ledger
        self._clock = clock
        self._inventory = Inventory(database, actor="service", clock=clock)
        self._screen = Screen()
        self._unwritten: list[Heard] = []
        self._states: dict[str, DeviceState] = {}
        self.faulty = 0

    def turn(self, *, timeout_s: float) -> int:
        """Take in what came; how many messages were written down.

        Raises:
            EnvironmentLackError: If the database cannot be used: nothing is lost, try again.
        """
        self._unwritten += self._listener.take(timeout_s=timeout_s)
        if len(self._unwritten) > _MOST_UNWRITTEN:
            _log.warning("more waits than is kept: the broker sends the rest again later")
            del self._unwritten[_MOST_UNWRITTEN:]
        if not self._unwritten:
            return 0
        self._write(self._unwritten)
        for message in self._unwritten:
            message.done()
        count = len(self._unwritten)
        self._unwritten = []
        return count

    def _write(self, messages: list[Heard]) -> None:
        topics = self._listener.topics
        states: dict[str, DeviceState] = {}
        events: list[DeviceEvent] = []
        telemetry: list[tuple[str, bytes]] = []
        for message in messages:
            device = topics.device_of(message.topic)
            if device is None or not message.payload:
                continue
            if message.topic == topics.telemetry(device):
                telemetry.append((device, message.payload))
            elif message.topic == topics.state(device):
                state = self._parsed(parse_state, message, device)
                if state is not None:
                    known = states.get(device) or self._states.get(device)
                    states[device] = merge_state(known, state)
            else:
                event = self._parsed(parse_event, message, device)
                if event is not None:
                    events.append(event)
        self._inventory.hear(states.values(), events)
        self._states |= states
        if telemetry:
            self._write_telemetry(telemetry)

    def _write_telemetry(self, messages: list[tuple[str, bytes]]) -> None:
        now = self._clock().timestamp()
        batches: list[TelemetryBatch] = []
        for device, payload in messages:
            batch = self._screen.examine(device, payload, now=now).batch
            if batch is None:
                self.faulty += 1
            else:
                batches.append(batch)
        store_batches(self._database, batches, now=now)
        # The ledger counts a record once, so it may be told again after a failure between the two.
        self._ledger.take(messages, now=now)

    def _parsed(self, parse: Callable[..., _Report], message: Heard, device: str) -> _Report | None:
        try:
            report = parse(message.payload, where=message.topic)
            if report.device != device:
                raise VerificationError(
                    f"the message says that it is from {report.device!r}", where=message.topic
                )
        except VerificationError as error:
            self.faulty += 1
            _log.info("refused: %s", error)
            return None
        return report
