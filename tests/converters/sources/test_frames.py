"""Messages between processes arrive as they were sent, and a torn one is no message."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_converters.sources.frames import Message, pack_array, receive, send, unpack_array


@given(parts=st.lists(st.binary(max_size=200), max_size=4), text=st.text(max_size=30))
def test_a_message_arrives(parts: list[bytes], text: str) -> None:
    stream = io.BytesIO()
    send(stream, Message(head={"text": text}, parts=parts))
    size = stream.tell()
    stream.seek(0)
    message = receive(stream)
    assert message is not None
    assert message.head == {"text": text}
    assert list(message.parts) == parts
    assert receive(stream) is None
    for end in (0, 7, size // 2, size - 1):
        torn = io.BytesIO(stream.getvalue()[:end])
        assert receive(torn) is None or end == size


def test_a_length_that_cannot_be() -> None:
    assert receive(io.BytesIO(struct.pack(">Q", 1 << 60) + b"{}")) is None


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3), np.float32), np.array(4.5), np.arange(6).reshape(2, 3),
        np.array(["cold", "hot"]), np.asfortranarray(np.ones((2, 3))), np.array([True]),
    ],
)  # fmt: skip
def test_arrays_arrive(array: np.ndarray) -> None:
    found = unpack_array(pack_array(array))
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert (found == array).all()


def test_objects_do_not() -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        pack_array(np.array([{}], dtype=object))
