"""Tell systemd that the agent is ready and alive; does nothing where systemd did not start it.

The protocol of sd_notify(3): a datagram to the socket that `NOTIFY_SOCKET` names.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

_LEAST_SECONDS: Final = 1.0


class ServiceManager:
    """The line to systemd."""

    def __init__(self) -> None:
        """Find the socket."""
        path = os.environ.get("NOTIFY_SOCKET", "")
        # A name that begins with @ stands for one in the abstract namespace.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._next = 0.0

    def ready(self) -> None:
        """Say that the agent runs."""
        self._send("READY=1")

    def alive(self, now: float) -> None:
        """Say that the loop turns; no more than once a second.

        Args:
            now: Seconds on a clock that never goes back.
        """
        if now >= self._next:
            self._next = now + _LEAST_SECONDS
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the agent ends."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.sendto(text.encode(), self._address)
