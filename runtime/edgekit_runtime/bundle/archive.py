"""The `.ekb` file: a zip, stored not compressed, `manifest.json` first."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from edgekit_runtime.bundle.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    is_safe_path,
    parse_manifest,
)
from edgekit_runtime.durable import replacing
from edgekit_runtime.errors import InvalidBundleError, VerificationError
from edgekit_runtime.files import require_file
from edgekit_runtime.limits import MAX_BUNDLE_FILES, MAX_FILE_BYTES, MAX_MANIFEST_BYTES

SUFFIX: Final = ".ekb"
# A fixed time and mode make the same content the same bytes: a bundle's hash is reproducible.
_ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_ORDINARY_FILE_MODE: Final = 0o100644 << 16
_REGULAR_FILE: Final = 0o100000
_FILE_TYPE_MASK: Final = 0o170000


def entry_of(data: bytes) -> FileEntry:
    """The manifest's entry for a file of that content."""
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write a bundle; the same content gives the same bytes.

    Args:
        path: Where to, by convention ending in `.ekb`.
        manifest: Its `files` must describe exactly `files`.
        files: The content of each, by its path in the bundle.

    Raises:
        InvalidBundleError: If manifest and files do not agree, or the manifest is invalid.
        EnvironmentLackError: If the place cannot be written.
    """
    document = manifest.to_json()
    parse_manifest(document, where=str(path))
    described = {name: entry_of(data) for name, data in files.items()}
    if described != manifest.files:
        differing = sorted(
            name
            for name in described.keys() | manifest.files.keys()
            if described.get(name) != manifest.files.get(name)
        )
        raise InvalidBundleError(
            f"the manifest does not describe these files: {', '.join(differing)}", where=str(path)
        )
    with (
        replacing(path) as target,
        zipfile.ZipFile(target, "w", compression=zipfile.ZIP_STORED) as archive,
    ):
        for name, data in [(MANIFEST_NAME, document), *sorted(files.items())]:
            info = zipfile.ZipInfo(name, date_time=_ZIP_EPOCH)
            info.external_attr = _ORDINARY_FILE_MODE
            archive.writestr(info, data)


class BundleArchive:
    """A bundle opened for reading; its members are checked against the manifest when read.

    Use it in a `with` statement.
    """

    def __init__(self, path: Path) -> None:
        """Open a bundle and read its manifest.

        Raises:
            UsageError: If the file is missing, a folder, empty or unreadable.
            InvalidBundleError: If it is no bundle, or holds what a bundle must not.
        """
        require_file(path, kind="a bundle (.ekb)")
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InvalidBundleError(
                f"this is no bundle: {error}",
                where=str(path),
                fix="make one with `edgekit bundle create`",
            ) from error
        try:
            self._check_members()
            self.manifest_bytes = self._read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
            self.manifest = parse_manifest(self.manifest_bytes, where=str(path))
            self._check_listed()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> BundleArchive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._zip.close()

    def read(self, name: str) -> bytes:
        """The content of a file, proven by the manifest's hash.

        Raises:
            VerificationError: If the content is not what the manifest says.
        """
        if name == MANIFEST_NAME:
            return self.manifest_bytes
        entry = self.manifest.files.get(name)
        if entry is None:
            raise InvalidBundleError(f"the bundle has no file {name!r}", where=str(self.path))
        data = self._read(name, entry.size_bytes)
        if entry_of(data) != entry:
            raise VerificationError(
                "the content does not match the hash in the manifest",
                where=f"{self.path}: {name}",
                fix="copy or make the bundle again",
            )
        return data

    def extract(self, folder: Path) -> None:
        """Write every file, verified, below an existing folder."""
        (folder / MANIFEST_NAME).write_bytes(self.manifest_bytes)
        for name in self.manifest.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.read(name))

    def _check_members(self) -> None:
        members = self._zip.infolist()
        if not members or members[0].filename != MANIFEST_NAME:
            raise InvalidBundleError(
                f"{MANIFEST_NAME} is not the first file in it", where=str(self.path)
            )
        faults = []
        if len(members) > MAX_BUNDLE_FILES + 1:
            faults.append(f"it holds more than {MAX_BUNDLE_FILES} files")
        if len({member.filename for member in members}) != len(members):
            faults.append("it holds a name twice")
        for member in members[: MAX_BUNDLE_FILES + 1]:
            mode = member.external_attr >> 16 & _FILE_TYPE_MASK
            if not is_safe_path(member.filename):
                faults.append(f"{member.filename!r} is not a safe relative path")
            elif member.compress_type != zipfile.ZIP_STORED:
                faults.append(f"{member.filename} is compressed")
            elif mode not in (0, _REGULAR_FILE):
                faults.append(f"{member.filename} is not an ordinary file")
            elif member.file_size > MAX_FILE_BYTES:
                faults.append(f"{member.filename} is larger than {MAX_FILE_BYTES} bytes")
        if faults:
            raise InvalidBundleError("; ".join(faults), where=str(self.path))

    def _check_listed(self) -> None:
        held = {member.filename for member in self._zip.infolist()} - {MANIFEST_NAME}
        listed = set(self.manifest.files)
        faults = [f"{name} is listed and missing" for name in sorted(listed - held)]
        faults += [f"{name} is there and not listed" for name in sorted(held - listed)]
        if faults:
            raise InvalidBundleError("; ".join(faults), where=str(self.path))

    def _read(self, name: str, limit: int) -> bytes:
        try:
            with self._zip.open(name) as member:
                data = member.read(limit + 1)
        except (zipfile.BadZipFile, KeyError, OSError, EOFError, ValueError) as error:
            raise InvalidBundleError(
                f"cannot read {name}: {error}", where=str(self.path), fix="copy the bundle again"
            ) from error
        if len(data) > limit:
            raise InvalidBundleError(f"{name} is larger than it may be", where=str(self.path))
        return data
