"""Whatever a broker, an office that lets devices in, or an application may send as bytes."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit_agent.identity.enrolment import parse_answer
from edgekit_agent.identity.keys import check_certificate, make_key, signing_request
from edgekit_agent.transports import mqtt
from edgekit_agent.transports.arrivals import Arrival, Disconnected
from edgekit_runtime.errors import EdgekitError, VerificationError
from edgekit_runtime.media.image import decode_picture, picture_layout
from edgekit_runtime.protocol import Topics
from tests.simulators.authority import Authority
from tests.simulators.babbler import Babbler

CONNACK_5 = b"\x20\x03\x00\x00\x00"


def packet(kind: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([kind, len(body)]) + body


PACKETS = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.builds(packet, st.integers(0, 255), st.binary(max_size=100)),
        # Of kinds that a client hears of, and nearly right.
        st.builds(
            packet,
            st.sampled_from([0x20, 0x30, 0x32, 0x3D, 0x40, 0x62, 0x90, 0xB0, 0xD0, 0xE0, 0xF0]),
            st.binary(max_size=20).map(lambda rest: b"\x00\x03a/b" + rest),
        ),
    ),
    max_size=4,
).map(b"".join)


@settings(max_examples=150)
@given(PACKETS, st.booleans())
def test_packets_of_a_broker(babbler: Babbler, packets: bytes, accepted: bool) -> None:
    arrivals: list[Arrival] = []
    babbler.says = (CONNACK_5 if accepted else b"") + packets

    def post(arrival: Arrival) -> None:
        arrivals.append(arrival)
        if isinstance(arrival, Disconnected):
            # One conversation is enough; it would go on for ever.
            transport._stop.set()

    transport = mqtt.MqttTransport(
        host="127.0.0.1",
        port=babbler.port,
        tls=None,
        topics=Topics("plant"),
        device="d1",
        will=b"gone",
        chunk_window=3,
        post=post,
    )
    with mock.patch.object(mqtt, "_FIRST_DELAY_SECONDS", 0.0):
        transport._run()
    # It ends with a reason for people, and the transport would try again.
    assert isinstance(arrivals[-1], Disconnected)
    assert arrivals[-1].reason


ANSWER = {
    "fleet": "plant",
    "broker": {"host": "broker.example", "port": 8883},
    "certificate": "c",
    "authorities": "a",
    "image_root": "{}",
    "director_root": "{}",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.one_of(st.binary(max_size=200), st.tuples(st.sampled_from(sorted(ANSWER)), JSON)))
def test_an_answer_to_a_device_that_joins(changed: bytes | tuple[str, Any]) -> None:
    if isinstance(changed, tuple):
        changed = json.dumps({**ANSWER, changed[0]: changed[1]}).encode()
    with contextlib.suppress(VerificationError):
        answer = parse_answer(changed, where="test")
        assert 1 <= answer.broker_port <= 65_535
        assert "/" not in answer.broker_host


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A device's key, and a certificate for it."""
    key = tmp_path_factory.mktemp("identity") / "key.pem"
    make_key(key)
    return key, Authority().sign(signing_request(key, device="d1", fleet="plant"))


@settings(max_examples=200)
@given(st.data())
def test_a_certificate(identity: tuple[Path, str], data: st.DataObject) -> None:
    key, good = identity
    place = data.draw(st.integers(0, len(good) - 1))
    changed = good[:place] + data.draw(st.text(max_size=3)) + good[place + 1 :]
    with contextlib.suppress(EdgekitError):
        check_certificate(changed, key=key, device="d1")
        # What still passes is for our key and our name.
        assert "BEGIN CERTIFICATE" in changed


def pictures() -> list[bytes]:
    """One of each kind that a camera may send."""
    image = pytest.importorskip("PIL.Image").new("RGB", (9, 7), (200, 30, 40))
    found = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
        body = io.BytesIO()
        image.save(body, kind)
        found.append(body.getvalue())
    return found


@settings(max_examples=300)
@given(st.data())
def test_a_picture(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(pictures())))
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    layout = picture_layout((1, 8, 8, 3), {}, where="x")
    # Pillow warns of what it goes on with all the same.
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(EdgekitError):
        assert decode_picture(bytes(body[: cut or len(body)]), layout).shape == (1, 8, 8, 3)
