"""Run a process under a memory limit that the kernel enforces, or else one that is watched.

A control group counts what the process really holds: RLIMIT_AS, which counts addresses, lets a
process pass that holds half of what another is refused. Both versions of control groups are tried
(Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst); where none may be made,
the resident memory is looked at every few milliseconds and the process ended once it is too much.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from edgekit_runtime.errors import EnvironmentLackError, UsageError

KERNEL: Final = "enforced by the kernel's memory control group"
WATCHED: Final = "watched every few milliseconds; the kernel does not let this user make a group"
_LEAST_BYTES: Final = 1024 * 1024
_POLL_SECONDS: Final = 0.002
_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "K": 2**10, "M": 2**20,
                 "G": 2**30, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}  # fmt: skip


class MemoryLimit(Protocol):
    """A limit that one process runs under."""

    @property
    def how(self) -> str:
        """Who sees to it."""
        ...

    def command(self, command: Sequence[str]) -> Sequence[str]:
        """The command that starts a program under the limit."""
        ...

    def started(self, pid: int) -> None:
        """Told of the process."""
        ...

    def exceeded(self) -> bool:
        """Whether the process was ended for going over it."""
        ...


def parse_bytes(text: str) -> int:
    """An amount such as "64MB" in bytes; powers of 1000, or of 1024 for M, MiB.

    Raises:
        UsageError: If it is no amount of memory, or less than any process needs.
    """
    cleaned = text.strip().upper().replace(" ", "")
    digits = cleaned.rstrip("KMGIB")
    unit = cleaned[len(digits) :]
    try:
        amount = float(digits)
    except ValueError:
        amount = -1.0
    if unit not in _UNITS or not _LEAST_BYTES <= amount * _UNITS[unit] < 2**60:
        raise UsageError(
            f"{text!r} is no amount of memory from 1 MiB",
            fix="write it as 64MB, 64MiB or 0.5GB",
        )
    return int(amount * _UNITS[unit])


@contextlib.contextmanager
def limit_memory(limit_bytes: int, *, root: Path = Path("/sys/fs/cgroup")) -> Iterator[MemoryLimit]:
    """A limit for one process, the best that can be had here.

    Args:
        limit_bytes: What the process may hold, its program and libraries included.
        root: Where control groups are mounted.

    Raises:
        EnvironmentLackError: If there are neither groups nor a /proc to watch.
    """
    for make in (_unified_group, _memory_group):
        group = make(root, limit_bytes)
        if group is not None:
            try:
                yield group
            finally:
                group.remove()
            return
    if not Path("/proc/self/status").exists():
        raise EnvironmentLackError(
            "this system has no way to limit a process's memory",
            fix="use Linux, where control groups or /proc are",
        )
    watch = _Watch(limit_bytes=limit_bytes)
    try:
        yield watch
    finally:
        watch.stop()


@dataclass(slots=True)
class _Group:
    folder: Path
    events: str
    how: str = KERNEL

    def command(self, command: Sequence[str]) -> Sequence[str]:
        # The shell joins the group and becomes the program: every page of it is counted.
        join = f"echo $$ > '{self.folder / 'cgroup.procs'}' && exec \"$@\""
        return ("/bin/sh", "-c", join, "sh", *command)

    def started(self, pid: int) -> None:
        """Nothing to do: the kernel watches."""

    def exceeded(self) -> bool:
        try:
            text = (self.folder / self.events).read_text(encoding="ascii")
        except OSError:
            return False
        pairs = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)  # noqa: PLR2004
        return int(pairs.get("oom_kill", "0")) > 0

    def remove(self) -> None:
        # A group can go once its last process is gone, which takes the kernel a moment.
        for _ in range(50):
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)
            else:
                return


def _unified_group(root: Path, limit_bytes: int) -> _Group | None:
    base = root / _own_path("").lstrip("/")
    candidates = [base, base.parent, root]
    for parent in candidates:
        try:
            if "memory" not in (parent / "cgroup.subtree_control").read_text(encoding="ascii"):
                continue
        except OSError:
            continue
        settings = {"memory.max": limit_bytes, "memory.swap.max": 0}
        group = _make(parent, settings, events="memory.events", needed="memory.max")
        if group is not None:
            return group
    return None


def _memory_group(root: Path, limit_bytes: int) -> _Group | None:
    mount = root / "memory"
    own = mount / _own_path("memory").lstrip("/")
    for parent in (own, mount):
        settings = {
            "memory.limit_in_bytes": limit_bytes,
            "memory.memsw.limit_in_bytes": limit_bytes,
        }
        group = _make(parent, settings, events="memory.oom_control", needed="memory.limit_in_bytes")
        if group is not None:
            return group
    return None


def _make(parent: Path, settings: dict[str, int], *, events: str, needed: str) -> _Group | None:
    if not (parent / "cgroup.procs").exists():
        return None
    folder = parent / f"edgekit-bench-{os.getpid()}-{time.monotonic_ns()}"
    try:
        folder.mkdir()
    except OSError:
        return None
    for name, value in settings.items():
        try:
            (folder / name).write_text(str(value), encoding="ascii")
        except OSError:
            # Swap may not be counted by this kernel; without the limit itself a group is no use.
            if name == needed:
                folder.rmdir()
                return None
    if not os.access(folder / "cgroup.procs", os.W_OK):
        folder.rmdir()
        return None
    return _Group(folder=folder, events=events)


def _own_path(controller: str) -> str:
    """This process's place in a hierarchy; "" is the unified one."""
    try:
        text = Path("/proc/self/cgroup").read_text(encoding="ascii")
    except OSError:
        return ""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return ""


@dataclass(slots=True)
class _Watch:
    limit_bytes: int
    how: str = WATCHED
    _over: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)

    def command(self, command: Sequence[str]) -> Sequence[str]:
        return command

    def started(self, pid: int) -> None:
        threading.Thread(target=self._watch, args=(pid,), daemon=True).start()

    def exceeded(self) -> bool:
        return self._over

    def stop(self) -> None:
        self._ended.set()

    def _watch(self, pid: int) -> None:
        status = Path(f"/proc/{pid}/statm")
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._ended.wait(_POLL_SECONDS):
            try:
                resident = int(status.read_text(encoding="ascii").split()[1]) * page
            except (OSError, IndexError):
                return
            if resident > self.limit_bytes:
                self._over = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return
