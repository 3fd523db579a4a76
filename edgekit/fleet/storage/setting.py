"""Which storage a fleet has, and how everything gets into another one.

`storage.toml` in the fleet's folder names it; without that file everything is in the folder.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgekit.fleet.chunk_store import ChunkStore
from edgekit.fleet.folder import Fleet
from edgekit.fleet.storage.blobs import Storage
from edgekit.fleet.storage.local import FolderStorage
from edgekit.fleet.storage.remote import RemoteStorage
from edgekit.fleet.storage.sealed import SealedStorage
from edgekit_runtime.durable import sync_folder, write_bytes
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.files import sha256_of
from edgekit_runtime.sealing.keys import (
    KeySource,
    StorageKey,
    StorageLockedError,
    read_keys,
)
from edgekit_runtime.sealing.vault import Encryption

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
        key_file: Of the keys that blobs are encrypted with; "" for none.
        encrypted: Whether they are written encrypted; if not, older ones may be, while they are
            written anew.
    """

    url: str = ""
    endpoint: str = ""
    key_file: str = ""
    encrypted: bool = False

    def __str__(self) -> str:
        place = (self.url or LOCAL) + (f" at {self.endpoint}" if self.endpoint else "")
        return f"{place}, encrypted with {self.key_file}" if self.encrypted else place


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
    for name in sorted(set(reader.names()) - {"url", "endpoint", "key_file", "encrypted"}):
        reader.fault(name, "is unknown")
    key_file = reader.text("key_file", default="")
    here = bool(key_file) and reader.raw("url") is None
    setting = StorageSetting(
        url="" if here else reader.text("url", pattern=_URL),
        endpoint=reader.text("endpoint", default=""),
        key_file=key_file,
        encrypted=reader.boolean("encrypted", default=bool(key_file)),
    )
    if setting.encrypted and not key_file:
        reader.fault("key_file", "is missing")
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
        setting: Where to; the default is the fleet's folder. How blobs are encrypted stays.
        progress: Told how many blobs are done, of how many.

    Raises:
        UsageError: If the setting is invalid, or no storage that fsspec knows.
        VerificationError: If a blob is damaged where it is, or was not taken as it is.
        EnvironmentLackError: If a package is missing, or one of the two cannot be reached.
    """
    setting = _checked(setting, where="the storage")
    with fleet.locked():
        known = read_storage(fleet)
        setting = replace(setting, key_file=known.key_file, encrypted=known.encrypted)
        chunk_pair = (_chunks(fleet, known), _chunks(fleet, setting))
        bundle_pair = (_bundles(fleet, known), _bundles(fleet, setting))
        chunk_sizes, bundle_sizes = chunk_pair[0].sizes(), bundle_pair[0].sizes()
        total = len(chunk_sizes) + len(bundle_sizes)
        copied = 0
        if setting != known:
            copied = _copy_chunks(*chunk_pair, chunk_sizes, lambda done: progress(done, total))
            there = bundle_pair[1].sizes()
            for done, name in enumerate(sorted(bundle_sizes), start=len(chunk_sizes) + 1):
                copied += _copy_bundle(*bundle_pair, name, is_there=name in there)
                progress(done, total)
            _write(fleet, setting)
    sizes = [*chunk_sizes.values(), *bundle_sizes.values()]
    return Moved(blobs=len(sizes), blob_bytes=sum(sizes), copied=copied)


def encrypt_storage(
    fleet: Fleet,
    key_file: Path | None,
    *,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> int:
    """Write all blobs encrypted from now on, and those that are there anew; how many those were.

    The setting is written first, and blobs are read in either form: interrupted anywhere, the
    fleet works, and it can be done again. A process that runs meanwhile has to be started again.

    Args:
        fleet: The fleet.
        key_file: Of the keys, as `edgekit_runtime.sealing.keys` reads it; None to write plain.
        progress: Told how many blobs are done, of how many.

    Raises:
        StorageLockedError: If the key file is missing, malformed, or may be read by others.
        UsageError: If `storage.toml` is invalid, or the file lacks a key of the one until now.
        VerificationError: If a blob is damaged, or encrypted with a key that is not here.
        EnvironmentLackError: If the storage cannot be reached.
    """
    with fleet.locked():
        known = read_storage(fleet)
        if key_file is not None:
            _require_older_keys(known, read_keys(KeySource("file", str(key_file.absolute()))))
            setting = replace(known, key_file=str(key_file.absolute()), encrypted=True)
        elif known.key_file:
            setting = replace(known, encrypted=False)
        else:
            return 0
        _write(fleet, setting)
        pairs = [
            (storage, name)
            for storage in (_chunks(fleet, setting), _bundles(fleet, setting))
            if isinstance(storage, SealedStorage)
            for name in sorted(storage.sizes())
        ]
        converted = 0
        for done, (storage, name) in enumerate(pairs, start=1):
            converted += storage.convert(name)
            progress(done, len(pairs))
        if not setting.encrypted:
            _write(fleet, replace(setting, key_file=""))
    return converted


def _require_older_keys(known: StorageSetting, keys: tuple[StorageKey, ...]) -> None:
    """What is there could not be read with a file that lacks the keys of before."""
    if not known.key_file:
        return
    try:
        older = read_keys(KeySource("file", known.key_file))
    except StorageLockedError:
        # It was moved, or is lost: the new one is all that there is.
        return
    lacking = {key.id for key in older} - {key.id for key in keys}
    if lacking:
        raise UsageError(
            f"the file lacks {len(lacking)} of the keys that blobs are encrypted with",
            where=known.key_file,
            fix="put its keys below the new one; or write everything plain first: --plain",
        )


def _chunks(fleet: Fleet, setting: StorageSetting) -> Storage:
    return _opened(setting, _CHUNKS, fleet.chunks)


def _bundles(fleet: Fleet, setting: StorageSetting) -> Storage:
    return _opened(setting, _BUNDLES, fleet.path / _BUNDLES)


def _opened(setting: StorageSetting, kind: str, folder: Path) -> Storage:
    inner: Storage = FolderStorage(folder)
    if setting.url:
        inner = RemoteStorage(f"{setting.url.rstrip('/')}/{kind}", endpoint=setting.endpoint)
    if not setting.key_file:
        return inner
    key = KeySource("file", setting.key_file)
    return SealedStorage(inner, Encryption(key=key, enabled=setting.encrypted), kind=kind)


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


def _copy_bundle(source: Storage, target: Storage, name: str, *, is_there: bool) -> bool:
    digest = name.partition(".")[0]
    if is_there:
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
    if not (setting.url or setting.key_file):
        path.unlink(missing_ok=True)
        sync_folder(fleet.path)
        return
    text = "# Where this fleet's chunks and bundle files are: see `edgekit fleet storage`.\n"
    if setting.url:
        text += f'url = "{setting.url}"\n'
    if setting.key_file:
        # A text of JSON is one of TOML too.
        text += f"key_file = {json.dumps(setting.key_file)}\n"
        text += f"encrypted = {json.dumps(setting.encrypted)}\n"
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
