"""Updates on their way: which chunks are missing, what was wrong with those that came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from edgekit_agent.chunks import ChunkStore
from edgekit_agent.config import Limits
from edgekit_agent.jobs import JobThread
from edgekit_agent.machine import Installed, Unusable
from edgekit_agent.needs import Installer, Missing, Ready
from edgekit_agent.state import Target
from edgekit_agent.transports.arrivals import ChunkCame, Transport
from edgekit_runtime.errors import EdgekitError, EnvironmentLackError, VerificationError
from edgekit_runtime.sealing.keys import StorageLockedError

_FIRST_RETRY_SECONDS: Final = 1.0
_MOST_PATIENCE: Final = 16
# How often it is looked whether the key of what is stored is there again.
_LOCKED_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchDone:
    """A look at what a target lacks has ended, or its installation."""

    target: Target
    failed: tuple[str, ...]
    result: Missing | Ready | EdgekitError


@dataclass(slots=True)
class _Download:
    target: Target
    failed: tuple[str, ...]
    since: float
    missing: dict[str, int] = field(default_factory=dict)
    reuse: bool = True
    refusals: Counter[str] = field(default_factory=Counter)
    retries: dict[str, float] = field(default_factory=dict)
    patience: int = 1
    waiting: str = ""
    # When to look again for a storage key that is missing; None while it is not missed.
    unlock_due: float | None = None


class Downloads:
    """Gets what candidates lack, one step of their plans after the other."""

    def __init__(
        self,
        *,
        fetcher: Installer,
        chunks: ChunkStore,
        transport: Transport,
        jobs: JobThread,
        limits: Limits,
        post: Callable[[FetchDone], None],
        refuse: Callable[[Target, str], None],
        wait: Callable[[Target, str], None],
    ) -> None:
        """Work with these.

        Args:
            fetcher: Plans and installs.
            chunks: Where chunks are kept.
            transport: Where they come from.
            jobs: Where planning and installing is done.
            limits: Timeouts and how many refusals.
            post: Takes the results of jobs; they come back through `handle`.
            refuse: Told of a chunk that is not what was signed.
            wait: Told of chunks that do not come.
        """
        self._fetcher = fetcher
        self._chunks = chunks
        self._transport = transport
        self._jobs = jobs
        self._limits = limits
        self._post = post
        self._refuse = refuse
        self._wait = wait
        self._downloads: dict[str, _Download] = {}

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._downloads)

    def fetches(self, bundle: str) -> bool:
        """Whether a bundle's update is on its way."""
        return bundle in self._downloads

    def waiting(self, bundle: str) -> str:
        """What a bundle's update is waiting for; empty for nothing."""
        download = self._downloads.get(bundle)
        return download.waiting if download else ""

    def begin(self, target: Target, failed: tuple[str, ...], now: float) -> None:
        """Get a target, instead of any other of the same bundle.

        Args:
            target: What to get.
            failed: Ids of its variants that failed their proof.
            now: Seconds on a clock that never goes back.
        """
        self._downloads[target.bundle] = _Download(target=target, failed=failed, since=now)
        self._submit(target, failed, reuse=True)

    def cancel(self, bundle: str) -> None:
        """Do not get it any more."""
        if self._downloads.pop(bundle, None):
            self._ask()

    def handle(self, message: FetchDone, now: float) -> Installed | Unusable | None:
        """Go on after a job; what that means for the bundle, if anything."""
        target = message.target
        download = self._downloads.get(target.bundle)
        if (
            download is None
            or download.target.digest != target.digest
            or download.failed != message.failed
        ):
            return None
        match message.result:
            case Missing(chunks=missing, reuse=reuse):
                download.missing = dict(missing)
                download.reuse = reuse
                download.since = now
                self._ask()
                return None
            case Ready(variant=variant):
                self.cancel(target.bundle)
                return Installed(digest=target.digest, variant=variant)
            case StorageLockedError() as error:
                # Nothing is wrong with the version: it is installed once the key is there.
                self._tell_once(download, str(error))
                download.unlock_due = now + _LOCKED_SECONDS
                return None
            case EdgekitError() as error:
                self.cancel(target.bundle)
                where = f" ({error.where})" if error.where else ""
                return Unusable(digest=target.digest, reason=f"{error.what}{where}")

    def on_chunk(self, message: ChunkCame, now: float) -> list[tuple[str, Unusable]]:
        """Take a chunk in; the bundles, if any, that it makes impossible."""
        hopeless = []
        name = message.sha256
        for bundle, download in list(self._downloads.items()):
            wire_bytes = download.missing.get(name)
            if wire_bytes is None:
                continue
            try:
                self._chunks.accept(name, wire_bytes, message.data)
            except VerificationError as error:
                reason = self._on_refused(download, name, error, now)
                if reason:
                    self.cancel(bundle)
                    hopeless.append(
                        (bundle, Unusable(digest=download.target.digest, reason=reason))
                    )
                continue
            except StorageLockedError as error:
                self._tell_once(download, str(error))
                download.retries[name] = now + _LOCKED_SECONDS
                continue
            except EnvironmentLackError as error:
                self.cancel(bundle)
                hopeless.append(
                    (bundle, Unusable(digest=download.target.digest, reason=str(error)))
                )
                continue
            self._on_accepted(download, name, now)
        return hopeless

    def on_connected(self, now: float) -> None:
        """Give everything that is missing its time again."""
        for download in self._downloads.values():
            download.since = now
            download.patience = 1

    def tick(self, now: float, *, connected: bool) -> None:
        """Ask again for what has not come, or was not right."""
        for download in self._downloads.values():
            if download.unlock_due is not None and download.unlock_due <= now:
                download.unlock_due = None
                self._submit(download.target, download.failed, reuse=download.reuse)
        if not connected:
            return
        for download in self._downloads.values():
            due = [name for name, time in download.retries.items() if time <= now]
            for name in due:
                del download.retries[name]
            timeout = self._limits.chunk_timeout_seconds
            if download.missing and now - download.since > timeout * download.patience:
                self._on_timeout(download, now)
                due = list(download.missing)
            if due:
                self._transport.retry(due)

    def _on_accepted(self, download: _Download, name: str, now: float) -> None:
        del download.missing[name]
        download.retries.pop(name, None)
        download.since = now
        download.patience = 1
        download.waiting = ""
        self._transport.received(name)
        if not download.missing:
            self._submit(download.target, download.failed, reuse=download.reuse)

    def _on_refused(
        self, download: _Download, name: str, error: VerificationError, now: float
    ) -> str:
        """Why the update is hopeless now; empty if the chunk may be asked for again."""
        download.refusals[name] += 1
        count = download.refusals[name]
        text = f"{error.where}: {error.what}"
        self._refuse(download.target, text)
        download.waiting = text
        if count >= self._limits.chunk_refusals:
            return f"{text}; it was refused {count} times"
        download.retries[name] = now + _FIRST_RETRY_SECONDS * 2.0 ** (count - 1)
        return ""

    def _on_timeout(self, download: _Download, now: float) -> None:
        first = next(iter(download.missing))
        others = len(download.missing) - 1
        text = (
            f"chunk {first[:12]}{f' and {others} more' if others else ''} did not come within "
            f"{self._limits.chunk_timeout_seconds:g} s; the broker may not have it"
        )
        self._tell_once(download, text)
        download.since = now
        download.patience = min(2 * download.patience, _MOST_PATIENCE)

    def _tell_once(self, download: _Download, text: str) -> None:
        if not download.waiting:
            self._wait(download.target, text)
        download.waiting = text

    def _ask(self) -> None:
        self._transport.want(
            dict.fromkeys(
                name for download in self._downloads.values() for name in download.missing
            )
        )

    def _submit(self, target: Target, failed: tuple[str, ...], *, reuse: bool) -> None:
        def look() -> None:
            result: Missing | Ready | EdgekitError
            try:
                result = self._fetcher.install(target, failed, reuse=reuse)
            except EdgekitError as error:
                result = error
            self._post(FetchDone(target=target, failed=failed, result=result))

        self._jobs.submit(look)
