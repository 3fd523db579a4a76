"""Hear what the devices say: their latest states, and their events as they come."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Final

from edgekit.fleet.connection import BrokerConnection
from edgekit.fleet.folder import BrokerAddress
from edgekit_runtime.errors import GateFailedError, VerificationError
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import DeviceEvent, DeviceState, parse_event, parse_state

_KEPT_EVENTS: Final = 10_000
_KEPT_FAULTS: Final = 100


class FleetWatcher:
    """Listens from the moment it is made until it is closed; use it in a `with` statement.

    It connects again by itself when the broker goes away. All methods may be called from any
    thread.

    Args:
        fleet_id: Which fleet.
        broker: Where.

    Raises:
        EnvironmentLackError: If no broker answers there, or it refuses the subscription.
    """

    def __init__(self, fleet_id: str, broker: BrokerAddress) -> None:
        self._topics = Topics(fleet_id)
        self._changed = threading.Condition()
        self._states: dict[str, DeviceState] = {}
        self._events: deque[DeviceEvent] = deque(maxlen=_KEPT_EVENTS)
        self._event_count = 0
        self._sequences: dict[str, int] = {}
        self._faults: deque[str] = deque(maxlen=_KEPT_FAULTS)
        self._connection = BrokerConnection(
            broker,
            topics=(self._topics.all_states, self._topics.all_events),
            on_message=self._receive,
        )

    def __enter__(self) -> FleetWatcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        self._connection.close()

    @property
    def states(self) -> dict[str, DeviceState]:
        """What is known of each device now, by its id."""
        with self._changed:
            return dict(self._states)

    @property
    def event_count(self) -> int:
        """How many events have come so far: a mark to wait from."""
        with self._changed:
            return self._event_count

    @property
    def faults(self) -> tuple[str, ...]:
        """The last messages that were no reports, or came under another device's name, and why."""
        with self._changed:
            return tuple(self._faults)

    def events(self, *, since: int = 0) -> tuple[DeviceEvent, ...]:
        """The events that came after a mark, as far as they are kept: the last 10,000."""
        with self._changed:
            return self._events_since(since)

    def wait_for_events(self, *, since: int, timeout_s: float) -> tuple[DeviceEvent, ...]:
        """The events after a mark, as soon as there is one; none when the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._event_count > since, timeout_s)
            return self._events_since(since)

    def wait_until_heard(self, devices: Iterable[str], *, timeout_s: float) -> bool:
        """Wait until every one of these devices was heard; False when the time is over first.

        A broker sends retained states at once, so a short time is enough for those.
        """
        wanted = set(devices)
        with self._changed:
            return self._changed.wait_for(lambda: wanted <= self._states.keys(), timeout_s)

    def wait_for(
        self, device: str, predicate: Callable[[DeviceState], bool], *, timeout_s: float
    ) -> DeviceState:
        """Wait until the state of a device is as wanted; it may be so already.

        Raises:
            GateFailedError: If it is not within the time; says what was heard last.
        """
        with self._changed:

            def reached() -> bool:
                state = self._states.get(device)
                return state is not None and predicate(state)

            if self._changed.wait_for(reached, timeout_s):
                return self._states[device]
            state = self._states.get(device)
        raise GateFailedError(
            f"the device did not get there within {timeout_s:g} s; "
            + (f"it said last: {_summary(state)}" if state else "it has said nothing"),
            where=f"device {device}",
            fix="look at the agent's log, and whether it reaches the broker",
        )

    def wait_for_event(
        self, predicate: Callable[[DeviceEvent], bool], *, timeout_s: float, since: int = 0
    ) -> DeviceEvent:
        """The first event after a mark that is as wanted; it may have come already.

        Raises:
            GateFailedError: If none comes within the time; says what came instead.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                events = self._events_since(since)
                found = next((event for event in events if predicate(event)), None)
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        came = ", ".join(f"{event.device} {event.kind}" for event in events[-5:])
        raise GateFailedError(
            f"the event did not come within {timeout_s:g} s; what came: {came or 'nothing'}",
            fix="look at the agent's log, and whether it reaches the broker",
        )

    def _events_since(self, since: int) -> tuple[DeviceEvent, ...]:
        new = max(0, self._event_count - since)
        return tuple(self._events)[-new:] if new else ()

    def _receive(self, topic: str, payload: bytes) -> None:
        device = self._topics.device_of(topic)
        try:
            if device is None:
                raise VerificationError("this is no device's topic", where=topic)
            if topic == self._topics.state(device):
                state = parse_state(payload, where=topic)
                _require_owner(state.device, device, topic)
                with self._changed:
                    self._states[device] = merge_state(self._states.get(device), state)
                    self._changed.notify_all()
            else:
                event = parse_event(payload, where=topic)
                _require_owner(event.device, device, topic)
                self._add(event)
        except VerificationError as error:
            with self._changed:
                self._faults.append(str(error))
                self._changed.notify_all()

    def _add(self, event: DeviceEvent) -> None:
        with self._changed:
            # QoS 1 may deliver the same message twice in a row.
            if self._sequences.get(event.device) == event.sequence:
                return
            self._sequences[event.device] = event.sequence
            self._events.append(event)
            self._event_count += 1
            self._changed.notify_all()


def merge_state(known: DeviceState | None, heard: DeviceState) -> DeviceState:
    """What is known after a message: a last will only says that the device is offline."""
    if known is None or heard.online:
        return heard
    if heard.bundles or heard.hardware:
        return heard
    return replace(known, online=False)


def _require_owner(claimed: str, device: str, topic: str) -> None:
    if claimed != device:
        raise VerificationError(f"the message says that it is from {claimed!r}", where=topic)


def _summary(state: DeviceState) -> str:
    bundles = "; ".join(
        f"{name}: {bundle.phase.value}, active {bundle.active or 'none'}"
        + (f", candidate {bundle.candidate}" if bundle.candidate else "")
        + (f" ({bundle.reason})" if bundle.reason else "")
        for name, bundle in sorted(state.bundles.items())
    )
    return f"{'online' if state.online else 'offline'}, order {state.order_version}, " + (
        bundles or "no bundles"
    )
