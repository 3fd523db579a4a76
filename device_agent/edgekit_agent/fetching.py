"""What is still missing of a target, and putting it together when nothing is.

The order of things: the pieces of the index, the manifest, then the files of one variant. Each
step needs what the one before it brought.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterator
from typing import Final

from edgekit_agent.chunks import ChunkLostError, ChunkStore
from edgekit_agent.hardware import Hardware, choose_variant
from edgekit_agent.needs import Missing, Ready
from edgekit_agent.slots import SlotStore
from edgekit_agent.sources import InstalledFiles, Recipe, ReuseFailedError, find_recipe
from edgekit_agent.state import Slot, Target
from edgekit_runtime.bundle.index import BundleIndex, IndexedFile, parse_index
from edgekit_runtime.bundle.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    Variant,
    parse_manifest,
)
from edgekit_runtime.errors import EnvironmentLackError, InvalidBundleError, VerificationError
from edgekit_runtime.limits import MAX_MANIFEST_BYTES

# A slot is written beside the chunks that it is made of, and something must stay free.
_SPARE_DISK_BYTES: Final = 8 << 20


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

    def plan(
        self, target: Target, failed: Collection[str], *, reuse: bool = True
    ) -> Missing | Ready:
        """Say what to get next, or that nothing is missing.

        Args:
            target: What to install.
            failed: Ids of its variants that failed their proof on this device.
            reuse: Whether installed files may help.

        Raises:
            VerificationError: If the index or the manifest is not what was signed.
            InvalidBundleError: If one of them breaks its format.
            UnsupportedModelError: If no variant fits.
            EnvironmentLackError: If it is larger than the disk or the limits allow.
        """
        while True:
            try:
                return self._installed(target, failed) or self._look(target, failed, reuse=reuse)
            except ChunkLostError:
                # It has been deleted; the next look finds it missing.
                continue

    def install(
        self, target: Target, failed: Collection[str], *, reuse: bool = True
    ) -> Missing | Ready:
        """Install, durably, what `plan` calls ready.

        Returns:
            The variant installed; or what has to be fetched first.

        Raises:
            EdgekitError: As `plan`; also if a file is not what was signed, or the disk is full
                or cannot be written.
        """
        plan = self.plan(target, failed, reuse=reuse)
        if isinstance(plan, Missing) or self._installed(target, failed):
            return plan
        data = self._index_bytes(target)
        index = self._parse_index(target, data)
        manifest = self._manifest(target, index)
        variant = manifest.variant(plan.variant)
        try:
            files = self._files(index, manifest, variant, reuse=reuse)
            self._slots.install(target, variant.id, files, index=data)
        except ChunkLostError:
            return self.plan(target, failed, reuse=reuse)
        except ReuseFailedError:
            return self.plan(target, failed, reuse=False)
        return plan

    def _look(self, target: Target, failed: Collection[str], *, reuse: bool) -> Missing | Ready:
        pieces = {
            digest: size for digest, size in target.pieces if not self._chunks.has(digest, size)
        }
        if pieces:
            return Missing(chunks=pieces, reuse=reuse)
        index = self._parse_index(target, self._index_bytes(target))
        missing = dict(self._recipe(index.file(MANIFEST_NAME), None).missing)
        if missing:
            return Missing(chunks=missing, reuse=reuse)
        manifest = self._manifest(target, index)
        variant = choose_variant(manifest, self._hardware, failed=failed)
        installed = InstalledFiles(slots=self._slots) if reuse else None
        unpacked = 0
        for path in manifest.files_for(variant):
            entry = index.file(path)
            if installed is None or installed.file(entry.sha256) is None:
                missing |= self._recipe(entry, installed).missing
            unpacked += entry.size_bytes
        if not missing:
            return Ready(variant=variant.id)
        self._check_room(target, wire=sum(missing.values()), unpacked=unpacked)
        return Missing(chunks=missing, reuse=reuse)

    def _index_bytes(self, target: Target) -> bytes:
        data = b"".join(self._chunks.read(digest) for digest, _ in target.pieces)
        if len(data) != target.length or hashlib.sha256(data).hexdigest() != target.digest:
            raise VerificationError(
                "the index does not match its signed hash", where=target.order.target_path
            )
        return data

    def _parse_index(self, target: Target, data: bytes) -> BundleIndex:
        where = target.order.target_path
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
        content = self._recipe(listing, None).assemble(self._chunks)
        manifest = parse_manifest(b"".join(content), where=where)
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
        self, index: BundleIndex, manifest: Manifest, variant: Variant, *, reuse: bool
    ) -> Iterator[tuple[str, FileEntry, Iterator[bytes]]]:
        installed = InstalledFiles(slots=self._slots) if reuse else None
        for path in (MANIFEST_NAME, *dict.fromkeys(manifest.files_for(variant))):
            listing = index.file(path)
            entry = FileEntry(sha256=listing.sha256, size_bytes=listing.size_bytes)
            held = installed.file(entry.sha256) if installed else None
            recipe = self._recipe(listing, installed)
            pieces = self._slots.vault.pieces(held) if held else recipe.assemble(self._chunks)
            yield path, entry, pieces

    def _recipe(self, listing: IndexedFile, installed: InstalledFiles | None) -> Recipe:
        return find_recipe(listing, chunks=self._chunks, installed=installed)

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
