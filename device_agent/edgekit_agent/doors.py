"""The supervisor's hold on server processes: start, switch without a lost request, restart.

The listening sockets stay open here, whatever becomes of a server: clients wait, and are not
refused. A switch starts a second server on the same sockets, and lets the first one drain when
the second is ready.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgekit_agent.listeners import open_listener, open_unix_listener
from edgekit_agent.live_stats import LiveStats, read_stats
from edgekit_agent.plans import ModelPlan, ServerPlan
from edgekit_agent.settings import SampleSettings
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.sealing.vault import Encryption

START_SECONDS: Final = 60.0
DRAIN_SECONDS: Final = 60.0
# A server that ran this long was well: the next crash is the first again.
WELL_SECONDS: Final = 60.0
_FIRST_DELAY_SECONDS: Final = 0.5
_LONGEST_DELAY_SECONDS: Final = 30.0
_MAX_LINE: Final = 1 << 20
# Versions whose counters are kept after they ended.
_MAX_LEDGER: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSaid:
    """A line from a server process."""

    generation: int
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEnded:
    """A server process is gone."""

    generation: int
    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A server with these models now answers requests."""

    models: tuple[ModelPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A server ended by itself.

    Attributes:
        blamed: The models that did it, as far as one can tell.
        reason: For people.
        unloadable: Whether the blamed one said itself that it cannot be loaded.
    """

    blamed: tuple[ModelPlan, ...]
    reason: str
    unloadable: bool


@dataclass(slots=True)
class _Server:
    generation: int
    models: tuple[ModelPlan, ...]
    process: subprocess.Popen[bytes]
    life: int
    running: mmap.mmap
    since: float
    reader: threading.Thread
    failed: tuple[str, str] | None = None
    stats: dict[str, LiveStats] = field(default_factory=dict)
    told_to_drain: bool = False
    killed_because: str = ""


class Doors:
    """The listening sockets, and the server process behind them."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        request_bytes: int,
        post: Callable[[ServerSaid | ServerEnded], None],
        socket_path: Path | None = None,
        queue_requests: int = 16,
        ram_bytes: int = 0,
        data: Path = Path(),
        samples: SampleSettings | None = None,
        encryption: Encryption | None = None,
    ) -> None:
        """Open the listening sockets.

        Args:
            host: Address to listen on.
            port: TCP port; 0 for any free one.
            request_bytes: The largest request body.
            post: Takes messages from other threads; they come back through `handle`.
            socket_path: Of a Unix socket to listen on as well; None for none.
            queue_requests: How many requests may wait for each model.
            ram_bytes: The most memory of a server with all its models; 0 for any.
            data: The agent's folder, for its status and for samples.
            samples: Which requests are kept for retraining; None for none.
            encryption: How files are kept in the agent's folder; None for plain.

        Raises:
            EnvironmentLackError: If the port or the path is in use, or not of this machine.
        """
        self._listen = open_listener(host, port)
        self._socket_path = socket_path
        try:
            self._unix = open_unix_listener(socket_path) if socket_path else None
        except BaseException:
            self._listen.close()
            raise
        self._handover_in, self._handover_out = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        self._handover_out.settimeout(0.0)
        self._queue_requests = queue_requests
        self._request_bytes = request_bytes
        self._ram_bytes = ram_bytes
        self._data = data
        self._samples = samples or SampleSettings()
        self._encryption = (encryption or Encryption()).to_text()
        self._post = post
        self._generation = 0
        self._wanted: tuple[ModelPlan, ...] | None = None
        self._current: _Server | None = None
        self._starting: _Server | None = None
        self._draining: dict[int, _Server] = {}
        # What processes that have ended had counted, by digest.
        self._ended: dict[str, LiveStats] = {}
        # What processes that have ended had counted, ever, by digest: for telemetry.
        self._ledger: dict[str, tuple[ModelPlan, LiveStats]] = {}
        self._deaths = 0
        self._not_before = 0.0
        # The server that is to be replaced although it holds what is wanted.
        self._stale = 0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are really listened on."""
        host, port = self._listen.getsockname()[:2]
        return str(host), int(port)

    @property
    def socket_path(self) -> Path | None:
        """The Unix socket that is listened on; None for none."""
        return self._socket_path

    @property
    def pid(self) -> int | None:
        """Of the server that answers; None while there is none."""
        return self._current.process.pid if self._current else None

    @property
    def settled(self) -> bool:
        """Whether the server that is wanted is the one that answers, and no other is left."""
        return (
            self._current is not None
            and self._is_good(self._current)
            and self._starting is None
            and not self._draining
        )

    def serve(self, models: tuple[ModelPlan, ...], now: float) -> None:
        """Say what the server must hold; `tick` brings it about."""
        if models != self._wanted:
            self._wanted = models
            self._deaths = 0
            self._not_before = now
        self._ended = {
            digest: stats
            for digest, stats in self._ended.items()
            if digest in {model.digest for model in models}
        }

    def restart(self) -> None:
        """Replace the server by one with the same models; no request is refused meanwhile."""
        self._stale = self._current.generation if self._current else 0

    def tick(self, now: float) -> None:
        """Start, switch and give up processes as time goes by.

        Args:
            now: Seconds on a clock that never goes back.
        """
        if self._starting and now - self._starting.since > START_SECONDS:
            self._kill(self._starting, f"it was not ready within {START_SECONDS:g} s")
        for server in self._draining.values():
            if now - server.since > DRAIN_SECONDS:
                self._kill(server, "it did not drain")
        if self._wanted is None or now < self._not_before:
            return
        if self._starting:
            if self._starting.models != self._wanted:
                self._drain(self._starting, now)
                self._starting = None
            else:
                return
        if self._current is None or not self._is_good(self._current):
            self._starting = self._start(self._wanted, now)

    def handle(self, message: ServerSaid | ServerEnded, now: float) -> Opened | Died | None:
        """Take in what a process said, or that it ended; what that means, if anything."""
        server = self._find(message.generation)
        if server is None:
            return None
        if isinstance(message, ServerEnded):
            return self._ended_one(server, message.code, now)
        reader = FieldReader(json.loads(message.line))
        if reader.raw("failed") is not None:
            server.failed = (reader.text("failed"), reader.text("reason", most=_MAX_LINE))
        if reader.raw("stats") is not None:
            stats = reader.nested("stats")
            counted = {name: read_stats(stats.nested(name)) for name in stats.names()}
            if not reader.faults:
                server.stats = counted
        if reader.raw("ready") is True and server is self._starting:
            if self._current:
                self._drain(self._current, now)
            self._current, self._starting = server, None
            server.since = now
            return Opened(models=server.models)
        return None

    def stats_of(self, digest: str) -> LiveStats:
        """What a version has done in all processes since it was first asked for."""
        total = LiveStats()
        if digest in self._ended:
            total.merge(self._ended[digest])
        for server in self._all():
            for model in server.models:
                if model.digest == digest and model.bundle in server.stats:
                    total.merge(server.stats[model.bundle])
        return total

    def totals(self) -> dict[str, tuple[ModelPlan, LiveStats]]:
        """By digest, what each version has done in all processes there were; only ever rises."""
        found: dict[str, tuple[ModelPlan, LiveStats]] = {}
        known = list(self._ledger.values())
        for server in self._all():
            known += [
                (model, server.stats[model.bundle].ended())
                for model in server.models
                if model.bundle in server.stats
            ]
        for plan, stats in known:
            found.setdefault(plan.digest, (plan, LiveStats()))[1].merge(stats)
        return found

    def close(self, *, seconds: float) -> None:
        """Let every server drain, end those that take longer, close the door."""
        servers = self._all()
        for server in servers:
            with contextlib.suppress(ProcessLookupError):
                server.process.terminate()
        deadline = time.monotonic() + seconds
        for server in servers:
            try:
                server.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
            # What it said last is posted then; `handle` may still be given it.
            server.reader.join(seconds)
            os.close(server.life)
        self._listen.close()
        if self._unix and self._socket_path:
            self._unix.close()
            self._socket_path.unlink(missing_ok=True)
        self._handover_in.close()
        self._handover_out.close()

    def _start(self, models: tuple[ModelPlan, ...], now: float) -> _Server:
        self._generation += 1
        reports_read, reports_write = os.pipe()
        life_read, life_write = os.pipe()
        running = os.memfd_create("edgekit-running")
        os.ftruncate(running, max(1, len(models)))
        listeners = [self._listen, *([self._unix] if self._unix else [])]
        plan = ServerPlan(
            models=models,
            newcomers=tuple(model.bundle for model in models if model not in self._known()),
            listeners=tuple(listener.fileno() for listener in listeners),
            handover_in=self._handover_in.fileno(),
            handover_out=self._handover_out.fileno(),
            reports=reports_write,
            life=life_read,
            running=running,
            queue_requests=self._queue_requests,
            request_bytes=self._request_bytes,
            ram_bytes=self._ram_bytes,
            data=str(self._data),
            samples=self._samples,
            encryption=self._encryption,
        )
        inherited = (
            *plan.listeners,
            plan.handover_in,
            plan.handover_out,
            plan.reports,
            plan.life,
            plan.running,
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit_agent.server", plan.to_json()],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        reader = threading.Thread(
            target=self._listen_to,
            args=(self._generation, process, reports_read),
            name=f"server-{self._generation}",
            daemon=True,
        )
        server = _Server(
            generation=self._generation,
            models=models,
            process=process,
            life=life_write,
            running=mmap.mmap(running, max(1, len(models))),
            since=now,
            reader=reader,
        )
        for descriptor in (reports_write, life_read, running):
            os.close(descriptor)
        reader.start()
        return server

    def _listen_to(self, generation: int, process: subprocess.Popen[bytes], pipe: int) -> None:
        with os.fdopen(pipe, "r", encoding="ascii", errors="replace") as file:
            while line := file.readline(_MAX_LINE):
                self._post(ServerSaid(generation=generation, line=line))
        self._post(ServerEnded(generation=generation, code=process.wait()))

    def _ended_one(self, server: _Server, code: int, now: float) -> Died | None:
        os.close(server.life)
        for model in server.models:
            if model.bundle in server.stats:
                stats = server.stats[model.bundle]
                self._ended.setdefault(model.digest, LiveStats()).merge(stats)
                self._ledger.setdefault(model.digest, (model, LiveStats()))[1].merge(stats)
        while len(self._ledger) > _MAX_LEDGER:
            del self._ledger[next(iter(self._ledger))]
        if server.generation in self._draining:
            del self._draining[server.generation]
            return None
        was_well = server is self._current and now - server.since > WELL_SECONDS
        self._deaths = 1 if was_well else self._deaths + 1
        if self._deaths > 1:
            delay = _FIRST_DELAY_SECONDS * 2.0 ** (self._deaths - 2)
            self._not_before = now + min(delay, _LONGEST_DELAY_SECONDS)
        blamed = self._blame(server)
        if server is self._current:
            self._current = None
        else:
            self._starting = None
        if server.failed:
            reason = f"it could not be loaded: {server.failed[1]}"
        else:
            reason = server.killed_because or describe_exit(code)
        return Died(blamed=blamed, reason=reason, unloadable=server.failed is not None)

    def _blame(self, server: _Server) -> tuple[ModelPlan, ...]:
        if server.failed:
            return tuple(model for model in server.models if model.bundle == server.failed[0])
        computing = tuple(
            model
            for position, model in enumerate(server.models)
            if server.running[position : position + 1] != b"\0"
        )
        if computing:
            return computing
        known = self._known() if server is self._starting else ()
        return tuple(model for model in server.models if model not in known) or server.models

    def _is_good(self, server: _Server) -> bool:
        return server.models == self._wanted and server.generation != self._stale

    def _known(self) -> tuple[ModelPlan, ...]:
        """The models that have shown that they can be served beside each other."""
        return self._current.models if self._current else ()

    def _drain(self, server: _Server, now: float) -> None:
        server.since = now
        self._draining[server.generation] = server
        with contextlib.suppress(ProcessLookupError):
            server.process.send_signal(signal.SIGTERM)

    @staticmethod
    def _kill(server: _Server, reason: str) -> None:
        server.killed_because = reason
        with contextlib.suppress(ProcessLookupError):
            server.process.kill()

    def _find(self, generation: int) -> _Server | None:
        return next((one for one in self._all() if one.generation == generation), None)

    def _all(self) -> list[_Server]:
        ready = [server for server in (self._current, self._starting) if server]
        return [*ready, *self._draining.values()]


def describe_exit(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"the process ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the process crashed ({name})"
