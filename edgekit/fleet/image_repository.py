"""The image repository: everything that may ever be installed on a device of this fleet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta

from securesystemslib.signer import Signer
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp

from edgekit.fleet.clock import Clock
from edgekit.fleet.folder import Fleet
from edgekit.fleet.signed_folder import SignedFolder
from edgekit.fleet.storage.setting import open_chunks
from edgekit_runtime.bundle.index import BundleIndex, IndexedFile, assemble, parse_index
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES
from edgekit_runtime.orders import index_pieces_custom, parse_index_pieces


class ImageRepository(SignedFolder):
    """A target is a bundle index; its pieces and the bundle's chunks are in the chunk store.

    Args:
        fleet: Whose repository it is.
        sign_with: Gives the signers of a role; asked only when something is signed.
        clock: The time of signing.
    """

    def __init__(
        self, fleet: Fleet, *, sign_with: Callable[[str], Sequence[Signer]], clock: Clock
    ) -> None:
        super().__init__(
            folder=fleet.image_metadata,
            root_folder=fleet.image_metadata,
            sign_with=sign_with,
            lifetimes={
                Root.type: timedelta(days=fleet.expiries.root),
                Targets.type: timedelta(days=fleet.expiries.targets),
                Snapshot.type: timedelta(days=fleet.expiries.snapshot),
                Timestamp.type: timedelta(days=fleet.expiries.timestamp),
            },
            clock=clock,
        )
        self.chunks = open_chunks(fleet)

    def add(self, path: str, index: bytes) -> None:
        """Sign a bundle index as a target; `commit` publishes it.

        The bundle's own chunks must be in the store already.
        """
        target = TargetFile.from_data(path, index, hash_algorithms=["sha256"])
        target.unrecognized_fields["custom"] = index_pieces_custom(self.store_index(index))
        with self.edit_targets() as targets:
            targets.targets[path] = target

    def store_index(self, index: bytes) -> list[tuple[str, int]]:
        """Put an index into the store, in pieces that fit a message: SHA-256 and length of each."""
        pieces = []
        for start in range(0, len(index), MAX_CHUNK_WIRE_BYTES):
            piece = index[start : start + MAX_CHUNK_WIRE_BYTES]
            pieces.append((hashlib.sha256(piece).hexdigest(), piece))
        self.chunks.put_all(dict(pieces))
        return [(digest, len(piece)) for digest, piece in pieces]

    def index_of(self, target: TargetFile) -> BundleIndex:
        """The index behind a target, proven by the signed hash.

        Raises:
            VerificationError: If a piece is missing, damaged, or not what was signed.
        """
        data = b"".join(
            data
            for _, data in self.chunks.get_all(
                [
                    digest
                    for digest, _ in parse_index_pieces(
                        target.path, target.custom, length=target.length
                    )
                ]
            )
        )
        if hashlib.sha256(data).hexdigest() != target.hashes.get("sha256"):
            raise VerificationError(
                "the index does not match its signed hash",
                where=target.path,
                fix="take the fleet folder from a backup",
            )
        return parse_index(data, where=target.path)

    def read(self, entry: IndexedFile) -> bytes:
        """The content of a released file, from its chunks.

        Raises:
            VerificationError: If a chunk is missing or damaged.
        """
        return b"".join(assemble(entry, lambda chunk: self.chunks.get(chunk.sha256)))

    def chunk_names(self, paths: Collection[str] | None = None) -> Iterator[str]:
        """Every chunk and delta that the published releases refer to, once: indexes first.

        Args:
            paths: Only of these targets; None for all.
        """
        seen: set[str] = set()
        targets = [
            target
            for path, target in self.published_targets().targets.items()
            if paths is None or path in paths
        ]
        for target in targets:
            pieces = parse_index_pieces(target.path, target.custom, length=target.length)
            yield from _new([digest for digest, _ in pieces], seen)
        for target in targets:
            yield from _new(list(self.index_of(target).wire_sizes()), seen)


def _new(names: list[str], seen: set[str]) -> Iterator[str]:
    for name in names:
        if name not in seen:
            seen.add(name)
            yield name
