"""The agent's updating without network, processes and threads, on a disk that may fail.

`UpdateEngine` is the real journal, slots, chunks, fetching and state machine, driven to the end in
one call. `FailingDisk` counts every operation that changes the disk and ends or fails one of them.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from edgekit_agent.chunks import ChunkStore
from edgekit_agent.config import Limits
from edgekit_agent.downloads import Downloads, FetchDone
from edgekit_agent.fetching import Fetcher
from edgekit_agent.hardware import Hardware
from edgekit_agent.live_stats import LiveStats
from edgekit_agent.proofs import TrialDone
from edgekit_agent.slots import SlotStore
from edgekit_agent.state import Target
from edgekit_agent.transports.arrivals import ChunkCame
from edgekit_agent.trial import TrialOutcome
from edgekit_agent.updates import Updates
from edgekit_agent.verifier import VerifiedOrder
from edgekit_runtime.orders import BundleOrder, parse_index_pieces
from edgekit_runtime.sealing.keys import KeySource
from edgekit_runtime.sealing.vault import Encryption, Vault
from tests.simulators.signed_fleet import SignedFleet

HARDWARE = Hardware(
    architecture="x86_64", ram_bytes=1 << 30, runtimes={"onnxruntime": "1.32.0"}, python="3.11"
)


class PowerCut(BaseException):
    """The device has no power from here on."""


class FailingDisk:
    """Every change of the disk is an operation with a number, from 0.

    Args:
        below: Only what is in this folder counts.
        cut_at: The operation at which the power goes; nothing is done after it.
        tear: Whether files that were never synced lose what was written to them, as they may.
        fail: What happens instead of each of these operations: an errno.
    """

    def __init__(
        self,
        below: Path,
        *,
        cut_at: int | None = None,
        tear: bool = True,
        fail: dict[int, int] | None = None,
        on_cut: Callable[[], None] | None = None,
    ) -> None:
        self.below = str(below)
        self.operations = 0
        self.log: list[str] = []
        self._cut_at = cut_at
        self._tear = tear
        self._fail = fail or {}
        self._on_cut = on_cut
        self._dead = False
        self._unsynced: dict[str, None] = {}
        self._handles: dict[int, str] = {}

    @contextmanager
    def attached(self) -> Iterator[FailingDisk]:
        """The disk of this process, for a while."""
        real_open, real_os_open = builtins.open, os.open

        def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            path = os.fspath(file) if not isinstance(file, int) else self._handles.get(file, "")
            if any(letter in mode for letter in "wax+") and self._counts(path):
                try:
                    self._step("write", path)
                except BaseException:
                    if isinstance(file, int):
                        # As if the process had ended: nobody else will close it.
                        os.close(file)
                    raise
                self._unsynced[path] = None
            result = real_open(file, mode, *args, **options)
            if self._counts(path):
                self._handles[result.fileno()] = path
            return result

        def os_opened(path: Any, flags: int, *args: Any, **options: Any) -> int:
            name = os.fspath(path)
            if flags & os.O_CREAT and self._counts(name):
                self._step("create", name)
                self._unsynced[name] = None
            handle = real_os_open(path, flags, *args, **options)
            self._handles[handle] = name
            return handle

        with (
            mock.patch.multiple(
                "os",
                open=os_opened,
                fsync=self._around(os.fsync, "fsync", self._synced),
                replace=self._around(os.replace, "replace", self._renamed),
                unlink=self._around(os.unlink, "unlink"),
                mkdir=self._around(os.mkdir, "mkdir"),
                rmdir=self._around(os.rmdir, "rmdir"),
            ),
            mock.patch.object(builtins, "open", opened),
            mock.patch.object(io, "open", opened),
        ):
            yield self

    def _counts(self, path: object) -> bool:
        return str(path).startswith(self.below)

    def _around(
        self, real: Callable[..., Any], name: str, after: Callable[..., None] | None = None
    ) -> Callable[..., Any]:
        def operation(first: Any, *rest: Any, **options: Any) -> Any:
            path = self._handles.get(first, "") if isinstance(first, int) else os.fspath(first)
            if self._counts(path) or "dir_fd" in options:
                self._step(name, path)
            result = real(first, *rest, **options)
            if after is not None:
                after(path, *rest)
            return result

        return operation

    def _step(self, name: str, path: object) -> None:
        if self._dead:
            raise PowerCut
        number = self.operations
        self.operations += 1
        self.log.append(f"{name} {str(path).removeprefix(self.below)}")
        if number == self._cut_at:
            self._dead = True
            self._lose()
            raise PowerCut
        if number in self._fail:
            code = self._fail[number]
            raise OSError(code, os.strerror(code), str(path))

    def _synced(self, path: str) -> None:
        self._unsynced.pop(path, None)

    def _renamed(self, source: object, target: object) -> None:
        if str(source) in self._unsynced:
            del self._unsynced[str(source)]
            self._unsynced[os.fspath(target)] = None  # type: ignore[call-overload]

    def _lose(self) -> None:
        if self._on_cut is not None:
            self._on_cut()
        if not self._tear:
            return
        for number, path in enumerate(map(Path, self._unsynced)):
            if path.is_file():
                # By turns empty, half, and as long but of zeros.
                size = path.stat().st_size
                os.truncate(path, (0, size // 2, 0)[number % 3])
                if number % 3 == 2:
                    os.truncate(path, size)


class UpdateEngine:
    """One device's updating; every call returns when there is nothing left to do."""

    def __init__(self, folder: Path, fleet: SignedFleet, *, hardware: Hardware = HARDWARE) -> None:
        self.folder = folder
        self.trial: Callable[..., TrialOutcome] = lambda *_args, **_options: TrialOutcome(
            passed=True
        )
        self.fleet = fleet
        self.messages: list[object] = []
        self.now = 0.0
        self.events: list[str] = []
        key = folder / "storage.key"
        # A folder with a key is encrypted.
        vault = Vault(
            folder,
            Encryption(key=KeySource("file", str(key)), enabled=True) if key.exists() else None,
        )
        self.slots = SlotStore(folder / "slots", vault)
        chunks = ChunkStore(folder / "chunks", vault)
        jobs: Any = SameThread()
        self.updates = Updates(
            journal_file=folder / "journal.json",
            slots=self.slots,
            chunks=chunks,
            hardware=hardware,
            inference_threads=1,
            jobs=jobs,
            wall_clock=lambda: 1.8e9,
            publish=lambda event: self.events.append(f"{event.kind} {event.detail}"),
            post=self.messages.append,
            device="d1",
        )
        self.updates.proofs._jobs.close(seconds=5)
        self.updates.proofs._jobs = jobs
        self.updates.downloads = Downloads(
            fetcher=Fetcher(
                chunks=chunks, slots=self.slots, hardware=hardware, store_bytes=64 << 20
            ),
            chunks=chunks,
            transport=AllThere(self),  # type: ignore[arg-type]
            jobs=jobs,
            limits=Limits(chunk_refusals=3),
            post=self.messages.append,
            refuse=lambda _target, reason: self.events.append(reason),
            wait=lambda _target, reason: self.events.append(reason),
        )

    def begin(self) -> None:
        """Begin as the supervisor does, and stop there."""
        self.updates.load()
        with mock.patch("edgekit_agent.proofs.run_trial", self.trial):
            self.updates.start(self.now)

    def start(self) -> None:
        """Begin as the supervisor does, and go on to the end."""
        self.begin()
        self.run()

    def order(self, version: str, *, order_version: int) -> None:
        """Follow an order, and go on to the end."""
        self.updates.follow(
            VerifiedOrder(
                order_version=order_version,
                targets=(self.target(version, order_version=order_version),),
            ),
            self.now,
        )
        self.run()

    def target(self, version: str, *, order_version: int) -> Target:
        order = BundleOrder(bundle="m", version=version)
        released = self.fleet.released[order.target_path]
        return Target(
            order=order,
            digest=released.hashes["sha256"],
            length=released.length,
            pieces=tuple(parse_index_pieces("p", released.custom, length=released.length)),
            order_version=order_version,
        )

    def run(self) -> None:
        with mock.patch("edgekit_agent.proofs.run_trial", self.trial):
            for _ in range(400):
                self.now += 1.0
                while self.messages:
                    self._handle(self.messages.pop(0))
                models = self.updates.models(self.now)
                self.updates.on_opened(models, self.now)
                self.updates.judge(lambda _digest: LiveStats(), self.now)
                self.updates.tick(connected=True, now=self.now)
                if not self.messages and not self.updates.under_way:
                    return
        raise AssertionError(f"it does not come to an end: {self.updates.records}")

    def serves(self) -> str:
        """The version that a server would hold now, whose files are proven whole; or nothing."""
        for plan in self.updates.models(self.now):
            record = self.updates.records[plan.bundle]
            slot = record.serving
            assert slot is not None
            assert self.slots.check(plan.bundle, slot) == ""
            return plan.version
        return ""

    def _handle(self, message: object) -> None:
        match message:
            case FetchDone():
                event = self.updates.downloads.handle(message, self.now)
                if event is not None:
                    self.updates.apply(message.target.bundle, event, self.now)
            case ChunkCame():
                for bundle, unusable in self.updates.downloads.on_chunk(message, self.now):
                    self.updates.apply(bundle, unusable, self.now)
            case TrialDone():
                self.updates.proofs.on_done(message, self.now)


class SameThread:
    """Runs jobs at once; one that fails harms nobody, as on a thread."""

    def submit(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception:  # noqa: BLE001 - as JobThread does
            return

    def close(self, *, seconds: float) -> None:
        del seconds


class AllThere:
    """A transport that has every chunk at once."""

    def __init__(self, engine: UpdateEngine) -> None:
        self._engine = engine

    def want(self, names: Iterable[str]) -> None:
        for name in names:
            self._engine.messages.append(
                ChunkCame(sha256=name, data=self._engine.fleet.chunks[name])
            )

    def retry(self, names: Iterable[str]) -> None:
        self.want(names)

    def received(self, name: str) -> None:
        del name


FULL, BROKEN, READ_ONLY = errno.ENOSPC, errno.EIO, errno.EROFS
