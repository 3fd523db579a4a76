"""One simulated device's connection to a broker, on an event loop shared by all of them."""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from edgekit.fleet.simulation import wire
from edgekit.fleet.simulation.device import Outgoing

KEEPALIVE_SECONDS: Final = 600
_WINDOW: Final = 16
_LAST_ID: Final = 0xFFFF


class DeviceConnection(asyncio.Protocol):
    """Speaks MQTT 3.1.1 for a device.

    Args:
        name: The client's id.
        will: What the broker says of the device when it is gone.
        login: User and password, if the broker asks for them.
        on_ready: Called when the broker has let it in.
        on_message: Called with topic and payload of what was delivered.
        on_lost: Called when the connection is no more.
    """

    __slots__ = (
        "_inflight",
        "_login",
        "_name",
        "_next_id",
        "_on_lost",
        "_on_message",
        "_on_ready",
        "_reader",
        "_transport",
        "_waiting",
        "_will",
    )

    def __init__(
        self,
        name: str,
        *,
        will: Outgoing,
        login: tuple[str, str] | None = None,
        on_ready: Callable[[], None],
        on_message: Callable[[str, bytes], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._name = name
        self._will = will
        self._login = login
        self._on_ready = on_ready
        self._on_message = on_message
        self._on_lost = on_lost
        self._reader = wire.PacketReader()
        self._transport: asyncio.Transport | None = None
        self._next_id = 0
        self._inflight: OrderedDict[int, Outgoing] = OrderedDict()
        self._waiting: list[Outgoing] = []

    @property
    def unacknowledged(self) -> tuple[Outgoing, ...]:
        """What the broker has not taken yet: to be sent again after a reconnection."""
        return (*self._inflight.values(), *self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a TCP connection
        self._transport = transport
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.write(
            wire.connect(
                self._name,
                keepalive_s=KEEPALIVE_SECONDS,
                will_topic=self._will.topic,
                will=self._will.payload,
                login=self._login,
            )
        )

    def data_received(self, data: bytes) -> None:
        """Take packets in."""
        try:
            for packet in self._reader.feed(data):
                self._take(packet)
        except wire.BrokenPacketError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that it is over."""
        self._transport = None
        self._on_lost(str(exc) if exc else "the broker has hung up")

    def say(self, outgoing: Outgoing) -> None:
        """Publish with QoS 1; more than a window waits for acknowledgements."""
        if len(self._inflight) >= _WINDOW:
            self._waiting.append(outgoing)
            return
        packet_id = self._new_id()
        self._inflight[packet_id] = outgoing
        self._write(
            wire.publish(outgoing.topic, outgoing.payload, packet_id, retain=outgoing.retain)
        )

    def subscribe(self, topics: list[str]) -> None:
        """Ask for topics."""
        self._write(wire.subscribe(topics, self._new_id()))

    def unsubscribe(self, topics: list[str]) -> None:
        """Ask for topics no more."""
        self._write(wire.unsubscribe(topics, self._new_id()))

    def ping(self) -> None:
        """Show that we live."""
        self._write(wire.ping())

    def abort(self) -> None:
        """Vanish without a word: the broker publishes the last will."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Say goodbye."""
        if self._transport is not None:
            self._transport.write(wire.disconnect())
            self._transport.close()

    def _take(self, packet: wire.Packet) -> None:
        match packet.kind:
            case wire.PUBLISH:
                message = wire.read_publication(packet)
                if message.packet_id:
                    self._write(wire.acknowledge(message.packet_id))
                self._on_message(message.topic, message.payload)
            case wire.PUBACK:
                self._inflight.pop(int.from_bytes(packet.body[:2]), None)
                if self._waiting:
                    self.say(self._waiting.pop(0))
            case wire.CONNACK if packet.body[1:2] == b"\0":
                self._on_ready()
            case wire.CONNACK:
                self.abort()
            case _:
                return

    def _new_id(self) -> int:
        self._next_id = self._next_id % _LAST_ID + 1
        return self._next_id

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
