"""What is still missing of a target, and putting it together when nothing is.

The order of things: the pieces of the index, the manifest, then the files of one variant. Each
step needs what the one before it brought.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit_agent.chunks import ChunkLostError, ChunkStore
from edgekit_agent.hardware import Hardware, choose_variant
from edgekit_agent.slots import SlotStore
from edgekit_agent.state import Slot, Target
from edgekit_runtime.bundle.index import BundleIndex, Chunk, IndexedFile, assemble, parse_index
from edgekit_runtime.bundle.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    Variant,
    parse_manifest,
)
from edgekit_runtime.errors import EnvironmentLackError, InvalidBundleError, VerificationError
from edgekit_runtime.limits import MAX_MANIFEST_BYTES

_READ_BYTES: Final = 1 << 20
# A slot is written beside the chunks that it is made of, and something must stay free.
_SPARE_DISK_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Chunks to get before anything else can be done: SHA-256 to length on the wire."""

    chunks: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Everything of a variant is here."""

    variant: str


class Fetcher:
    """Looks at stores and hardware to say what a target lacks, and installs it."""

    def __init__(
        self, *, chunks: ChunkStore, slots: SlotStore, hardware: Hardware, store_bytes: int
    ) -> None:
        """Work between these stores.

        Args:
            chunks: Where fetched chunks are.
            slots: Where bundles are installed.
            hardware: Decides the variant.
            store_bytes: The most that the chunks of one update may take.
        """
        self._chunks = chunks
        self._slots = slots
        self._hardware = hardware
        self._store_bytes = store_bytes

    def plan(self, target: Target, failed: Collection[str]) -> Missing | Ready:
        """Say what to get next, or that nothing is missing.

        Args:
            target: What to install.
            failed: Ids of its variants that failed their proof on this device.

        Raises:
            VerificationError: If the index or the manifest is not what was signed.
            InvalidBundleError: If one of them breaks its format.
            UnsupportedModelError: If no variant fits.
            EnvironmentLackError: If it is larger than the disk or the limits allow.
        """
        while True:
            try:
                return self._installed(target, failed) or self._look(target, failed)
            except ChunkLostError:
                # It has been deleted; the next look finds it missing.
                continue

    def _look(self, target: Target, failed: Collection[str]) -> Missing | Ready:
        pieces = {
            digest: size for digest, size in target.pieces if not self._chunks.has(digest, size)
        }
        if pieces:
            return Missing(chunks=pieces)
        index = self._index(target)
        listing = index.file(MANIFEST_NAME)
        missing = self._lacking(listing)
        if missing:
            return Missing(chunks=missing)
        manifest = self._manifest(target, index)
        variant = choose_variant(manifest, self._hardware, failed=failed)
        unpacked = 0
        for path in manifest.files_for(variant):
            entry = manifest.files[path]
            if self._slots.find(target.bundle, entry) is None:
                missing |= self._lacking(index.file(path))
            unpacked += entry.size_bytes
        if not missing:
            return Ready(variant=variant.id)
        self._check_room(target, wire=sum(missing.values()), unpacked=unpacked)
        return Missing(chunks=missing)

    def install(self, target: Target, failed: Collection[str]) -> Ready | Missing:
        """Install what `plan` called ready, durably.

        Returns:
            The variant installed; or what has to be fetched again, where the disk had lost it.

        Raises:
            VerificationError: If a file is not what was signed.
            EnvironmentLackError: If the disk is full or cannot be written.
        """
        plan = self.plan(target, failed)
        if isinstance(plan, Missing) or self._installed(target, failed):
            return plan
        index = self._index(target)
        manifest = self._manifest(target, index)
        variant = manifest.variant(plan.variant)
        try:
            self._slots.install(target, variant.id, self._files(target, index, manifest, variant))
        except ChunkLostError:
            return self.plan(target, failed)
        return plan

    def _index(self, target: Target) -> BundleIndex:
        data = b"".join(self._chunks.read(digest) for digest, _ in target.pieces)
        where = target.order.target_path
        if len(data) != target.length or hashlib.sha256(data).hexdigest() != target.digest:
            raise VerificationError("the index does not match its signed hash", where=where)
        index = parse_index(data, where=where)
        if (index.name, index.version) != (target.bundle, target.version):
            raise InvalidBundleError(
                f"it is the index of {index.name} {index.version}", where=where
            )
        return index

    def _manifest(self, target: Target, index: BundleIndex) -> Manifest:
        listing = index.file(MANIFEST_NAME)
        where = f"{target.bundle} {target.version}"
        if listing.size_bytes > MAX_MANIFEST_BYTES:
            raise InvalidBundleError("the manifest is too large", where=where)
        manifest = parse_manifest(b"".join(assemble(listing, self._read)), where=where)
        faults = []
        if (manifest.name, manifest.version) != (target.bundle, target.version):
            faults.append(f"it is the manifest of {manifest.name} {manifest.version}")
        indexed = {
            entry.path: FileEntry(sha256=entry.sha256, size_bytes=entry.size_bytes)
            for entry in index.files
            if entry.path != MANIFEST_NAME
        }
        if indexed != manifest.files:
            faults.append("index and manifest list different files")
        if faults:
            raise InvalidBundleError("; ".join(faults), where=where)
        return manifest

    def _files(
        self, target: Target, index: BundleIndex, manifest: Manifest, variant: Variant
    ) -> Iterator[tuple[str, FileEntry, Iterator[bytes]]]:
        for path in (MANIFEST_NAME, *dict.fromkeys(manifest.files_for(variant))):
            listing = index.file(path)
            entry = FileEntry(sha256=listing.sha256, size_bytes=listing.size_bytes)
            held = self._slots.find(target.bundle, entry)
            yield path, entry, _pieces_of(held) if held else assemble(listing, self._read)

    def _read(self, chunk: Chunk) -> bytes:
        return self._chunks.read(chunk.sha256)

    def _lacking(self, listing: IndexedFile) -> dict[str, int]:
        return {
            chunk.sha256: chunk.wire_bytes
            for chunk in listing.chunks
            if not self._chunks.has(chunk.sha256, chunk.wire_bytes)
        }

    def _installed(self, target: Target, failed: Collection[str]) -> Ready | None:
        """The variant that a whole slot of this target holds already, unless it has failed."""
        content = self._slots.content(target.bundle, target.digest)
        if content is None or content.variant in failed:
            return None
        slot = Slot(target=target, variant=content.variant)
        return None if self._slots.check(target.bundle, slot) else Ready(variant=slot.variant)

    def _check_room(self, target: Target, *, wire: int, unpacked: int) -> None:
        where = f"{target.bundle} {target.version}"
        if wire > self._store_bytes:
            raise EnvironmentLackError(
                f"its {wire >> 10} KiB of chunks exceed the limit of {self._store_bytes >> 10} KiB",
                where=where,
                fix="raise limits.chunk_store_bytes in agent.toml",
            )
        free = shutil.disk_usage(self._slots.path(target.bundle, target.digest).parents[1]).free
        needed = wire + unpacked + _SPARE_DISK_BYTES
        if free < needed:
            raise EnvironmentLackError(
                f"the disk is too full: {free >> 10} KiB are free, and "
                f"{needed >> 10} KiB are needed",
                where=where,
                fix="make room, then order it again",
            )


def _pieces_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            yield piece
