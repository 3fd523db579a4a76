"""The supervisor's hold on what runs beside: a process for each, watched from outside.

One that crashes, says nothing for too long, or takes too much memory is ended and reported; what
serves does not notice.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit_agent.doors import describe_exit
from edgekit_agent.machine import ShadowEnded, ShadowSeen
from edgekit_agent.memory import peak_memory_bytes
from edgekit_agent.plans import ModelPlan
from edgekit_agent.shadow.place import close_place, shadow_folder
from edgekit_agent.shadow.plans import Beside, ShadowPlan
from edgekit_agent.telemetry.recorder import ShadowTotals
from edgekit_agent.trial import over_memory
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.shadow import ShadowCounts, read_shadow

_log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.1
_MEMORY_SECONDS: Final = 1.0
# How long it has run is written down so often, at most; a power cut makes it run so much longer.
_SEEN_SECONDS: Final = 600.0
_SEEN_SHARE: Final = 0.1
_MAX_LINE: Final = 1 << 20
# Versions whose counts are kept after their processes ended.
_MAX_LEDGER: Final = 32
_MEGABYTE: Final = 1 << 20

Told = tuple[str, ShadowSeen | ShadowEnded]


@dataclass(slots=True)
class _Said:
    """What a process's own thread has found out; assigned whole, and read by the supervisor."""

    counts: ShadowCounts | None = None
    since: float | None = None
    ended: str = ""


class _Process:
    """One version beside; the thread ends with the process."""

    def __init__(self, beside: Beside, *, place: Path, wake: Callable[[], None]) -> None:
        self.beside = beside
        self.said = _Said()
        self.seen = beside.seconds
        self._place = place
        self._wake = wake
        self._stopping = False
        order = beside.order
        with contextlib.ExitStack() as undo:
            # Nothing stays open if a process cannot be had.
            self._reports, reports_write = _pipe(undo)
            life_read, self._life = _pipe(undo)
            plan = ShadowPlan(
                candidate=beside.candidate,
                active=beside.active,
                run=order.run,
                rate=order.rate,
                max_per_second=order.max_per_second,
                tolerance=order.tolerance,
                place=str(place),
                reports=reports_write,
                life=life_read,
            )
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgekit_agent.shadow.worker", plan.to_json()],
                pass_fds=(reports_write, life_read),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            undo.pop_all()
        os.close(reports_write)
        os.close(life_read)
        self._thread = threading.Thread(
            target=self._watch, name=f"shadow-{beside.candidate.bundle}", daemon=True
        )
        self._thread.start()

    @property
    def digest(self) -> str:
        """Of the version that runs beside."""
        return self.beside.candidate.digest

    def seconds(self, now: float) -> float:
        """How long it has run beside, with what came before."""
        since = self.said.since
        return self.beside.seconds + (now - since if since is not None else 0.0)

    def stop(self, seconds: float = 10.0) -> None:
        """End it; what it counted stays."""
        self._stopping = True
        self._process.kill()
        self._thread.join(seconds)

    def _watch(self) -> None:
        reason = ""
        try:
            reason = self._follow()
        finally:
            self._process.kill()
            code = self._process.wait()
            os.close(self._reports)
            os.close(self._life)
            close_place(self._place, self.beside.candidate.bundle)
            if not self._stopping:
                self.said.ended = reason or describe_exit(code)
                self._wake()

    def _follow(self) -> str:
        """Read what it says; why it had to be ended, or nothing if it has ended by itself."""
        budget = self.beside.order.budget
        heard = time.monotonic()
        rest = b""
        while True:
            if select.select([self._reports], [], [], _POLL_SECONDS)[0]:
                data = os.read(self._reports, _MAX_LINE)
                if not data:
                    return ""
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    heard = time.monotonic()
                    if failed := self._hear(line, heard):
                        return failed
                if len(rest) > _MAX_LINE:
                    return "it said something without an end"
            peak = peak_memory_bytes(self._process.pid)
            if peak > budget.memory_bytes:
                return over_memory(peak, budget)
            if time.monotonic() - heard > budget.trial_seconds:
                return (
                    f"it said nothing for {budget.trial_seconds:g} s: it hangs, "
                    "or this device leaves it no time"
                )

    def _hear(self, line: bytes, now: float) -> str:
        try:
            reader = FieldReader(json.loads(line))
        except (ValueError, RecursionError):
            return "it said what makes no sense"
        if reader.raw("failed") is not None:
            return f"it could not be loaded: {reader.text('failed', most=_MAX_LINE)}"
        counts = read_shadow(reader.nested("counts"))
        if reader.faults:
            return "it said what makes no sense"
        if self.said.since is None:
            self.said.since = now
            self._wake()
        self.said.counts = counts
        return ""


