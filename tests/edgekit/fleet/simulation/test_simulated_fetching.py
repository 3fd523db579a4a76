from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from edgekit.fleet.simulation.fetching import (
    ALL,
    INDEX,
    WINDOW,
    Fetcher,
    Fetches,
    FetchPlan,
    Shelf,
    parse_fetch,
    usual_fetch,
)
from edgekit_agent.state import Target
from edgekit_runtime.bundle.index import BundleIndex, Chunk, IndexedFile
from edgekit_runtime.bundle.packing import Compression
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.orders import BundleOrder


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Version:
    """A version whose index travels in two pieces and lists some chunks."""

    def __init__(self, number: str, contents: list[bytes]) -> None:
        self.store = {digest(data): data for data in contents}
        file = IndexedFile(
            path="manifest.json",
            sha256=digest(b"".join(contents)),
            size_bytes=sum(map(len, contents)),
            chunks=tuple(
                Chunk(
                    sha256=digest(data),
                    wire_bytes=len(data),
                    size_bytes=len(data),
                    compression=Compression.NONE,
                )
                for data in contents
            ),
        )
        index = BundleIndex(name="digits", version=number, files=(file,)).to_json()
        pieces = (index[:100], index[100:])
        self.store |= {digest(piece): piece for piece in pieces}
        self.target = Target(
            order=BundleOrder(bundle="digits", version=number),
            digest=digest(index),
            length=len(index),
            pieces=tuple((digest(piece), len(piece)) for piece in pieces),
            order_version=1,
        )


def contents(seed: int, count: int = 30) -> list[bytes]:
    return [f"{seed}/{number}".encode() * 9 for number in range(count)]


def fetch_all(fetcher: Fetcher, version: Version) -> int:
    """Answer as a broker does, the last asked first; how many chunks it took."""
    fetcher.begin(version.target)
    fetcher.ask()
    taken = 0
    while fetcher.asked:
        assert len(fetcher.asked) <= WINDOW
        name = fetcher.asked[-1]
        complete = fetcher.take(name, version.store[name])
        taken += 1
        fetcher.ask()
        assert (complete is version.target) is not bool(fetcher.asked)
    return taken


def test_everything_is_fetched_once_through_a_window() -> None:
    shelf = Shelf()
    first, second = Version("1.0.0", contents(1)), Version("2.0.0", contents(1)[:25] + contents(2))
    fetcher = Fetcher(shelf, Fetches.EVERYTHING)
    assert fetch_all(fetcher, first) == 2 + 30
    # What both versions have is there already.
    assert fetch_all(fetcher, second) == 2 + 30
    assert fetch_all(Fetcher(shelf, Fetches.EVERYTHING), second) == 2 + 55
    assert fetch_all(Fetcher(shelf, Fetches.INDEX), second) == 2


def test_a_lie_is_not_taken() -> None:
    version = Version("1.0.0", contents(1))
    fetcher = Fetcher(Shelf(), Fetches.EVERYTHING)
    fetcher.begin(version.target)
    (name, other) = fetcher.ask()
    with pytest.raises(VerificationError, match="another hash"):
        fetcher.take(name, b"anything")
    assert set(fetcher.asked) == {name, other}
    fetcher.begin(replace(version.target, digest="0" * 64))
    fetcher.take(name, version.store[name])
    with pytest.raises(VerificationError, match="index has another hash"):
        fetcher.take(other, version.store[other])


def test_what_is_fetched_can_be_said() -> None:
    assert parse_fetch("all") == ALL
    assert parse_fetch("index") == INDEX
    assert parse_fetch("10%") == parse_fetch("0.1") == FetchPlan(everything=0.1, index=True)
    for text in ("", "some", "1.5", "-0.1", "nan", "120%"):
        with pytest.raises(UsageError, match="does not say what to fetch"):
            parse_fetch(text)
    assert usual_fetch(100, 1 << 20) == ALL
    assert usual_fetch(10_000, 5 << 20) == INDEX
    shares = [parse_fetch("0.1").of(number) for number in range(1_000)]
    assert shares.count(Fetches.EVERYTHING) == 100
    assert {ALL.of(n) for n in range(50)} == {Fetches.EVERYTHING}
    assert {FetchPlan().of(n) for n in range(50)} == {Fetches.NOTHING}
