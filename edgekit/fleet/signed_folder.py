"""One TUF repository's metadata as files in a folder, signed and written so that a crash is safe.

Every step writes whole files, and `timestamp.json` last: a client, and `published` here, sees
either the state before or the state after. Nothing is built upon that is not signed by a key
which the root trusts. Imports tuf: use it through `edgekit.fleet.repositories`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.repository import Repository

from edgekit.fleet.clock import Clock, rfc3339
from edgekit_runtime.durable import unwritable, write_bytes
from edgekit_runtime.errors import EdgekitError, UsageError, VerificationError
from edgekit_runtime.orders import TIME_FIELD

_SignedT = TypeVar("_SignedT", bound=Signed)
# Old versions are of no use to a device; a few help a person to see what happened.
_KEPT_VERSIONS: Final = 10
_FRESH: Final[dict[str, type[Targets | Snapshot | Timestamp]]] = {
    Targets.type: Targets,
    Snapshot.type: Snapshot,
    Timestamp.type: Timestamp,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleExpiry:
    """A signed file that a device checks, and until when it holds."""

    role: str
    version: int
    expires: datetime

    @classmethod
    def of(cls, signed: Signed) -> RoleExpiry:
        """That of a file."""
        return cls(role=signed.type, version=signed.version, expires=signed.expires)


class SignedFolder(Repository):
    """A TUF repository with consistent snapshots.

    Args:
        folder: Where targets, snapshot and timestamp are.
        root_folder: Where the chain of roots is.
        sign_with: Gives the signers of a role, as many as its threshold asks for; asked only when
            something is signed.
        lifetimes: How long the signature of each role holds.
        clock: The time of signing.
    """

    def __init__(
        self,
        *,
        folder: Path,
        root_folder: Path,
        sign_with: Callable[[str], Sequence[Signer]],
        lifetimes: Mapping[str, timedelta],
        clock: Clock,
    ) -> None:
        self._folder = folder
        self._root_folder = root_folder
        self._sign_with = sign_with
        self._lifetimes = lifetimes
        self._clock = clock

    def open(self, role: str) -> Metadata[Any]:
        """The newest metadata of a role, proven; a new one where there is none.

        Raises:
            UsageError: If there is no root.
            VerificationError: If a file is damaged, or no trusted key has signed it.
        """
        path = self._newest(role)
        if path is not None:
            return self._read(role, path)
        if role == Root.type:
            raise UsageError(
                "this repository has no root metadata",
                where=str(self._root_folder),
                fix="make the fleet's keys first: edgekit keys init",
            )
        fresh = _FRESH[role]()
        # `close` counts up: the first version on disk is 1.
        fresh.version = 0
        return Metadata(fresh)

    def close(self, role: str, md: Metadata[Any]) -> None:
        """Sign a new version of a role and write it, durably.

        Raises:
            VerificationError: If the key that signs is not trusted by the root.
        """
        md.signed.version += 1
        now = self._clock()
        md.signed.expires = now + self._lifetimes[role]
        if role == Timestamp.type:
            # Devices without a clock learn from it what time it is at least.
            md.signed.unrecognized_fields[TIME_FIELD] = rfc3339(now)
        md.signatures.clear()
        self._sign(role, md)
        self._prove(role, md, str(self._folder))
        name = f"{role}.json" if role == Timestamp.type else f"{md.signed.version}.{role}.json"
        folder = self._root_folder if role == Root.type else self._folder
        self._write(folder / name, md.to_bytes())
        if role == Timestamp.type:
            self._prune()

    def require_signer(self, role: str) -> None:
        """Fail now, and not halfway, if the keys of a role cannot be used.

        Raises:
            EdgekitError: As the keyring does.
        """
        self._sign_with(role)

    @property
    def targets_infos(self) -> dict[str, MetaFile]:
        """The version of the newest targets metadata."""
        return {"targets.json": MetaFile(self.targets().version)}

    @property
    def snapshot_info(self) -> MetaFile:
        """The version of the newest snapshot metadata."""
        return MetaFile(self.snapshot().version)

    def commit(self, *, renew: bool = False) -> None:
        """Make the newest targets the published ones: snapshot, then timestamp.

        Args:
            renew: Sign both again even if nothing has changed.
        """
        self.do_snapshot(force=renew)
        self.do_timestamp(force=renew)

    def published(self) -> dict[str, bytes]:
        """The metadata set that devices get: all roots, and what the timestamp leads to.

        Raises:
            UsageError: If nothing has been published.
            VerificationError: If a file is missing, damaged or not signed by a trusted key.
        """
        paths = sorted(self._root_folder.glob("*.root.json"))
        paths += [self._path(role) for role in (Timestamp.type, Snapshot.type, Targets.type)]
        return {path.name: path.read_bytes() for path in paths}

    def published_targets(self) -> Targets:
        """The targets that devices see: none before the first publication."""
        if not (self._folder / f"{Timestamp.type}.json").exists():
            return Targets()
        signed = self._read(Targets.type, self._path(Targets.type)).signed
        return _as(Targets, signed)

    def expiries(self) -> tuple[RoleExpiry, ...]:
        """Until when each published file holds."""
        roles: list[RoleExpiry] = []
        for role in (Root.type, Targets.type, Snapshot.type, Timestamp.type):
            path = self._newest(role) if role == Root.type else self._path(role)
            if path is not None:
                roles.append(RoleExpiry.of(self._read(role, path).signed))
        return tuple(roles)

    def _path(self, role: str) -> Path:
        timestamp = self._folder / f"{Timestamp.type}.json"
        if not timestamp.exists():
            raise UsageError("nothing has been signed here yet", where=str(self._folder))
        if role == Timestamp.type:
            return timestamp
        signed = _as(Timestamp, self._read(Timestamp.type, timestamp).signed)
        snapshot = self._folder / f"{signed.snapshot_meta.version}.snapshot.json"
        if role == Snapshot.type:
            return snapshot
        meta = _as(Snapshot, self._read(Snapshot.type, snapshot).signed).meta
        return self._folder / f"{meta['targets.json'].version}.targets.json"

    def _newest(self, role: str) -> Path | None:
        if role == Timestamp.type:
            path = self._folder / "timestamp.json"
            return path if path.exists() else None
        folder = self._root_folder if role == Root.type else self._folder
        versions = _versions(folder, role)
        return versions[-1] if versions else None

    def _read(self, role: str, path: Path) -> Metadata[Any]:
        try:
            metadata = Metadata.from_bytes(path.read_bytes())
        except (OSError, RepositoryError) as error:
            raise VerificationError(
                f"the metadata is missing or damaged: {error}",
                where=str(path),
                fix="take the fleet folder from a backup",
            ) from error
        self._prove(role, metadata, str(path))
        return metadata

    def _sign(self, role: str, md: Metadata[Any]) -> None:
        for signer in self._sign_with(role):
            add_signature(md, signer)

    def _write(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path.parent, error) from error
        write_bytes(path, data)

    def _prove(self, role: str, metadata: Metadata[Any], where: str) -> None:
        root = _as(Root, metadata.signed) if role == Root.type else self.root()
        prove(root, role, metadata, payload=metadata.signed_bytes, where=where)

    def _prune(self) -> None:
        for role in (Targets.type, Snapshot.type):
            for path in _versions(self._folder, role)[:-_KEPT_VERSIONS]:
                path.unlink(missing_ok=True)


def prove(root: Root, role: str, metadata: Metadata[Any], *, payload: bytes, where: str) -> None:
    """Go on only if metadata is of a role, and signed by as many keys of it as a root asks for.

    Args:
        root: Says whose signatures count.
        role: What it must be.
        metadata: With its signatures.
        payload: The bytes that were signed, as `metadata.signed_bytes` makes them.
        where: For the error.

    Raises:
        VerificationError: If not.
    """
    try:
        if metadata.signed.type != role:
            raise UnsignedMetadataError(f"it is {metadata.signed.type} metadata")
        root.verify_delegate(role, payload, metadata.signatures)
    except UnsignedMetadataError as error:
        raise VerificationError(
            f"the {role} metadata is not signed by a key that the root trusts",
            where=where,
            fix="take the fleet folder from a backup; somebody or something has changed it",
        ) from error


def add_signature(document: Metadata[Any], signer: Signer) -> None:
    """Sign a document beside whoever has signed it already.

    Raises:
        EdgekitError: As the signer does.
    """
    try:
        document.sign(signer, append=True)
    except UnsignedMetadataError as error:
        # What tuf makes of any failure hides what to do about it.
        if isinstance(error.__cause__, EdgekitError):
            raise error.__cause__ from error
        raise


def _versions(folder: Path, role: str) -> list[Path]:
    found = []
    for path in folder.glob(f"*.{role}.json"):
        match = re.fullmatch(rf"([1-9]\d{{0,9}})\.{role}\.json", path.name)
        if match:
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def _as(kind: type[_SignedT], signed: Signed) -> _SignedT:
    if not isinstance(signed, kind):
        raise VerificationError(f"this is {signed.type} metadata, not {kind.type}")
    return signed