class Watchers:
    """Everything that runs beside what serves; for one thread."""

    def __init__(
        self,
        data: Path,
        *,
        wake: Callable[[], None],
        free_bytes: Callable[[], int | None] | None = None,
    ) -> None:
        """Nothing runs yet.

        Args:
            data: The agent's folder.
            wake: Called from other threads when there is something to `tick` about.
            free_bytes: What memory the device has to spare; None where it does not say.
        """
        self._place = shadow_folder(data)
        self._wake = wake
        self._free_bytes = free_bytes or available_memory_bytes
        self._running: dict[str, _Process] = {}
        self._ledger: dict[tuple[str, str, str], tuple[ModelPlan, ShadowCounts]] = {}
        self._memory_due = 0.0

    def tick(self, wanted: Mapping[str, Beside], now: float) -> list[Told]:
        """Bring the processes in line with what is wanted; what is to be told of whom.

        Args:
            wanted: By bundle.
            now: Seconds on a clock that never goes back.
        """
        told: list[Told] = []
        for bundle in [name for name in self._running if name not in wanted]:
            self._end(bundle)
        free = None
        if now >= self._memory_due:
            self._memory_due = now + _MEMORY_SECONDS
            free = self._free_bytes()
        for bundle, beside in wanted.items():
            running = self._running.get(bundle)
            if running is not None and not _is_same(running.beside, beside):
                self._end(bundle)
                running = None
            if free is not None and free < beside.order.free_bytes:
                self._end(bundle)
                reason = (
                    f"memory is short: {free // _MEGABYTE} MB are left of the "
                    f"{beside.order.free_bytes // _MEGABYTE} MB that shall be"
                )
                told.append((bundle, ShadowEnded(digest=beside.candidate.digest, reason=reason)))
                continue
            if running is None:
                try:
                    self._running[bundle] = _Process(beside, place=self._place, wake=self._wake)
                except OSError as error:
                    reason = f"this device cannot start it: {error.strerror or error}"
                    ended = ShadowEnded(digest=beside.candidate.digest, reason=reason)
                    told.append((bundle, ended))
                continue
            told += self._look(bundle, running, now)
        return told

    def totals(self) -> ShadowTotals:
        """By digest, run and version that serves, what was counted since the agent started."""
        found = dict(self._ledger)
        for process in self._running.values():
            _add(found, process)
        return found

    def close(self) -> None:
        """End everything; what was counted stays."""
        for bundle in list(self._running):
            self._end(bundle)

    def _look(self, bundle: str, running: _Process, now: float) -> list[Told]:
        seconds = running.seconds(now)
        if running.said.ended:
            reason = running.said.ended
            self._end(bundle)
            return [(bundle, ShadowEnded(digest=running.digest, reason=reason))]
        limit = running.beside.order.seconds
        if seconds >= limit or seconds - running.seen >= min(_SEEN_SECONDS, _SEEN_SHARE * limit):
            running.seen = seconds
            return [(bundle, ShadowSeen(digest=running.digest, seconds=seconds))]
        return []

    def _end(self, bundle: str) -> None:
        process = self._running.pop(bundle, None)
        if process is None:
            return
        process.stop()
        _add(self._ledger, process)
        while len(self._ledger) > _MAX_LEDGER:
            del self._ledger[next(iter(self._ledger))]


def available_memory_bytes() -> int | None:
    """What memory this device has to spare, by its kernel; None where that does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe that `undo` closes."""
    ends = os.pipe()
    for end in ends:
        undo.callback(os.close, end)
    return ends


def _add(
    found: dict[tuple[str, str, str], tuple[ModelPlan, ShadowCounts]], process: _Process
) -> None:
    counts = process.said.counts
    if counts is None:
        return
    key = (process.digest, counts.run, counts.active)
    known = found.get(key)
    found[key] = (process.beside.candidate, known[1].merge(counts) if known else counts)


def _is_same(running: Beside, wanted: Beside) -> bool:
    """Whether a process does what is wanted; how long it has run is not of it."""
    return (running.candidate, running.active, running.order) == (
        wanted.candidate,
        wanted.active,
        wanted.order,
    )
