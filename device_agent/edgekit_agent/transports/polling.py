"""A transport that looks at a place again and again: what HTTP and folders have in common."""

from __future__ import annotations

import hashlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Final

from edgekit_agent.transports.arrivals import (
    Arrival,
    ChunkCame,
    ChunkLacking,
    Connected,
    Disconnected,
    MetadataCame,
    OrderCame,
    ReportKind,
)
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES, MAX_METADATA_SET_BYTES
from edgekit_runtime.protocol import Topics

_LONGEST_PAUSE_FACTOR: Final = 16


class UnreachableError(Exception):
    """The place cannot be read now; says why."""


class PollingTransport(ABC):
    """Asks for metadata and order at intervals, and for chunks when they are wanted.

    Nothing can be told to the world through it: states and events are not sent.
    """

    def __init__(
        self,
        *,
        name: str,
        topics: Topics,
        device: str,
        poll_seconds: float,
        post: Callable[[Arrival], None],
    ) -> None:
        """Prepare; `start` begins.

        Args:
            name: Of the thread.
            topics: Of the fleet.
            device: This device's id.
            poll_seconds: How often metadata and order are looked at.
            post: Takes arrivals; called from this transport's thread.
        """
        self._metadata_name = topics.metadata
        self._order_name = topics.order(device)
        self._topics = topics
        self._poll_seconds = poll_seconds
        # The same for each start of this device, different for each device: no herd.
        digest = hashlib.sha256(device.encode()).digest()
        self._spread = int.from_bytes(digest[:4]) / 2**32
        self._post = post
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._lock = threading.Lock()
        # Wanted and not asked for yet, in order.
        self._waiting: dict[str, None] = {}
        self._wanted: set[str] = set()
        self._connected = False
        self._reason = ""

    @abstractmethod
    def read(self, name: str, *, most: int) -> bytes | None:
        """What is at a name, unproven.

        Args:
            name: As a topic is written.
            most: How many bytes it may have; more are refused, and not read.

        Returns:
            None if there is nothing of that name, or it is too large.

        Raises:
            UnreachableError: If nothing can be read now.
        """

    @abstractmethod
    def read_changed(self, name: str, *, most: int) -> bytes | None:
        """As `read`, but None also if it is what it was when it was last read."""

    def forget(self) -> None:  # noqa: B027 - most places have nothing to forget
        """Be ready to reach the place anew."""

    def start(self) -> None:
        """Begin to look, and never give up."""
        self._thread.start()

    def want(self, names: Iterable[str]) -> None:
        """Read these chunks, instead of those said before."""
        with self._lock:
            before, self._wanted = self._wanted, set(names := list(names))
            kept = [name for name in self._waiting if name in self._wanted]
            new = [name for name in names if name not in before]
            self._waiting = dict.fromkeys([*kept, *new])
        self._wake.set()

    def received(self, name: str) -> None:
        """Do not read a chunk any more."""
        with self._lock:
            self._wanted.discard(name)
            self._waiting.pop(name, None)

    def retry(self, names: Iterable[str]) -> None:
        """Read these chunks again, after the others."""
        with self._lock:
            self._waiting |= dict.fromkeys(name for name in names if name in self._wanted)
        self._wake.set()

    def publish_state(self, message: bytes) -> None:  # noqa: B027 - there is nobody to tell
        """Nothing: there is nobody to tell."""

    def publish_report(self, kind: ReportKind, key: int, message: bytes) -> None:  # noqa: B027
        """Nothing: there is nobody to tell, and so nothing is taken."""

    def close(self, last_state: bytes) -> None:  # noqa: ARG002 - there is nobody to tell
        """End."""
        self._stop.set()
        self._wake.set()
        self._thread.join(10.0)

    def _run(self) -> None:
        pause = self._poll_seconds
        factor = 1
        self._stop.wait(self._spread * min(1.0, self._poll_seconds))
        while not self._stop.is_set():
            try:
                self._look()
                factor = 1
                self._serve_wants(pause * (0.5 + self._spread))
            except UnreachableError as error:
                self._on_unreachable(str(error))
                self._stop.wait(pause * factor * (0.5 + self._spread))
                factor = min(2 * factor, _LONGEST_PAUSE_FACTOR)
                # What was asked for and did not come is asked for again.
                with self._lock:
                    self._waiting |= dict.fromkeys(sorted(self._wanted))

    def _look(self) -> None:
        metadata = self.read_changed(self._metadata_name, most=MAX_METADATA_SET_BYTES)
        order = self.read_changed(self._order_name, most=MAX_METADATA_SET_BYTES)
        if not self._connected:
            self._connected = True
            self._post(Connected())
        if metadata is not None:
            self._post(MetadataCame(data=metadata))
        if order is not None:
            self._post(OrderCame(data=order))

    def _serve_wants(self, seconds: float) -> None:
        """Read what is wanted until it is time to look again."""
        deadline = time.monotonic() + seconds
        while not self._stop.is_set() and (left := deadline - time.monotonic()) > 0:
            with self._lock:
                name = next(iter(self._waiting), None)
                if name is None:
                    self._wake.clear()
                else:
                    del self._waiting[name]
            if name is None:
                self._wake.wait(left)
                continue
            data = self.read(self._topics.chunk(name), most=MAX_CHUNK_WIRE_BYTES)
            self._post(
                ChunkLacking(sha256=name) if data is None else ChunkCame(sha256=name, data=data)
            )

    def _on_unreachable(self, reason: str) -> None:
        self.forget()
        if self._connected or reason != self._reason:
            self._connected, self._reason = False, reason
            self._post(Disconnected(reason=reason))
