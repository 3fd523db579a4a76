"""How a request and its answer travel to what runs beside: a JSON head, and arrays as they lie.

Both ends are processes of one agent; the limits are against mistakes, not against an enemy.
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_FRAME_BYTES: Final = 64 << 20
_MAX_HEAD_BYTES: Final = 1 << 20
_LENGTH: Final = 4
# Objects are pointers, and stay where they are.
_KINDS: Final = "biufcSU"


@dataclass(frozen=True, slots=True)
class Frame:
    """One message.

    Attributes:
        head: Small things, as JSON.
        arrays: By name.
    """

    head: dict[str, Any]
    arrays: dict[str, NDArray[np.generic]]


def can_travel(arrays: Mapping[str, NDArray[np.generic]]) -> bool:
    """Whether arrays can be sent at all."""
    return (
        all(array.dtype.kind in _KINDS for array in arrays.values())
        and sum(array.nbytes for array in arrays.values()) <= MAX_FRAME_BYTES
    )


def send_frame(channel: socket.socket, frame: Frame) -> None:
    """Send a message; waits as long as the channel's timeout.

    Raises:
        OSError: If the other end is gone, or does not read.
    """
    listed = [[name, a.dtype.str, list(a.shape)] for name, a in frame.arrays.items()]
    head = json.dumps({"head": frame.head, "arrays": listed}).encode()
    channel.sendall(len(head).to_bytes(_LENGTH, "big") + head)
    for array in frame.arrays.values():
        if array.size:
            # As bytes: a view of letters cannot be cast, and one of numbers need not be copied.
            channel.sendall(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def receive_frame(channel: socket.socket) -> Frame:
    """The next message; waits as long as the channel's timeout.

    Raises:
        OSError: If the other end is gone, does not send, or sends what is no message.
    """
    length = int.from_bytes(_exactly(channel, _LENGTH), "big")
    if length > _MAX_HEAD_BYTES:
        raise OSError(f"a head of {length} bytes")
    try:
        document = json.loads(_exactly(channel, length))
        listed = [
            (str(n), np.dtype(t), [int(s) for s in shape]) for n, t, shape in document["arrays"]
        ]
        sizes = [math.prod(shape) * dtype.itemsize for _, dtype, shape in listed]
        head = dict(document["head"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise OSError(f"no message: {error}") from error
    if min(sizes, default=0) < 0 or sum(sizes) > MAX_FRAME_BYTES:
        raise OSError("a message of an impossible size")
    arrays = {
        name: np.frombuffer(_exactly(channel, size), dtype).reshape(shape)
        for (name, dtype, shape), size in zip(listed, sizes, strict=True)
    }
    return Frame(head, arrays)


def _exactly(channel: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = channel.recv_into(view)
        if not count:
            raise ConnectionResetError("the other end has closed")
        view = view[count:]
    return data
