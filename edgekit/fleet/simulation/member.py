"""A simulated device with its connection, as one of a crowd."""

from __future__ import annotations

import asyncio
import functools
import ssl
from dataclasses import dataclass
from typing import Final, Protocol

from edgekit.fleet.broker_address import BrokerAddress, read_login, tls_context
from edgekit.fleet.simulation.client import DeviceConnection
from edgekit.fleet.simulation.device import Gone, Outgoing, Said, SimulatedDevice
from edgekit_runtime.protocol import Topics

RECONNECT_SECONDS: Final = 2.0
_CHUNK_WINDOW: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """How all members of a crowd get into the broker: as the control plane does.

    Attributes:
        host: Where it listens.
        port: Where it listens.
        tls: None for a plain line.
        login: User and password, if it asks for them.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    login: tuple[str, str] | None

    @classmethod
    def of(cls, broker: BrokerAddress) -> Door:
        """The door of a broker.

        Raises:
            EnvironmentLackError: If a file that it needs is missing or cannot be used.
        """
        by = broker.security
        return cls(
            host=broker.host,
            port=broker.port,
            tls=tls_context(by, where=str(broker)) if by else None,
            login=read_login(by.login) if by and by.login else None,
        )


class Host(Protocol):
    """What a member needs of its crowd."""

    topics: Topics

    @property
    def now(self) -> float:
        """Seconds since 1970, for the devices."""
        ...

    def take(self, member: Member, topic: str, payload: bytes) -> None:
        """Do what a message says."""
        ...

    def reopen(self, member: Member) -> None:
        """Connect a device again, after a while."""
        ...


class Member:
    """A device and its connection.

    Args:
        device: The device.
        crowd: Where it belongs.
        fetches: Whether it really fetches the pieces of each index.
    """

    __slots__ = (
        "_connection",
        "_crowd",
        "_missing",
        "_unsent",
        "device",
        "fetches",
        "order",
        "ready",
        "scheduled",
    )

    def __init__(self, device: SimulatedDevice, *, crowd: Host, fetches: bool) -> None:
        self.device = device
        self.fetches = fetches
        self.ready = False
        self.order: bytes | None = None
        self.scheduled: float | None = None
        self._crowd = crowd
        self._connection: DeviceConnection | None = None
        self._unsent: list[Outgoing] = []
        self._missing: list[str] = []

    async def open(self, door: Door, limit: asyncio.Semaphore) -> None:
        """Connect, again and again until it works."""
        loop = asyncio.get_running_loop()
        while not self.device.gone:
            async with limit:
                try:
                    _, self._connection = await loop.create_connection(
                        functools.partial(self._make, door.login),
                        door.host,
                        door.port,
                        ssl=door.tls,
                    )
                except OSError:
                    pass
                else:
                    return
            await asyncio.sleep(RECONNECT_SECONDS)

    def want(self, chunks: list[str]) -> None:
        """Fetch chunks, a window of them at a time."""
        self._missing += chunks
        for name in self._missing[:_CHUNK_WINDOW]:
            self._subscribe_chunk(name)

    def has_chunk(self, name: str) -> None:
        """Move the window on."""
        if name in self._missing and self._connection is not None:
            self._connection.unsubscribe([self._crowd.topics.chunk(name)])
            self._missing.remove(name)
            if len(self._missing) >= _CHUNK_WINDOW:
                self._subscribe_chunk(self._missing[_CHUNK_WINDOW - 1])

    def say(self, said: list[Said]) -> None:
        """Publish, now or when connected again."""
        for item in said:
            if isinstance(item, Gone):
                self.vanish()
            elif self.ready and self._connection is not None:
                self._connection.say(item)
            elif not self.device.gone:
                self._unsent.append(item)

    def vanish(self) -> None:
        """Break the connection for good."""
        self.device.gone = True
        if self._connection is not None:
            self._connection.abort()

    def ping(self) -> None:
        """Show that we live."""
        if self._connection is not None:
            self._connection.ping()

    def say_goodbye(self, now: float) -> None:
        """Leave a state that says offline."""
        if self.ready and self._connection is not None:
            self._connection.say(self.device.state(now, online=False))

    def close(self) -> None:
        """End the connection in good order."""
        self.device.gone = True
        if self._connection is not None:
            self._connection.close()

    def _subscribe_chunk(self, name: str) -> None:
        if self._connection is not None:
            self._connection.subscribe([self._crowd.topics.chunk(name)])

    def _make(self, login: tuple[str, str] | None) -> DeviceConnection:
        return DeviceConnection(
            self.device.name,
            will=self.device.last_will(),
            login=login,
            on_ready=self._on_ready,
            on_message=lambda topic, payload: self._crowd.take(self, topic, payload),
            on_lost=self._on_lost,
        )

    def _on_ready(self) -> None:
        connection = self._connection
        if connection is None:
            return
        topics = self._crowd.topics
        # The metadata first: an order is believed only with it.
        connection.subscribe([topics.metadata, topics.order(self.device.name)])
        connection.say(self.device.state(self._crowd.now))
        for item in self._unsent:
            connection.say(item)
        self._unsent.clear()
        self.ready = True

    def _on_lost(self, _reason: str) -> None:
        self.ready = False
        connection, self._connection = self._connection, None
        if connection is not None:
            # A state is said anew at the next connection; everything else must not be lost.
            self._unsent += [item for item in connection.unacknowledged if not item.retain]
        if not self.device.gone:
            self._crowd.reopen(self)
