"""What devices say of themselves, put together from their messages. Pure but for its memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from edgekit.fleet.devices.facts import facts_of
from edgekit.fleet.rollouts.labels import Labels
from edgekit.fleet.watch import merge_state
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import DeviceEvent, DeviceState, parse_event, parse_state

_KEPT_FAULTS: Final = 100
# More devices than any fleet of one broker has: who may publish anything cannot fill the memory.
MAX_DEVICES: Final = 200_000
_MOST_KINDS: Final = 256


class FleetView:
    """The newest state of every device.

    Args:
        topics: Of the fleet.
        on_event: Told of every event; one that was delivered twice comes twice.
    """

    def __init__(
        self, topics: Topics, *, on_event: Callable[[DeviceEvent], None] | None = None
    ) -> None:
        self._topics = topics
        self._on_event = on_event
        self.states: dict[str, DeviceState] = {}
        self.changes = 0
        self.faulty = 0
        self.faults: deque[str] = deque(maxlen=_KEPT_FAULTS)
        self._hardware: dict[str, dict[str, object]] = {}

    def take(self, topic: str, payload: bytes) -> None:
        """Take a state or an event in; what is none, or another device's, is counted."""
        device = self._topics.device_of(topic)
        try:
            if device is None:
                raise VerificationError("this is no device's topic", where=topic)
            if not payload:
                # A retained state was deleted: the device was taken out of the fleet.
                self.states.pop(device, None)
                return
            if topic == self._topics.state(device):
                state = self._sharing(parse_state(payload, where=topic))
                self._require_owner(state.device, device, topic)
                if device in self.states or len(self.states) < MAX_DEVICES:
                    self.states[device] = merge_state(self.states.get(device), state)
                    self.changes += 1
            elif topic == self._topics.events(device):
                event = parse_event(payload, where=topic)
                self._require_owner(event.device, device, topic)
                if self._on_event is not None:
                    self._on_event(event)
        except VerificationError as error:
            self.faulty += 1
            self.faults.append(str(error))

    def labels(self, device: str, owner: Mapping[str, str]) -> Labels:
        """What a query can ask of a device."""
        state = self.states.get(device)
        return facts_of(
            device,
            labels=owner,
            hardware=state.hardware if state else {},
            agent=state.agent if state else "",
            online=bool(state and state.online),
            order_version=state.order_version if state else 0,
            silent_seconds=None,
        )

    def _sharing(self, state: DeviceState) -> DeviceState:
        """The state; devices of one kind share what they say of their hardware."""
        kind = repr(state.hardware)
        if kind not in self._hardware and len(self._hardware) >= _MOST_KINDS:
            self._hardware.clear()
        return replace(state, hardware=self._hardware.setdefault(kind, state.hardware))

    def _require_owner(self, claimed: str, device: str, topic: str) -> None:
        if claimed != device:
            raise VerificationError(f"the message says that it is from {claimed!r}", where=topic)
