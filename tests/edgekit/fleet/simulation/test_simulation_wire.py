from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.simulation import wire


@given(
    bodies=st.lists(st.binary(max_size=300), max_size=6),
    cuts=st.lists(st.integers(0, 2_000), max_size=8),
)
def test_packets_come_out_however_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(wire.publish(f"t/{n}", body, n + 1) for n, body in enumerate(bodies))
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader = wire.PacketReader()
    found = [
        wire.read_publication(packet)
        for start, stop in itertools.pairwise(places)
        for packet in reader.feed(stream[start:stop])
    ]
    assert [(m.topic, m.payload, m.packet_id) for m in found] == [
        (f"t/{n}", body, n + 1) for n, body in enumerate(bodies)
    ]


@given(st.binary(max_size=64))
def test_nonsense_is_a_packet_or_a_broken_one(data: bytes) -> None:
    reader = wire.PacketReader()
    try:
        packets = list(reader.feed(data))
    except wire.BrokenPacketError:
        return
    assert sum(len(packet.body) + 2 for packet in packets) <= len(data)


@pytest.mark.parametrize("head", [b"\x30\xff\xff\xff\xff", b"\x30\xff\xff\xff\x7f"])
def test_an_absurd_length_is_refused(head: bytes) -> None:
    with pytest.raises(wire.BrokenPacketError):
        list(wire.PacketReader().feed(head))


def test_a_message_that_is_cut_off_is_refused() -> None:
    with pytest.raises(wire.BrokenPacketError, match="cut off"):
        wire.read_publication(wire.Packet(wire.PUBLISH, 2, b"\x00\x05abc"))


def test_a_connection_is_asked_for_as_the_standard_says() -> None:
    packet = wire.connect("d1", keepalive_s=60, will_topic="w", will=b"gone")
    assert packet == b"\x10\x17\x00\x04MQTT\x04\x2e\x00\x3c\x00\x02d1\x00\x01w\x00\x04gone"
