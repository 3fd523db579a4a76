"""Share with other replicas what devices measure and what happens to them.

The broker hands each message to one of those who share a subscription (MQTT 5, section 4.8.2).
What it has handed to a replica that then dies waits in that replica's session, and only there:
so sessions have numbered names, each replica leases one, and a name whose lease is over is taken
up by another replica, emptied, and given back.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.connection import connected_to
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.service.hearing import Hearing
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.leases import LEASE_SECONDS, Lease
from edgekit.fleet.store.settings import read_setting, write_setting
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit.fleet.telemetry.listener import FleetListener
from edgekit_runtime.errors import EnvironmentLackError, UsageError

_log = logging.getLogger(__name__)

_SLOTS: Final = "hearing.slots"
_LOOK_SECONDS: Final = LEASE_SECONDS / 4
_HEAR_SECONDS: Final = 0.25
_RETRY_SECONDS: Final = 2.0
# A session that has said nothing for so long after it was unsubscribed is empty.
_QUIET_SECONDS: Final = 3.0


@dataclass(slots=True)
class _Slot:
    lease: Lease
    listener: FleetListener
    leaving: bool = False
    heard: float = 0.0


class SharedHearing:
    """Hears its share of a fleet's measurements and events.

    Args:
        fleet: Whose.
        database: That all replicas share.
        broker: Where the devices are; it must speak MQTT 5.
        clock: The time; leases go by the real one.

    Raises:
        UsageError: If the broker does not speak MQTT 5.
        EnvironmentLackError: If it does not answer.
    """

    def __init__(
        self, fleet: Fleet, database: Database, broker: BrokerAddress, *, clock: Clock = utc_now
    ) -> None:
        with connected_to(broker) as connection:
            if connection.protocol != "MQTT 5":
                raise UsageError(
                    f"replicas share what devices say through MQTT 5, and the broker speaks "
                    f"{connection.protocol}",
                    where=str(broker),
                    fix="leave --share out: one replica hears everything, the others wait",
                )
        self._fleet = fleet
        self._database = database
        self._broker = broker
        self._clock = clock
        self._slots: dict[int, _Slot] = {}
        self.taken = 0

    @property
    def slots(self) -> tuple[int, ...]:
        """The numbers of the sessions that are ours now."""
        return tuple(sorted(self._slots))

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Hear until `goes_on` says no; what is missing meanwhile is waited for."""
        while goes_on():
            try:
                self._hear(goes_on)
            except EnvironmentLackError as error:
                _log.warning("%s", error)
                deadline = time.monotonic() + _RETRY_SECONDS
                while goes_on() and time.monotonic() < deadline:
                    time.sleep(0.1)
            finally:
                self._let_go()

    def _hear(self, goes_on: Callable[[], bool]) -> None:
        self._look()
        hearing: Hearing | None = None
        looked = time.monotonic()
        while goes_on():
            if time.monotonic() - looked >= _LOOK_SECONDS:
                looked = time.monotonic()
                self._look()
            listeners = [slot.listener for slot in self._slots.values()]
            if not listeners:
                time.sleep(_HEAR_SECONDS)
                continue
            if hearing is None:
                hearing = Hearing(
                    self._database,
                    listeners[0],
                    ledger=Ledger(self._database),
                    clock=self._clock,
                )
            hearing.listeners = listeners
            self.taken += hearing.turn(timeout_s=_HEAR_SECONDS)
            self._leave_empty(hearing)

    def _look(self) -> None:
        """Hold what is ours, take up what nobody holds, and have one session at least."""
        for number, slot in list(self._slots.items()):
            if not slot.lease.take():
                # Whoever has it now gets what the broker still holds for the name.
                slot.listener.close()
                del self._slots[number]
        known = int(read_setting(self._database, _SLOTS, 0))
        for number in range(known + 1):
            if number in self._slots or (number == known and self._slots):
                continue
            lease = Lease(self._database, f"hearing.{number}")
            if not lease.take():
                continue
            if number == known:
                write_setting(self._database, _SLOTS, known + 1)
            self._slots[number] = _Slot(lease, self._listen(number), heard=time.monotonic())
        for number in self.slots[1:]:
            self._slots[number].listener.unsubscribe()
            self._slots[number].leaving = True

    def _listen(self, number: int) -> FleetListener:
        return FleetListener(
            self._fleet.id,
            self._broker,
            name=f"edgekit-hear-{self._fleet.id}-{number}",
            states=False,
            share=f"edgekit-{self._fleet.id}",
        )

    def _leave_empty(self, hearing: Hearing) -> None:
        for number, slot in list(self._slots.items()):
            if hearing.heard_from(slot.listener):
                slot.heard = time.monotonic()
            elif slot.leaving and time.monotonic() - slot.heard > _QUIET_SECONDS:
                slot.listener.forget()
                slot.listener.close()
                slot.lease.give_back()
                del self._slots[number]

    def _let_go(self) -> None:
        for slot in self._slots.values():
            slot.listener.close()
            with contextlib.suppress(EnvironmentLackError):
                slot.lease.give_back()
        self._slots.clear()
