"""What simulated devices really fetch: the signed index of a version, and the chunks it lists."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from edgekit_agent.state import Target
from edgekit_runtime.bundle.index import parse_index
from edgekit_runtime.errors import UsageError, VerificationError

# All devices fetch everything where that is no more than this; a laptop bears it.
USUAL_BYTES: Final = 256 << 20
# Subscriptions at a time, as the agent has.
WINDOW: Final = 8


class Fetches(Enum):
    """What a device fetches of a version that it is told to install."""

    NOTHING = auto()
    INDEX = auto()
    EVERYTHING = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPlan:
    """Which devices fetch what; the others take the time that it would take.

    Attributes:
        everything: Share of the devices that fetch every chunk of a version.
        index: Whether the others fetch its index.
    """

    everything: float = 0.0
    index: bool = False

    def of(self, number: int) -> Fetches:
        """What the device of a number fetches: those that fetch everything lie evenly spread."""
        if math.floor((number + 1) * self.everything) > math.floor(number * self.everything):
            return Fetches.EVERYTHING
        return Fetches.INDEX if self.index else Fetches.NOTHING


ALL: Final = FetchPlan(everything=1.0)
INDEX: Final = FetchPlan(index=True)


def parse_fetch(text: str) -> FetchPlan:
    """Read `all`, `index`, or the share of devices that fetch everything: 0.1 or 10%.

    Raises:
        UsageError: If it is none of these.
    """
    if text in ("all", "index"):
        return ALL if text == "all" else INDEX
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = math.nan
    if not 0.0 <= share <= 1.0:
        raise UsageError(
            f"{text!r} does not say what to fetch",
            fix="write all, index, or a share of the devices such as 0.1 or 10%",
        )
    return FetchPlan(everything=share, index=True)


def usual_fetch(devices: int, bundle_bytes: int) -> FetchPlan:
    """Everything where that is little enough, else the index."""
    return ALL if devices * bundle_bytes <= USUAL_BYTES else INDEX


class Shelf:
    """The indexes of versions, each read once for all devices of a crowd."""

    def __init__(self) -> None:
        self._chunks: dict[str, tuple[str, ...]] = {}

    def chunks_of(self, target: Target, index: bytes) -> tuple[str, ...]:
        """The chunks that an index lists.

        Raises:
            VerificationError: If the index is not the one that was signed.
        """
        if hashlib.sha256(index).hexdigest() != target.digest:
            raise VerificationError("an index has another hash", where=target.order.target_path)
        known = self._chunks.get(target.digest)
        if known is None:
            files = parse_index(index, where=target.order.target_path).files
            names = dict.fromkeys(chunk.sha256 for file in files for chunk in file.chunks)
            known = self._chunks[target.digest] = tuple(names)
        return known


class Fetcher:
    """What one device still has to fetch. No I/O.

    Args:
        shelf: Of the crowd.
        fetches: What it fetches.
    """

    __slots__ = ("_asked", "_have", "_pieces", "_shelf", "_target", "_todo", "fetches")

    def __init__(self, shelf: Shelf, fetches: Fetches) -> None:
        self.fetches = fetches
        self._shelf = shelf
        self._target: Target | None = None
        self._pieces: dict[str, bytes] = {}
        self._todo: deque[str] = deque()
        self._asked: set[str] = set()
        self._have: set[str] = set()

    @property
    def asked(self) -> tuple[str, ...]:
        """The chunks that were asked for and have not come."""
        return tuple(self._asked)

    def begin(self, target: Target) -> None:
        """Fetch a version in place of the one that was being fetched."""
        self._target = target
        self._pieces = {digest: b"" for digest, _ in target.pieces}
        self._todo = deque(self._pieces)

    def ask(self) -> list[str]:
        """The chunks to ask for now: as many as the window leaves room for."""
        new = []
        while self._todo and len(self._asked) < WINDOW:
            name = self._todo.popleft()
            if name not in self._asked:
                self._asked.add(name)
                new.append(name)
        return new

    def take(self, name: str, data: bytes) -> Target | None:
        """Take a chunk in that was asked for; the version that is complete with it, if one is.

        Raises:
            VerificationError: If it has another hash.
        """
        if hashlib.sha256(data).hexdigest() != name:
            raise VerificationError("a chunk has another hash", where=name)
        self._asked.discard(name)
        target = self._target
        if target is None:
            return None
        if name in self._pieces:
            self._pieces[name] = data
            if not all(self._pieces.values()):
                return None
            index = b"".join(self._pieces[digest] for digest, _ in target.pieces)
            self._pieces = {}
            chunks = self._shelf.chunks_of(target, index)
            if self.fetches is Fetches.EVERYTHING:
                self._todo.extend(self._missing(chunks))
        else:
            # The name of a chunk says all about it: a version may share it with the next.
            self._have.add(name)
        if self._todo or self._asked or self._pieces:
            return None
        self._target = None
        return target

    def _missing(self, chunks: Iterable[str]) -> list[str]:
        return [name for name in chunks if name not in self._have]
