"""Release a bundle: its chunks into the store, its index signed into the image repository."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit.fleet.clock import Clock, rfc3339, utc_now
from edgekit.fleet.folder import Fleet
from edgekit.fleet.repositories import open_images
from edgekit_runtime.bundle.archive import BundleArchive
from edgekit_runtime.bundle.build import Base, build_index
from edgekit_runtime.bundle.index import BundleIndex
from edgekit_runtime.bundle.manifest import MANIFEST_NAME, NAME_PATTERN
from edgekit_runtime.durable import unwritable, write_bytes
from edgekit_runtime.errors import GateFailedError, InvalidBundleError, VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.files import sha256_of
from edgekit_runtime.limits import MAX_INDEX_BYTES
from edgekit_runtime.orders import target_path
from edgekit_runtime.versions import VERSION_PATTERN, Version

if TYPE_CHECKING:
    from edgekit.fleet.image_repository import ImageRepository

# How many versions back a device may be, and still get deltas; then whole chunks.
_BASES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A bundle version that devices of this fleet may install.

    Attributes:
        bundle: Its name.
        version: Its semantic version.
        released: When; RFC 3339, UTC.
        file: The name of the bundle file that it was made from.
        file_sha256: Of that file.
        index_bytes: Length of the signed index.
        chunks: How many chunks the bundle's files are, equal ones counted once.
        wire_bytes: Their length on the wire.
        new_chunks: How many chunks and deltas no earlier release had.
        new_wire_bytes: Their length on the wire.
    """

    bundle: str
    version: str
    released: str
    file: str
    file_sha256: str
    index_bytes: int
    chunks: int
    wire_bytes: int
    new_chunks: int
    new_wire_bytes: int


def release_bundle(
    fleet: Fleet, bundle: Path, *, passphrase: str | None = None, clock: Clock = utc_now
) -> Release:
    """Sign a bundle as a version that may be installed; no device is told to run it by that.

    The same content again changes nothing and gives the first release. Chunks are written
    before the metadata that names them: after a crash, release it again.

    Args:
        fleet: The fleet.
        bundle: An `.ekb` file.
        passphrase: Of the offline keys, if they have one.
        clock: The time of signing.

    Raises:
        GateFailedError: If the version is released already with other content.
        InvalidBundleError: If the bundle breaks the format, or is too large to be sent.
        VerificationError: If its files are not what its manifest says.
        UsageError: If there is no such file, the fleet has no keys, or the passphrase is wrong.
    """
    images = open_images(fleet, passphrase=passphrase, clock=clock)
    with BundleArchive(bundle) as archive:
        manifest = archive.manifest
        path = target_path(manifest.name, manifest.version)
        index, wire = build_index(
            manifest.name,
            manifest.version,
            ((name, archive.read(name)) for name in (MANIFEST_NAME, *sorted(manifest.files))),
            bases=_bases(images, path),
        )
    document = index.to_json()
    if len(document) > MAX_INDEX_BYTES:
        raise InvalidBundleError(
            f"its index would be larger than {MAX_INDEX_BYTES} bytes", where=str(bundle)
        )
    with fleet.locked():
        known = images.targets().targets.get(path)
        if known is None:
            images.require_signer("targets")
        elif known.hashes["sha256"] != hashlib.sha256(document).hexdigest():
            signed = images.index_of(known)
            _require_same(signed, index, bundle)
            # The same content, packed by another zlib: what was signed and stored stays.
            wire = {name: data for name, data in wire.items() if name in signed.wire_sizes()}
        new = images.chunks.put_all(wire)
        if known is None:
            images.add(path, document)
        elif wire:
            # Heals the store: what was lost or damaged is written again.
            images.store_index(document)
        images.commit()
        record = fleet.releases / index.name / f"{index.version}.json"
        if record.is_file():
            return _read_record(record)
        sizes = {c.sha256: c.wire_bytes for entry in index.files for c in entry.chunks}
        release = Release(
            bundle=index.name,
            version=index.version,
            released=rfc3339(clock()),
            file=bundle.name,
            file_sha256=sha256_of(bundle),
            index_bytes=len(document),
            chunks=len(sizes),
            wire_bytes=sum(sizes.values()),
            new_chunks=len(new),
            new_wire_bytes=sum(len(wire[name]) for name in new),
        )
        _write_record(record, release)
    return release


def list_releases(fleet: Fleet) -> tuple[Release, ...]:
    """All releases of a fleet, by name and version.

    Raises:
        VerificationError: If a record is damaged.
    """
    releases = [_read_record(path) for path in fleet.releases.glob("*/*.json")]
    return tuple(sorted(releases, key=lambda r: (r.bundle, Version.parse(r.version))))


def _bases(images: ImageRepository, path: str) -> list[Base]:
    """The released versions that a version's deltas start from, the newest first.

    These are the two below it. When it is released again, to heal the store, they are those that
    it was released with.
    """
    bundle, version, _ = path.split("/")
    targets = images.targets().targets
    older = [
        (Version.parse(other.split("/")[1]), target)
        for other, target in targets.items()
        if other.split("/")[0] == bundle and other != path
    ]
    older.sort(key=lambda item: item[0], reverse=True)
    bases = []
    for number, target in older:
        try:
            bases.append((number, Base(index=images.index_of(target), read=images.read)))
        except VerificationError:
            # Devices then fetch the whole chunks; nothing else depends on it.
            continue
    if path in targets:
        try:
            told_by = images.index_of(targets[path]).base_digests()
        except VerificationError:
            told_by = None
        if told_by is not None:
            return [
                base
                for _, base in bases
                if any(entry.sha256 in told_by for entry in base.index.files)
            ]
    below = [base for number, base in bases if number < Version.parse(version)]
    return below[:_BASES]


def _require_same(released: BundleIndex, index: BundleIndex, bundle: Path) -> None:
    before = {entry.path: entry.sha256 for entry in released.files}
    after = {entry.path: entry.sha256 for entry in index.files}
    differing = sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )
    if differing:
        raise GateFailedError(
            f"{index.name} {index.version} is released already with other content: "
            + ", ".join(differing),
            where=str(bundle),
            fix="give the changed bundle a new version; a released one never changes",
        )


def _write_record(path: Path, release: Release) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    write_bytes(path, json.dumps(asdict(release), indent=1).encode() + b"\n")


def _read_record(path: Path) -> Release:
    try:
        reader = FieldReader(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    release = Release(
        bundle=reader.text("bundle", pattern=NAME_PATTERN),
        version=reader.text("version", pattern=VERSION_PATTERN),
        released=reader.text("released"),
        file=reader.text("file"),
        file_sha256=reader.text("file_sha256", pattern=r"[0-9a-f]{64}"),
        index_bytes=reader.integer("index_bytes"),
        chunks=reader.integer("chunks"),
        wire_bytes=reader.integer("wire_bytes"),
        new_chunks=reader.integer("new_chunks"),
        new_wire_bytes=reader.integer("new_wire_bytes"),
    )
    if reader.faults:
        raise _damaged(path, "; ".join(reader.faults))
    return release


def _damaged(path: Path, why: str) -> VerificationError:
    return VerificationError(
        f"the record of a release is damaged: {why}",
        where=str(path),
        fix="remove the record and release the bundle again: the signed release is not touched",
    )
