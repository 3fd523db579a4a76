"""MQTT 3.1.1 packets, as much as a device needs; no I/O.

OASIS standard mqtt-v3.1.1. A client of a few hundred bytes, where paho's takes five kilobytes and
a thread or a selector: ten thousand of them share one event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
SUBACK: Final = 9
PINGRESP: Final = 13
MAX_PACKET_BYTES: Final = 1 << 20
_CONTINUES: Final = 0x80
_MOST_LENGTH_BYTES: Final = 4


class BrokenPacketError(ValueError):
    """Bytes that are no MQTT packet, or one of absurd length."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet as it came: its type, its flags, and what follows the length."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Publication:
    """A message that was delivered; `packet_id` is to be acknowledged unless it is 0."""

    topic: str
    payload: bytes
    packet_id: int


def connect(
    client_id: str,
    *,
    keepalive_s: int,
    will_topic: str,
    will: bytes,
    login: tuple[str, str] | None = None,
) -> bytes:
    """CONNECT with a clean session, a retained last will of QoS 1, and user and password if any."""
    # Clean session, will, will QoS 1, will retain; user and password.
    flags = 0x02 | 0x04 | 0x08 | 0x20 | (0xC0 if login else 0)
    head = _text("MQTT") + bytes((4, flags)) + keepalive_s.to_bytes(2)
    who = b"".join(map(_text, login or ()))
    return _packet(0x10, head + _text(client_id) + _text(will_topic) + _data(will) + who)


def publish(topic: str, payload: bytes, packet_id: int, *, retain: bool = False) -> bytes:
    """PUBLISH with QoS 1."""
    return _packet(0x32 | retain, _text(topic) + packet_id.to_bytes(2) + payload)


def subscribe(topics: Sequence[str], packet_id: int) -> bytes:
    """SUBSCRIBE to topics with QoS 1."""
    return _packet(0x82, packet_id.to_bytes(2) + b"".join(_text(t) + b"\1" for t in topics))


def unsubscribe(topics: Sequence[str], packet_id: int) -> bytes:
    """UNSUBSCRIBE from topics."""
    return _packet(0xA2, packet_id.to_bytes(2) + b"".join(map(_text, topics)))


def acknowledge(packet_id: int) -> bytes:
    """PUBACK."""
    return b"\x40\x02" + packet_id.to_bytes(2)


def ping() -> bytes:
    """PINGREQ."""
    return b"\xc0\x00"


def disconnect() -> bytes:
    """DISCONNECT: the last will is not published."""
    return b"\xe0\x00"


def read_publication(packet: Packet) -> Publication:
    """Read a PUBLISH.

    Raises:
        BrokenPacketError: If it is cut off.
    """
    length = int.from_bytes(packet.body[:2])
    place = 2 + length
    qos = packet.flags >> 1 & 3
    packet_id = int.from_bytes(packet.body[place : place + 2]) if qos else 0
    if place + (2 if qos else 0) > len(packet.body):
        raise BrokenPacketError("a message is cut off")
    topic = packet.body[2:place].decode(errors="replace")
    return Publication(topic, packet.body[place + (2 if qos else 0) :], packet_id)


class PacketReader:
    """Cuts a stream of bytes into packets."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Packet]:
        """The packets that are complete with these bytes.

        Raises:
            BrokenPacketError: If a packet is no packet, or longer than a megabyte.
        """
        buffer = self._rest + data if self._rest else data
        place = 0
        while (end := _end_of_packet(buffer, place)) is not None:
            start, stop = end
            if stop > len(buffer):
                break
            yield Packet(buffer[place] >> 4, buffer[place] & 15, buffer[start:stop])
            place = stop
        self._rest = buffer[place:]


def _end_of_packet(buffer: bytes, place: int) -> tuple[int, int] | None:
    """Where the body of a packet begins and ends; None if its length is not there yet."""
    length = 0
    for position in range(_MOST_LENGTH_BYTES):
        at = place + 1 + position
        if at >= len(buffer):
            return None
        length |= (buffer[at] & 0x7F) << (7 * position)
        if not buffer[at] & _CONTINUES:
            if length > MAX_PACKET_BYTES:
                raise BrokenPacketError(f"a packet of {length} bytes")
            return at + 1, at + 1 + length
    raise BrokenPacketError("a length of more than four bytes")


def _packet(first: int, body: bytes) -> bytes:
    length, digits = len(body), bytearray()
    while True:
        length, digit = length >> 7, length & 0x7F
        digits.append(digit | (_CONTINUES if length else 0))
        if not length:
            return bytes((first,)) + bytes(digits) + body


def _text(text: str) -> bytes:
    return _data(text.encode())


def _data(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data
