"""Messages between a conversion and the child process that holds a framework.

A message is a JSON object and any number of binary parts: arrays in numpy's own format, or a model.
Nothing in it is ever executed.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LENGTH: Final = struct.Struct(">Q")
# Protobuf's own limit, twice: a model and its arrays.
_MAX_PART_BYTES: Final = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message.

    Attributes:
        head: A JSON object.
        parts: Binary parts, in the order that the head tells.
    """

    head: Mapping[str, Any]
    parts: Sequence[bytes] = field(default_factory=tuple)


def send(stream: IO[bytes], message: Message) -> None:
    """Write a message and flush it."""
    head = json.dumps({**message.head, "parts": len(message.parts)}).encode()
    for block in (head, *message.parts):
        stream.write(_LENGTH.pack(len(block)))
        stream.write(block)
    stream.flush()


def receive(stream: IO[bytes]) -> Message | None:
    """Read a message; None where the other side has ended."""
    block = _read_block(stream)
    if block is None:
        return None
    head = json.loads(block)
    parts = []
    for _ in range(int(head.pop("parts"))):
        part = _read_block(stream)
        if part is None:
            return None
        parts.append(part)
    return Message(head=head, parts=parts)


def pack_array(array: NDArray[Any]) -> bytes:
    """An array of numbers as bytes."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array).reshape(np.shape(array)), allow_pickle=False)
    return buffer.getvalue()


def unpack_array(content: bytes) -> NDArray[Any]:
    """The array that `pack_array` packed."""
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def _read_block(stream: IO[bytes]) -> bytes | None:
    size = stream.read(_LENGTH.size)
    if len(size) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(size)
    if length > _MAX_PART_BYTES:
        return None
    block = stream.read(length)
    return block if len(block) == length else None
