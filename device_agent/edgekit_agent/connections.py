"""Many connections, few threads, and not one lost when another process takes over.

The threads share one epoll; each event goes to one of them, which answers it itself. Two servers
may accept from the same listening socket at the same time. One that drains finishes what its
threads are at, and puts every idle connection, with nothing read from it, into a Unix socket from
which the other server takes it: a client in the middle of keep-alive notices nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

from edgekit_agent.http import (
    BodyBuffer,
    BodyMemory,
    Connection,
    Request,
    RequestError,
    Response,
    busy_response,
    json_response,
)

_log = logging.getLogger(__name__)

# Connections above this wait in the kernel's queue until others close.
MAX_CONNECTIONS: Final = 512
_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT
_HANDOVER_SECONDS: Final = 10.0
# Bodies of large requests that are held at a time: as much as that many of the largest.
_LARGEST_BODIES: Final = 2


class ConnectionPool:
    """Accepts, answers, drains."""

    def __init__(
        self,
        *,
        listeners: Sequence[socket.socket],
        handover_in: socket.socket,
        handover_out: socket.socket,
        answer: Callable[[Request], Response],
        threads: int,
        max_body_bytes: int,
    ) -> None:
        """Prepare; nothing is accepted before `start`.

        Args:
            listeners: Listening sockets, not blocking, shared with other processes.
            handover_in: Where `drain` puts idle connections.
            handover_out: Where connections come from that another process drained; not blocking.
            answer: Called by several threads at once.
            threads: The most requests that are in hand at a time, those that wait included; a
                thread is started when all others are at work.
            max_body_bytes: The largest request body.
        """
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._handover_in = handover_in
        self._handover_out = handover_out
        self._answer = answer
        self._max_body_bytes = max_body_bytes
        self._memory = BodyMemory(_LARGEST_BODIES * max_body_bytes)
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = os.pipe()
        self._connections: dict[int, Connection] = {}
        # Listeners that are not armed because there are too many connections.
        self._paused: set[int] = set()
        self._lock = threading.Lock()
        self._most_threads = threads
        self._threads: list[threading.Thread] = []
        self._free = 0
        self._draining = False

    def start(self) -> None:
        """Open the doors."""
        self._epoll.register(self._wake_read, select.EPOLLIN)
        for descriptor in self._listeners:
            self._epoll.register(descriptor, _ONCE)
        self._epoll.register(self._handover_out, _ONCE)
        with self._lock:
            self._add_thread()

    def drain(self) -> None:
        """Accept no more, answer what was begun, hand over the rest, and return."""
        with self._lock:
            self._draining = True
        # Never read from, the pipe stays readable: it wakes every thread, and ends it.
        os.write(self._wake_write, b"x")
        for thread in self._threads:
            thread.join()
        self._handover_in.settimeout(_HANDOVER_SECONDS)
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                socket.send_fds(self._handover_in, [b"c"], [connection.socket.fileno()])
            connection.close()
        self._connections.clear()

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"requests-{len(self._threads)}")
        self._threads.append(thread)
        self._free += 1
        thread.start()

    def _work(self) -> None:
        buffer = BodyBuffer()
        while True:
            for descriptor, _ in self._epoll.poll(maxevents=1):
                if descriptor == self._wake_read:
                    return
                with self._lock:
                    self._free -= 1
                    # One thread is always left to answer, be it that all others are busy.
                    if (
                        not self._free
                        and len(self._threads) < self._most_threads
                        and not self._draining
                    ):
                        self._add_thread()
                self._serve(descriptor, buffer)
                with self._lock:
                    self._free += 1

    def _serve(self, descriptor: int, buffer: BodyBuffer) -> None:
        if descriptor in self._listeners:
            self._accept(self._listeners[descriptor])
        elif descriptor == self._handover_out.fileno():
            self._adopt()
        else:
            try:
                self._converse(descriptor, buffer)
            except Exception:  # noqa: BLE001 - whatever it was
                # One connection's trouble must not cost the server a worker.
                _log.exception("a connection failed")
                self._remove(descriptor)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            # Another process was faster, or the client has gone again.
            self._rearm(listener)
            return
        self._add(client)
        with self._lock:
            if len(self._connections) >= MAX_CONNECTIONS:
                self._paused.add(listener.fileno())
                return
        self._rearm(listener)

    def _adopt(self) -> None:
        try:
            _, descriptors, _, _ = socket.recv_fds(self._handover_out, 1, 1)
        except OSError:
            self._rearm(self._handover_out)
            return
        for descriptor in descriptors:
            self._add(socket.socket(fileno=descriptor))
        self._rearm(self._handover_out)

    def _add(self, client: socket.socket) -> None:
        connection = Connection(client, max_body_bytes=self._max_body_bytes, memory=self._memory)
        with self._lock:
            self._connections[client.fileno()] = connection
        self._epoll.register(client.fileno(), _ONCE)

    def _converse(self, descriptor: int, buffer: BodyBuffer) -> None:
        connection = self._connections[descriptor]
        while True:
            try:
                request = connection.read_request(buffer)
            except RequestError as error:
                connection.send(_refusal(error), keep_alive=False)
                self._remove(descriptor)
                return
            if request is None:
                self._remove(descriptor)
                return
            response = self._answer(request)
            taken = connection.send(response, keep_alive=request.keep_alive)
            connection.finish_request()
            if not taken or not request.keep_alive:
                self._remove(descriptor)
                return
            if not connection.pending:
                self._epoll.modify(descriptor, _ONCE)
                return

    def _remove(self, descriptor: int) -> None:
        with self._lock:
            connection = self._connections.pop(descriptor)
            paused, self._paused = self._paused, set()
        # Out of the table before the number can be given to a new connection.
        self._epoll.unregister(descriptor)
        connection.close()
        for listener in paused:
            self._rearm(self._listeners[listener])

    def _rearm(self, door: socket.socket) -> None:
        self._epoll.modify(door.fileno(), _ONCE)


def _refusal(error: RequestError) -> Response:
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return busy_response(error.what, retry_seconds=1)
    return json_response({"error": error.what}, status=error.status)
