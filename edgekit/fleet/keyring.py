"""Which keys a fleet has, and how one of them is taken out to sign."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit.fleet.folder import Fleet
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from edgekit_runtime.extras import require
from edgekit_runtime.fields import FieldReader

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

KEYS_FILE: Final = "keys.json"
_FORMAT: Final = "edgekit-keys"
_FORMAT_VERSION: Final = 1
_ENCRYPTED: Final = b"BEGIN ENCRYPTED PRIVATE KEY"


class Repository(StrEnum):
    """The two TUF repositories of a fleet."""

    IMAGE = "image"
    DIRECTOR = "director"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetKey:
    """A signing key, without its secret.

    Attributes:
        name: Of its file, without the ending: "image-root".
        keyid: As in the TUF metadata.
        repository: Which repository it signs for.
        roles: Which TUF roles it signs.
        offline: Whether it may be kept away from this machine between releases.
        encrypted: Whether its file needs a passphrase.
    """

    name: str
    keyid: str
    repository: Repository
    roles: tuple[str, ...]
    offline: bool
    encrypted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """A fleet's keys.

    Attributes:
        folder: Where their files are.
        keys: All of them.
    """

    folder: Path
    keys: tuple[FleetKey, ...]

    def file_of(self, key: FleetKey) -> Path:
        """The PEM file (PKCS#8) of a key."""
        return self.folder / f"{key.name}.pem"

    def signer(
        self, repository: Repository, role: str, *, passphrase: str | None = None
    ) -> CryptoSigner:
        """The key of a role, ready to sign.

        Args:
            repository: Of the role.
            role: "root", "targets", "snapshot" or "timestamp".
            passphrase: For a key that is encrypted; any other ignores it.

        Raises:
            UsageError: If the passphrase is missing or wrong.
            EnvironmentLackError: If the key's file is not here.
            VerificationError: If the file is damaged, or holds another key.
        """
        key = next(k for k in self.keys if k.repository is repository and role in k.roles)
        path = self.file_of(key)
        try:
            pem = path.read_bytes()
        except OSError as error:
            raise EnvironmentLackError(
                f"the key {key.name} cannot be read: {error.strerror or error}",
                where=str(path),
                fix="bring the medium that holds it, and put the file back in its place"
                if key.offline
                else "take it from a backup",
            ) from error
        signer = _load(pem, key, path, passphrase)
        if signer.public_key.keyid != key.keyid:
            raise VerificationError(
                f"this file does not hold the key {key.name} of this fleet",
                where=str(path),
                fix="take the right file from a backup",
            )
        return signer


def read_keyring(fleet: Fleet) -> Keyring:
    """A fleet's keys, without their secrets.

    Raises:
        UsageError: If the fleet has no keys yet.
        VerificationError: If the list of keys is damaged.
    """
    path = fleet.keys / KEYS_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            "this fleet has no keys yet",
            where=str(fleet.path),
            fix="make them: edgekit keys init",
        ) from error
    try:
        reader = FieldReader(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if reader.raw("format") != _FORMAT or reader.raw("format_version") != _FORMAT_VERSION:
        reader.fault("format", f"is not {_FORMAT} of version {_FORMAT_VERSION}")
    keys = reader.items("keys", _read_key, most=64)
    if reader.faults:
        raise _damaged(path, "; ".join(reader.faults))
    for repository in Repository:
        for role in ("root", "targets", "snapshot", "timestamp"):
            if not any(key.repository is repository and role in key.roles for key in keys):
                reader.fault("keys", f"lacks one for {repository.value} {role}")
    if reader.faults:
        raise _damaged(path, "; ".join(reader.faults))
    return Keyring(folder=fleet.keys, keys=keys)


def keyring_json(keys: tuple[FleetKey, ...]) -> bytes:
    """The list of keys as it stands beside them."""
    document = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "keys": [
            {
                "name": key.name,
                "keyid": key.keyid,
                "repository": key.repository.value,
                "roles": list(key.roles),
                "offline": key.offline,
                "encrypted": key.encrypted,
            }
            for key in keys
        ],
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _load(pem: bytes, key: FleetKey, path: Path, passphrase: str | None) -> CryptoSigner:
    require("cryptography", extra="fleet")
    require("securesystemslib", extra="fleet")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    encrypted = _ENCRYPTED in pem
    if encrypted and not passphrase:
        raise UsageError(
            f"the key {key.name} is encrypted, and no passphrase was given",
            where=str(path),
            fix="give the passphrase that was chosen when the keys were made",
        )
    password = passphrase.encode() if encrypted and passphrase else None
    try:
        private = load_pem_private_key(pem, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise UsageError(
                f"the passphrase does not open the key {key.name}",
                where=str(path),
                fix="give the passphrase that was chosen when the keys were made; if it is right, "
                "the file is damaged: take it from a backup",
            ) from error
        raise VerificationError(
            f"the key {key.name} is damaged", where=str(path), fix="take it from a backup"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise VerificationError(
            "this is no ed25519 key", where=str(path), fix="take the right file from a backup"
        )
    return CryptoSigner(private)


def _read_key(reader: FieldReader) -> FleetKey:
    repository = reader.text("repository", pattern="|".join(Repository))
    return FleetKey(
        name=reader.text("name", pattern=r"[a-z][a-z-]{0,62}"),
        keyid=reader.text("keyid", pattern=r"[0-9a-f]{64}"),
        repository=Repository(repository) if repository in set(Repository) else Repository.IMAGE,
        roles=reader.texts("roles", most=4),
        offline=reader.boolean("offline"),
        encrypted=reader.boolean("encrypted"),
    )


def _damaged(path: Path, why: str) -> VerificationError:
    return VerificationError(
        f"the list of keys is damaged: {why}", where=str(path), fix="take it from a backup"
    )
