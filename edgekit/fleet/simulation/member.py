"""A simulated device with its connection, as one of a crowd."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from edgekit.fleet.broker_address import BrokerAddress, read_login, tls_context
from edgekit.fleet.simulation.client import DeviceConnection
from edgekit.fleet.simulation.device import Gone, Outgoing, Said, SimulatedDevice
from edgekit.fleet.simulation.fetching import Fetcher, Fetches, Shelf
from edgekit_agent.state import Target
from edgekit_runtime.protocol import Topics

RECONNECT_SECONDS: Final = 2.0


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
        shelf: Indexes that others have read already.
        fetches: What it really fetches.
    """

    __slots__ = (
        "_connection",
        "_crowd",
        "_fetcher",
        "_unsent",
        "device",
        "order",
        "ready",
        "scheduled",
    )

    def __init__(
        self, device: SimulatedDevice, *, crowd: Host, shelf: Shelf, fetches: Fetches
    ) -> None:
        self.device = device
        self.ready = False
        self.order: bytes | None = None
        self.scheduled: float | None = None
        self._crowd = crowd
        self._connection: DeviceConnection | None = None
        self._unsent: list[Outgoing] = []
        self._fetcher = Fetcher(shelf, fetches) if fetches is not Fetches.NOTHING else None

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

    def fetch(self, targets: tuple[Target, ...]) -> None:
        """Begin to fetch what an order names, a window of chunks at a time."""
        if self._fetcher is None or self.device.gone:
            return
        for target in targets:
            if self.device.fetches(target):
                self._fetcher.begin(target)
                self._ask(self._fetcher.ask())

    def take_chunk(self, name: str, data: bytes) -> Target | None:
        """Take a chunk in; the version that is complete with it, if one is.

        Raises:
            VerificationError: If it has another hash.
        """
        if self._fetcher is None:
            return None
        complete = self._fetcher.take(name, data)
        if self._connection is not None:
            self._connection.unsubscribe([self._crowd.topics.chunk(name)])
        self._ask(self._fetcher.ask())
        return complete

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

    def _ask(self, chunks: Iterable[str]) -> None:
        topics = [self._crowd.topics.chunk(name) for name in chunks]
        if topics and self._connection is not None:
            self._connection.subscribe(topics)

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
        name = self.device.name
        # The metadata first: an order is believed only with it.
        connection.subscribe([topics.metadata, topics.order(name), topics.requests(name)])
        connection.say(self.device.state(self._crowd.now))
        for item in self._unsent:
            connection.say(item)
        self._unsent.clear()
        if self._fetcher is not None:
            self._ask(self._fetcher.asked)
        self.ready = True

    def _on_lost(self, _reason: str) -> None:
        self.ready = False
        connection, self._connection = self._connection, None
        if connection is not None:
            # A state is said anew at the next connection; everything else must not be lost.
            self._unsent += [item for item in connection.unacknowledged if not item.retain]
        if not self.device.gone:
            self._crowd.reopen(self)
