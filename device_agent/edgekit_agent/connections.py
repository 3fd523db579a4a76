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
from collections.abc import Callable
from typing import Final

from edgekit_agent.http import Connection, Request, RequestError, Response, json_response

# Connections above this wait in the kernel's queue until others close.
_log = logging.getLogger(__name__)
MAX_CONNECTIONS: Final = 512
_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT
_HANDOVER_SECONDS: Final = 10.0


class ConnectionPool:
    """Accepts, answers, drains."""

    def __init__(
        self,
        *,
        listen: socket.socket,
        handover_in: socket.socket,
        handover_out: socket.socket,
        answer: Callable[[Request], Response],
        threads: int,
        max_body_bytes: int,
    ) -> None:
        """Prepare; nothing is accepted before `start`.

        Args:
            listen: The listening socket, not blocking, shared with other processes.
            handover_in: Where `drain` puts idle connections.
            handover_out: Where connections come from that another process drained; not blocking.
            answer: Called by several threads at once.
            threads: How many requests are worked on at a time.
            max_body_bytes: The largest request body.
        """
        self._listen = listen
        self._handover_in = handover_in
        self._handover_out = handover_out
        self._answer = answer
        self._max_body_bytes = max_body_bytes
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = os.pipe()
        self._connections: dict[int, Connection] = {}
        self._accepting = True
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"requests-{position}")
            for position in range(threads)
        ]

    def start(self) -> None:
        """Open the doors."""
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._epoll.register(self._listen, _ONCE)
        self._epoll.register(self._handover_out, _ONCE)
        for thread in self._threads:
            thread.start()

    def drain(self) -> None:
        """Accept no more, answer what was begun, hand over the rest, and return."""
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

    def _work(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll(maxevents=1):
                if descriptor == self._wake_read:
                    return
                if descriptor == self._listen.fileno():
                    self._accept()
                elif descriptor == self._handover_out.fileno():
                    self._adopt()
                else:
                    try:
                        self._converse(descriptor)
                    except Exception:  # noqa: BLE001 - whatever it was
                        # One connection's trouble must not cost the server a worker.
                        _log.exception("a connection failed")
                        self._remove(descriptor)

    def _accept(self) -> None:
        try:
            client, _ = self._listen.accept()
        except OSError:
            # Another process was faster, or the client has gone again.
            self._rearm(self._listen)
            return
        self._add(client)
        self._rearm_doors(self._listen)

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
        connection = Connection(client, max_body_bytes=self._max_body_bytes)
        with self._lock:
            self._connections[client.fileno()] = connection
        self._epoll.register(client.fileno(), _ONCE)

    def _converse(self, descriptor: int) -> None:
        connection = self._connections[descriptor]
        while True:
            try:
                request = connection.read_request()
            except RequestError as error:
                refusal = json_response({"error": error.what}, status=error.status)
                connection.send(refusal, keep_alive=False)
                self._remove(descriptor)
                return
            if request is None:
                self._remove(descriptor)
                return
            response = self._answer(request)
            if not connection.send(response, keep_alive=request.keep_alive):
                self._remove(descriptor)
                return
            if not request.keep_alive:
                self._remove(descriptor)
                return
            if not connection.pending:
                self._epoll.modify(descriptor, _ONCE)
                return

    def _remove(self, descriptor: int) -> None:
        with self._lock:
            connection = self._connections.pop(descriptor)
            full = not self._accepting
            self._accepting = True
        # Out of the table before the number can be given to a new connection.
        self._epoll.unregister(descriptor)
        connection.close()
        if full:
            self._rearm(self._listen)

    def _rearm_doors(self, door: socket.socket) -> None:
        with self._lock:
            if len(self._connections) >= MAX_CONNECTIONS:
                self._accepting = False
                return
        self._rearm(door)

    def _rearm(self, door: socket.socket) -> None:
        self._epoll.modify(door.fileno(), _ONCE)
