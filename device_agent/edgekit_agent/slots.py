"""Installed bundle versions on the disk: `<folder>/<bundle>/<start of the index's SHA-256>/`.

A slot holds the manifest, the files of the chosen variant, golden samples and statistics, and
`slot.json`, written last: a slot without it is not there. `index.json` is the signed index, by
which other versions reuse its chunks. A slot that has passed its gates also holds `proven.json`,
by which the active version is found when the journal is lost.

The files of the bundle are kept as the vault keeps files, encrypted or plain; these three, which
hold names and hashes, are always plain.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit_agent.state import BundleRecord, Slot, Target, read_target
from edgekit_runtime.bundle.manifest import (
    INDEX_FILE,
    MANIFEST_NAME,
    NAME_PATTERN,
    PROVEN_FILE,
    SLOT_FILE,
    FileEntry,
    Manifest,
    is_safe_path,
    parse_manifest,
)
from edgekit_runtime.durable import replacing, sync_folder, unwritable, write_bytes
from edgekit_runtime.errors import EdgekitError, VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.limits import (
    MAX_BUNDLE_FILES,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
)
from edgekit_runtime.reports import Phase
from edgekit_runtime.sealing.keys import StorageLockedError
from edgekit_runtime.sealing.vault import Vault

_NAME_LENGTH: Final = 16
_MAX_SLOT_FILE_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotContent:
    """What `slot.json` says.

    Attributes:
        target: Which version.
        variant: The variant that was installed last.
        files: Everything installed, the manifest among it, by path in the bundle.
    """

    target: Target
    variant: str
    files: dict[str, FileEntry]


class SlotStore:
    """The folder of all slots."""

    def __init__(self, folder: Path, vault: Vault | None = None) -> None:
        """Use `folder`, which is made if it is missing.

        Args:
            folder: Where slots are.
            vault: Of the agent's folder, around it; None for one that keeps files plain.
        """
        self._folder = folder
        self.vault = vault or Vault(folder.parent)
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, bundle: str, digest: str) -> Path:
        """The folder of one slot, whether it exists or not."""
        return self._folder / bundle / digest[:_NAME_LENGTH]

    def content(self, bundle: str, digest: str) -> SlotContent | None:
        """What a slot holds by its own account; None if it is not complete."""
        place = self.path(bundle, digest)
        try:
            content = _read_content(place / SLOT_FILE)
        except (OSError, VerificationError):
            return None
        return content if content.target.digest == digest else None

    def manifest(self, bundle: str, digest: str) -> Manifest:
        """The manifest of an installed version.

        Raises:
            VerificationError: If it cannot be read.
            InvalidBundleError: If it breaks the format.
            StorageLockedError: If it is encrypted, and the key is missing.
        """
        path = self.path(bundle, digest) / MANIFEST_NAME
        try:
            data = self.vault.read(path, most=MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise VerificationError(
                f"the slot's manifest cannot be read: {error.strerror}", where=str(path)
            ) from error
        return parse_manifest(data, where=str(path))

    def check(self, bundle: str, slot: Slot) -> str:
        """What is wrong with an installed version's files; empty if all match their hashes.

        Raises:
            StorageLockedError: If they are encrypted, and the key is missing.
        """
        content = self.content(bundle, slot.digest)
        if content is None:
            return "its slot is incomplete"
        place = self.path(bundle, slot.digest)
        try:
            bad = [
                name
                for name, entry in content.files.items()
                if self.vault.content_bytes(place / name) != entry.size_bytes
                or self.vault.sha256(place / name) != entry.sha256
            ]
            needed = self._needed(bundle, slot)
        except StorageLockedError:
            raise
        except (OSError, EdgekitError) as error:
            return f"its files cannot be read: {error}"
        bad += [name for name in needed if name not in content.files]
        return f"damaged or missing: {', '.join(sorted(bad))}" if bad else ""

    def holdings(self) -> Iterator[tuple[SlotContent, Path]]:
        """Every complete slot of every bundle, and its folder."""
        for folder in sorted(self._folder.iterdir()):
            for content in self._contents(folder.name):
                yield content, self.path(folder.name, content.target.digest)

    def install(
        self,
        target: Target,
        variant: str,
        files: Iterable[tuple[str, FileEntry, Iterator[bytes]]],
        *,
        index: bytes,
    ) -> None:
        """Write a variant's files, durably; `slot.json` last.

        A variant is added to those that the slot holds already.

        Args:
            target: Which version.
            variant: Which of its variants.
            files: Path, expected content, and the content piece by piece, of each file needed.
            index: The signed index.

        Raises:
            VerificationError: If a file is not what was signed.
            EnvironmentLackError: If the disk is full or cannot be written.
            StorageLockedError: If they are to be encrypted, and the key is missing.
        """
        place = self.path(target.bundle, target.digest)
        before = self.content(target.bundle, target.digest)
        held = dict(before.files) if before else {}
        folders = {place}
        try:
            place.mkdir(parents=True, exist_ok=True)
            # Half-written files of an installation that a power cut ended.
            for stray in place.rglob(".*"):
                stray.unlink()
            for name, entry, pieces in files:
                path = place / name
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.add(path.parent)
                self._write_file(path, entry, pieces)
                held[name] = entry
            write_bytes(place / INDEX_FILE, index)
            for folder in (*folders, place.parent, self._folder):
                sync_folder(folder)
        except OSError as error:
            raise unwritable(place, error) from error
        document = {
            "target": target.to_json(),
            "variant": variant,
            "files": {
                name: {"sha256": entry.sha256, "size_bytes": entry.size_bytes}
                for name, entry in held.items()
            },
        }
        write_bytes(place / SLOT_FILE, json.dumps(document, separators=(",", ":")).encode())

    def mark_proven(self, bundle: str, slot: Slot, *, sequence: int) -> None:
        """Note that a version has passed its gates; the highest sequence is the active one."""
        document = {"variant": slot.variant, "sequence": sequence}
        write_bytes(self.path(bundle, slot.digest) / PROVEN_FILE, json.dumps(document).encode())

    def recover(self) -> dict[str, BundleRecord]:
        """Rebuild records from what is on the disk, for when the journal is lost.

        Only versions that have passed their gates count, and only if their files are whole, as far
        as that can be seen.
        """
        records = {}
        for folder in sorted(self._folder.iterdir()) if self._folder.exists() else []:
            bundle = folder.name
            if not folder.is_dir() or not re.fullmatch(NAME_PATTERN, bundle):
                continue
            proven = sorted(self._proven(bundle), key=lambda item: item[0], reverse=True)
            slots = [slot for _, slot in proven if self._looks_whole(bundle, slot)]
            if slots:
                records[bundle] = BundleRecord(
                    bundle=bundle,
                    phase=Phase.ACTIVE,
                    active=slots[0],
                    previous=slots[1] if len(slots) > 1 else None,
                    order_version=slots[0].target.order_version,
                )
        return records

    def keep_only(self, held: dict[str, Collection[str]]) -> None:
        """Delete every slot whose digest is not listed for its bundle."""
        for folder in self._folder.iterdir():
            wanted = {digest[:_NAME_LENGTH] for digest in held.get(folder.name, ())}
            if not wanted:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for place in folder.iterdir():
                if place.name not in wanted:
                    shutil.rmtree(place, ignore_errors=True)

    def convert(self) -> tuple[int, str]:
        """Write every file anew that is not in the form that is configured now.

        Returns:
            How many were, and what went wrong with the others; empty for nothing.

        Raises:
            StorageLockedError: If the key is missing.
        """
        converted, trouble = 0, ""
        for content, place in self.holdings():
            for name in content.files:
                try:
                    converted += self.vault.convert(place / name)
                except StorageLockedError:
                    raise
                except (OSError, EdgekitError) as error:
                    trouble = f"{place / name}: {error}"
        return converted, trouble

    def _looks_whole(self, bundle: str, slot: Slot) -> bool:
        try:
            return not self.check(bundle, slot)
        except StorageLockedError:
            return True

    def _write_file(self, path: Path, entry: FileEntry, pieces: Iterator[bytes]) -> None:
        digest = hashlib.sha256()
        with replacing(path) as file:
            for stored in self.vault.encode(path, _hashed(pieces, digest)):
                file.write(stored)
            if digest.hexdigest() != entry.sha256:
                raise VerificationError("the file does not match its signed hash", where=path.name)

    def _needed(self, bundle: str, slot: Slot) -> tuple[str, ...]:
        manifest = self.manifest(bundle, slot.digest)
        return (MANIFEST_NAME, *manifest.files_for(manifest.variant(slot.variant)))

    def _contents(self, bundle: str) -> Iterator[SlotContent]:
        folder = self._folder / bundle
        for place in sorted(folder.iterdir()) if folder.is_dir() else []:
            try:
                yield _read_content(place / SLOT_FILE)
            except (OSError, VerificationError):
                continue

    def _proven(self, bundle: str) -> Iterator[tuple[int, Slot]]:
        for content in self._contents(bundle):
            path = self.path(bundle, content.target.digest) / PROVEN_FILE
            try:
                reader = FieldReader(json.loads(path.read_bytes()))
            except (OSError, ValueError, RecursionError):
                continue
            sequence, variant = reader.integer("sequence"), reader.text("variant")
            if not reader.faults and content.target.bundle == bundle:
                yield sequence, Slot(target=content.target, variant=variant)


def _read_content(path: Path) -> SlotContent:
    with path.open("rb") as file:
        data = file.read(_MAX_SLOT_FILE_BYTES)
    try:
        reader = FieldReader(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"the slot's list is no JSON: {error}", where=str(path)) from error
    target = read_target(reader, "target")
    variant = reader.text("variant")
    entries = reader.nested("files")
    files = {}
    for name in entries.names()[: MAX_BUNDLE_FILES + 1]:
        entry = entries.nested(name)
        if not is_safe_path(name):
            entry.fault("", "is not a safe relative path")
        files[name] = FileEntry(
            sha256=entry.text("sha256", pattern=r"[0-9a-f]{64}"),
            size_bytes=entry.integer("size_bytes", most=MAX_FILE_BYTES),
        )
    if reader.faults or target is None:
        raise VerificationError(
            "the slot's list is damaged: " + "; ".join(reader.faults), where=str(path)
        )
    return SlotContent(target=target, variant=variant, files=files)


def _hashed(pieces: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece
