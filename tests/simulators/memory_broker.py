"""A broker in memory, behind the interface of the agent's transport."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from edgekit_agent.config import AgentConfig
from edgekit_agent.transports.arrivals import (
    Arrival,
    ChunkCame,
    Connected,
    Disconnected,
    MetadataCame,
    OrderCame,
    ReportKind,
    ReportTaken,
    RequestCame,
)


class MemoryBroker:
    """Retained messages, and one device that may be connected."""

    def __init__(self) -> None:
        self.chunks: dict[str, bytes] = {}
        self.metadata: bytes | None = None
        self.order: bytes | None = None
        self.states: list[bytes] = []
        self.reports: dict[ReportKind, list[bytes]] = {kind: [] for kind in ReportKind}
        self.requests: list[str] = []
        self.online = True
        self._device: MemoryTransport | None = None
        self._lock = threading.Lock()

    @property
    def events(self) -> list[bytes]:
        return self.reports[ReportKind.EVENTS]

    def publish_request(self, message: bytes) -> None:
        if self._device and self.online:
            self._device.post(RequestCame(data=message))

    def connect(
        self, config: AgentConfig, will: bytes, post: Callable[[Arrival], None]
    ) -> MemoryTransport:
        """What a supervisor takes for its transport."""
        self._device = MemoryTransport(self, post)
        return self._device

    def publish_metadata(self, message: bytes) -> None:
        self.metadata = message
        if self._device and self.online:
            self._device.post(MetadataCame(data=message))

    def publish_order(self, message: bytes) -> None:
        self.order = message
        if self._device and self.online:
            self._device.post(OrderCame(data=message))

    def publish_chunks(self, chunks: dict[str, bytes]) -> None:
        self.chunks |= chunks
        if self._device and self.online:
            for name in chunks:
                if name in self._device.wanted:
                    self._device.post(ChunkCame(sha256=name, data=self.chunks[name]))

    def set_online(self, *, online: bool) -> None:
        self.online = online
        if self._device:
            if online:
                self._device.start()
            else:
                self._device.post(Disconnected(reason="the broker is gone"))


class MemoryTransport:
    """One device's connection."""

    def __init__(self, broker: MemoryBroker, post: Callable[[Arrival], None]) -> None:
        self.broker = broker
        self.post = post
        self.wanted: set[str] = set()

    def start(self) -> None:
        if not self.broker.online:
            return
        self.post(Connected())
        # The order first: retained messages come in any order.
        if self.broker.order is not None:
            self.post(OrderCame(data=self.broker.order))
        if self.broker.metadata is not None:
            self.post(MetadataCame(data=self.broker.metadata))
        self._deliver(self.wanted)

    def want(self, names: Iterable[str]) -> None:
        before, self.wanted = self.wanted, set(names)
        self._deliver(self.wanted - before)

    def received(self, name: str) -> None:
        self.wanted.discard(name)

    def retry(self, names: Iterable[str]) -> None:
        self._deliver(set(names) & self.wanted)

    def publish_state(self, message: bytes) -> None:
        self.broker.states.append(message)

    def publish_report(self, kind: ReportKind, key: int, message: bytes) -> None:
        if self.broker.online:
            self.broker.reports[kind].append(message)
            self.post(ReportTaken(kind=kind, key=key))

    def close(self, last_state: bytes) -> None:
        self.broker.states.append(last_state)

    def _deliver(self, names: set[str]) -> None:
        if not self.broker.online:
            return
        for name in sorted(names):
            self.broker.requests.append(name)
            if name in self.broker.chunks:
                self.post(ChunkCame(sha256=name, data=self.broker.chunks[name]))
