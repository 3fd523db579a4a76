"""Which storage a fleet has, and how everything gets into another one.

`storage.toml` in the fleet's folder names it; without that file everything is in the folder.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edgekit.fleet.chunk_store import ChunkStore
from edgekit.fleet.folder import Fleet
from edgekit.fleet.storage.blobs import Storage
from edgekit.fleet.storage.local import FolderStorage
from edgekit.fleet.storage.remote import RemoteStorage
from edgekit_runtime.durable import sync_folder, write_bytes
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.files import sha256_of

FILE: Final = "storage.toml"
LOCAL: Final = "folder"
_CHUNKS: Final = "chunks"
_BUNDLES: Final = "bundles"
_URL: Final = r"[a-z][a-z0-9+.-]{0,15}://[^\s\"\\\x00-\x1f\x7f]{1,1024}"
_ENDPOINT: Final = r"https?://[^\s\"\\\x00-\x1f\x7f]{1,1024}"
_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSetting:
    """Where a fleet's blobs are.

    Attributes:
        url: Of a bucket and a prefix in it; "" for the fleet's folder.
        endpoint: Of a server with S3's API that is not Amazon's; "" for the protocol's own.
    """

    url: str = ""
    endpoint: str = ""

    def __str__(self) -> str:
        return (self.url or LOCAL) + (f" at {self.endpoint}" if self.endpoint else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a move copied.

    Attributes:
        blobs: How many chunks and bundle files are there now.
        blob_bytes: Their length.
        copied: How many of them had to be copied.
    """

    blobs: int
    blob_bytes: int
    copied: int


def read_storage(fleet: Fleet) -> StorageSetting:
    """Where a fleet's blobs are.

    Raises:
        UsageError: If `storage.toml` is invalid; every field is named.
    """
    path = fleet.path / FILE
    try:
        reader = FieldReader(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return StorageSetting()
    except (OSError, ValueError) as error:
        raise UsageError(f"it cannot be read: {error}", where=str(path)) from error
    for name in sorted(set(reader.names()) - {"url", "endpoint"}):
        reader.fault(name, "is unknown")
    setting = StorageSetting(
        url=reader.text("url", pattern=_URL), endpoint=reader.text("endpoint", default="")
    )
    if reader.faults:
        raise UsageError(
            "the storage's settings are invalid: " + "; ".join(reader.faults),
            where=str(path),
            fix='write url = "s3://bucket/prefix"',
        )
    return _checked(setting, where=str(path))


def open_chunks(fleet: Fleet) -> ChunkStore:
    """The released chunks of a fleet.

    Raises:
        UsageError: If `storage.toml` is invalid.
        EnvironmentLackError: If a package is missing, or the place cannot be reached.
    """
    return ChunkStore(_chunks(fleet, read_storage(fleet)))


def open_bundles(fleet: Fleet) -> Storage:
    """The bundle files of a fleet's registry, by SHA-256; see `open_chunks`."""
    return _bundles(fleet, read_storage(fleet))


def move_storage(
    fleet: Fleet,
    setting: StorageSetting,
    *,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Moved:
    """Copy all blobs to another storage, and have the fleet use it from then on.

    The setting is written last: interrupted anywhere, the fleet goes on with what it has, and the
    move can be done again. Nothing is deleted where it was.

    Args:
        fleet: The fleet.
        setting: Where to; the default is the fleet's folder.
        progress: Told how many blobs are done, of how many.

    Raises:
        UsageError: If the setting is invalid, or no storage that fsspec knows.
        VerificationError: If a blob is damaged where it is, or was not taken as it is.
        EnvironmentLackError: If a package is missing, or one of the two cannot be reached.
    """
    setting = _checked(setting, where="the storage")
    with fleet.locked():
        known = read_storage(fleet)
        chunk_pair = (_chunks(fleet, known), _chunks(fleet, setting))
        bundle_pair = (_bundles(fleet, known), _bundles(fleet, setting))
        chunk_sizes, bundle_sizes = chunk_pair[0].sizes(), bundle_pair[0].sizes()
        total = len(chunk_sizes) + len(bundle_sizes)
        copied = 0
        if setting != known:
            copied = _copy_chunks(*chunk_pair, chunk_sizes, lambda done: progress(done, total))
            for done, name in enumerate(sorted(bundle_sizes), start=len(chunk_sizes) + 1):
                copied += _copy_bundle(*bundle_pair, name)
                progress(done, total)
            _write(fleet, setting)
    sizes = [*chunk_sizes.values(), *bundle_sizes.values()]
    return Moved(blobs=len(sizes), blob_bytes=sum(sizes), copied=copied)


def _chunks(fleet: Fleet, setting: StorageSetting) -> Storage:
    if not setting.url:
        return FolderStorage(fleet.chunks)
    return RemoteStorage(f"{setting.url.rstrip('/')}/{_CHUNKS}", endpoint=setting.endpoint)


def _bundles(fleet: Fleet, setting: StorageSetting) -> Storage:
    if not setting.url:
        return FolderStorage(fleet.path / _BUNDLES)
    return RemoteStorage(f"{setting.url.rstrip('/')}/{_BUNDLES}", endpoint=setting.endpoint)


def _copy_chunks(
    source: Storage, target: Storage, sizes: dict[str, int], progress: Callable[[int], None]
) -> int:
    here, there = ChunkStore(source), ChunkStore(target)
    names = sorted(sizes)
    copied = 0
    for start in range(0, len(names), _AT_ONCE):
        part = names[start : start + _AT_ONCE]
        # Read through the store: what is damaged is not carried on.
        copied += len(there.put_all(dict(here.get_all(part))))
        progress(start + len(part))
    return copied


def _copy_bundle(source: Storage, target: Storage, name: str) -> bool:
    digest = name.partition(".")[0]
    if name in target.sizes():
        with target.opened(name) as file:
            if sha256_of(file) == digest:
                return False
    with source.opened(name) as file:
        if sha256_of(file) != digest:
            raise VerificationError(
                "a bundle file is damaged", where=source.where(name), fix="register it again"
            )
        target.put_file(name, file)
    return True


def _write(fleet: Fleet, setting: StorageSetting) -> None:
    path = fleet.path / FILE
    if not setting.url:
        path.unlink(missing_ok=True)
        sync_folder(fleet.path)
        return
    text = "# Where this fleet's chunks and bundle files are: see `edgekit fleet storage`.\n"
    text += f'url = "{setting.url}"\n'
    if setting.endpoint:
        text += f'endpoint = "{setting.endpoint}"\n'
    write_bytes(path, text.encode())


def _checked(setting: StorageSetting, *, where: str) -> StorageSetting:
    if setting.url and not re.fullmatch(_URL, setting.url):
        raise UsageError(
            f"{setting.url!r} is no storage", where=where, fix="write it as s3://bucket/prefix"
        )
    if setting.endpoint and not (
        setting.url.startswith("s3://") and re.fullmatch(_ENDPOINT, setting.endpoint)
    ):
        raise UsageError(
            f"{setting.endpoint!r} is no endpoint of {setting.url or 'a folder'}",
            where=where,
            fix="write it as https://HOST, for s3:// alone",
        )
    return setting
