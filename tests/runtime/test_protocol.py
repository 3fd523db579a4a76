"""Topics, and metadata sets from untrusted sources."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.limits import MAX_METADATA_SET_BYTES
from edgekit_runtime.protocol import Topics, pack_metadata, unpack_metadata

SET = {"1.root.json": b'{"signed": {}}', "timestamp.json": b"{}"}


def test_a_set_survives_the_way() -> None:
    assert unpack_metadata(pack_metadata(SET), where="topic") == SET


@given(st.binary(max_size=300))
def test_any_bytes_give_a_set_or_the_one_error(message: bytes) -> None:
    with pytest.raises(VerificationError):
        unpack_metadata(message, where="topic")


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"../root.json": "x"},
        {"root.json/..": "x"},
        {"a.txt": "x"},
        {"root.json": 1},
        {f"{number}.root.json": "" for number in range(1, 400)},
    ],
)
def test_what_is_no_metadata_set_is_refused(document: object) -> None:
    message = zlib.compress(json.dumps(document).encode())
    with pytest.raises(VerificationError, match="no TUF metadata set"):
        unpack_metadata(message, where="topic")


def test_a_bomb_is_refused_in_bounded_memory() -> None:
    message = zlib.compress(b'"' + b"a" * (MAX_METADATA_SET_BYTES * 2) + b'"')
    with pytest.raises(VerificationError):
        unpack_metadata(message, where="topic")


def test_a_cut_off_set_is_refused() -> None:
    with pytest.raises(VerificationError):
        unpack_metadata(pack_metadata(SET)[:-3], where="topic")


def test_topics_name_their_device() -> None:
    topics = Topics("berlin")
    assert topics.order("pi-1") == "edgekit/v1/berlin/devices/pi-1/order"
    assert topics.device_of(topics.state("pi-1")) == "pi-1"
    assert topics.device_of(topics.metadata) is None
    assert Topics("paris").device_of(topics.state("pi-1")) is None


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "-a", "a" * 65, "ä", "a\n"])
def test_ids_that_would_leave_their_topic_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Topics("fleet").order(name)
    with pytest.raises(UsageError):
        Topics(name)
