"""Which keys a fleet has, where each is, and how enough of them are taken out to sign.

What each key may sign, and how many must sign together, is decided by the signed roots alone; this
list mirrors them, and says where the private halves are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit.fleet.folder import Fleet
from edgekit.fleet.signing_keys import (
    PublicKey,
    Secrets,
    key_at,
    key_in_file,
    secret_from_environment,
)
from edgekit_runtime.errors import EdgekitError, UsageError, VerificationError
from edgekit_runtime.fields import FieldReader

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

KEYS_FILE: Final = "keys.json"
# A change of keys that has begun; see `edgekit.fleet.key_applying`.
CHANGE_FILE: Final = "change.json"
ROLES: Final = ("root", "targets", "snapshot", "timestamp")
NAME_PATTERN: Final = r"[a-z][a-z0-9-]{0,62}"
_FORMAT: Final = "edgekit-keys"
_FORMAT_VERSION: Final = 1
_MOST_KEYS: Final = 64
_MOST_REVOKED: Final = 4096
_TRIAL: Final = b"Can this key sign?"
_KEYID: Final = r"[0-9a-f]{64}"


class Repository(StrEnum):
    """The two TUF repositories of a fleet."""

    IMAGE = "image"
    DIRECTOR = "director"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetKey:
    """A signing key, without its secret.

    Attributes:
        name: Of its file, without the ending: "image-root". A person's key may sign for both
            repositories, and is there once for each, under one name.
        keyid: As in the TUF metadata.
        repository: Which repository it signs for.
        roles: Which TUF roles it signs.
        offline: Whether it may be kept away from this machine between releases.
        encrypted: Whether its file needs a passphrase.
        uri: Where it is, if it is not in a file; see `edgekit.fleet.signing_keys`.
        public: Its public half; None in lists of old, for a key in a file.
    """

    name: str
    keyid: str
    repository: Repository
    roles: tuple[str, ...]
    offline: bool
    encrypted: bool
    uri: str | None = None
    public: PublicKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKey:
    """A key that must never sign again.

    Attributes:
        name: As it was called.
        keyid: As in the TUF metadata.
        revoked: When; RFC 3339, UTC.
        reason: Why, in words.
    """

    name: str
    keyid: str
    revoked: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """A fleet's keys.

    Attributes:
        folder: Where their files are.
        keys: All of them.
        thresholds: How many keys of a repository's role must sign together; 1 where not said.
        revoked: Those that were, and must never sign again.
    """

    folder: Path
    keys: tuple[FleetKey, ...]
    thresholds: Mapping[tuple[Repository, str], int] = field(default_factory=dict)
    revoked: tuple[RevokedKey, ...] = ()

    def file_of(self, key: FleetKey) -> Path:
        """The PEM file (PKCS#8) of a key."""
        return self.folder / f"{key.name}.pem"

    def keys_of(self, repository: Repository, role: str) -> tuple[FleetKey, ...]:
        """The keys of a role."""
        return tuple(k for k in self.keys if k.repository is repository and role in k.roles)

    def threshold(self, repository: Repository, role: str) -> int:
        """How many keys of a role must sign together."""
        return self.thresholds.get((repository, role), 1)

    def signer(self, repository: Repository, role: str, *, passphrase: str | None = None) -> Signer:
        """One key of a role, ready to sign.

        Raises:
            EdgekitError: As `signers`.
        """
        return self.signers(repository, role, passphrase=passphrase)[0]

    def signers(
        self,
        repository: Repository,
        role: str,
        *,
        passphrase: str | None = None,
        secrets: Secrets = secret_from_environment,
    ) -> tuple[Signer, ...]:
        """As many keys of a role as must sign together, ready to sign.

        Args:
            repository: Of the role.
            role: "root", "targets", "snapshot" or "timestamp".
            passphrase: For files that are encrypted; any other ignores it.
            secrets: Gives the PIN of a token.

        Raises:
            UsageError: If the passphrase is missing or wrong, fewer keys than must sign together
                can be used here, or a change of these keys is not finished.
            EnvironmentLackError: If the only key's file, token or cloud is not here.
            VerificationError: If a file is damaged, or holds another key.
        """
        keys = self.keys_of(repository, role)
        if any(key.offline for key in keys):
            require_finished(self.folder)
        needed = self.threshold(repository, role)
        found: list[Signer] = []
        failures: list[tuple[FleetKey, EdgekitError]] = []
        for key in keys:
            if len(found) == needed:
                break
            try:
                signer = self.open(key, passphrase=passphrase, secrets=secrets)
                if key.uri is not None and len(keys) > needed:
                    # Whether a token is in its place shows only when it signs; another may be.
                    signer.sign(_TRIAL)
                found.append(signer)
            except EdgekitError as error:
                failures.append((key, error))
        if len(found) < needed:
            if len(keys) == 1:
                raise failures[0][1]
            raise UsageError(
                f"the {repository.value} {role} takes signatures by {needed} of {len(keys)} keys, "
                f"and {len(found)} can sign here; "
                + "; ".join(f"{key.name}: {error.what}" for key, error in failures),
                where=str(self.folder),
                fix="bring the keys that are missing, and give the passphrase or the PIN of each",
            )
        return tuple(found)

    def open(
        self,
        key: FleetKey,
        *,
        passphrase: str | None = None,
        secrets: Secrets = secret_from_environment,
    ) -> Signer:
        """One key, ready to sign.

        Raises:
            UsageError: If the passphrase or the PIN is missing or wrong.
            EnvironmentLackError: If the key's file, token or cloud is not here.
            VerificationError: If the file is damaged, or holds another key.
        """
        if key.uri is not None:
            if key.public is None:
                raise VerificationError(
                    f"the public half of the key {key.name} is not known",
                    where=str(self.folder / KEYS_FILE),
                    fix="take the list of keys from a backup",
                )
            return key_at(key.uri, key.public, secrets=secrets)
        signer = key_in_file(self.file_of(key), name=key.name, passphrase=passphrase)
        if signer.public_key.keyid != key.keyid:
            raise VerificationError(
                f"this file does not hold the key {key.name} of this fleet",
                where=str(self.file_of(key)),
                fix="take the right file from a backup",
            )
        return signer


def require_finished(keys: Path) -> None:
    """Go on only if no change of the keys in a folder has begun.

    Raises:
        UsageError: If one has.
    """
    if (keys / CHANGE_FILE).exists():
        raise UsageError(
            "a change of the keys has begun, and is not finished",
            where=str(keys / CHANGE_FILE),
            fix="finish it first: edgekit keys resume",
        )


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
    return parse_keyring(data, folder=fleet.keys)


def parse_keyring(data: bytes, *, folder: Path) -> Keyring:
    """Read a list of keys.

    Raises:
        VerificationError: If it is damaged, or a role has fewer keys than must sign together.
    """
    path = folder / KEYS_FILE
    try:
        reader = FieldReader(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if reader.raw("format") != _FORMAT or reader.raw("format_version") != _FORMAT_VERSION:
        reader.fault("format", f"is not {_FORMAT} of version {_FORMAT_VERSION}")
    ring = Keyring(
        folder=folder,
        keys=reader.items("keys", read_key, most=_MOST_KEYS),
        thresholds=_read_thresholds(reader.nested("thresholds", optional=True)),
        revoked=reader.items("revoked", _read_revoked, optional=True, most=_MOST_REVOKED),
    )
    if reader.faults:
        raise _damaged(path, "; ".join(reader.faults))
    for repository in Repository:
        for role in ROLES:
            needed, held = ring.threshold(repository, role), len(ring.keys_of(repository, role))
            if held < needed:
                wanted = "one" if needed == 1 else f"{needed}"
                reader.fault("keys", f"lacks {wanted} for {repository.value} {role}")
    if reader.faults:
        raise _damaged(path, "; ".join(reader.faults))
    return ring


def keyring_json(ring: Keyring) -> bytes:
    """The list of keys as it stands beside them."""
    thresholds: dict[str, dict[str, int]] = {}
    for (repository, role), needed in sorted(ring.thresholds.items()):
        if needed != 1:
            thresholds.setdefault(repository.value, {})[role] = needed
    document = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "keys": [key_document(key) for key in ring.keys],
        "thresholds": thresholds,
        "revoked": [
            {"name": k.name, "keyid": k.keyid, "revoked": k.revoked, "reason": k.reason}
            for k in ring.revoked
        ],
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def key_document(key: FleetKey) -> dict[str, object]:
    """A key as it stands in a list."""
    document: dict[str, object] = {
        "name": key.name,
        "keyid": key.keyid,
        "repository": key.repository.value,
        "roles": list(key.roles),
        "offline": key.offline,
        "encrypted": key.encrypted,
    }
    if key.uri is not None:
        document["uri"] = key.uri
    if key.public is not None:
        document["public"] = public_document(key.public)
    return document


def public_document(key: PublicKey) -> dict[str, str]:
    """A public key as it stands in a file."""
    return {
        "keyid": key.keyid,
        "keytype": key.keytype,
        "scheme": key.scheme,
        "value": key.value,
    }


def read_public(reader: FieldReader) -> PublicKey:
    """A public key from a file."""
    return PublicKey(
        keyid=reader.text("keyid", pattern=_KEYID),
        keytype=reader.text("keytype", pattern=r"[a-z0-9-]{1,40}"),
        scheme=reader.text("scheme", pattern=r"[a-z0-9-]{1,60}"),
        value=reader.text("value"),
    )


def read_key(reader: FieldReader) -> FleetKey:
    """A key from a list."""
    repository = reader.text("repository", pattern="|".join(Repository))
    public = read_public(reader.nested("public")) if "public" in reader.names() else None
    keyid = reader.text("keyid", pattern=_KEYID)
    if public is not None and public.keyid != keyid:
        reader.fault("public", "is of another key")
    return FleetKey(
        name=reader.text("name", pattern=NAME_PATTERN),
        keyid=keyid,
        repository=Repository(repository) if repository in set(Repository) else Repository.IMAGE,
        roles=reader.texts("roles", most=4),
        offline=reader.boolean("offline"),
        encrypted=reader.boolean("encrypted"),
        uri=reader.text("uri", most=1024) if "uri" in reader.names() else None,
        public=public,
    )


def _read_revoked(reader: FieldReader) -> RevokedKey:
    return RevokedKey(
        name=reader.text("name", pattern=NAME_PATTERN),
        keyid=reader.text("keyid", pattern=_KEYID),
        revoked=reader.text("revoked"),
        reason=reader.text("reason", most=1024),
    )


def _read_thresholds(reader: FieldReader) -> dict[tuple[Repository, str], int]:
    found: dict[tuple[Repository, str], int] = {}
    for repository in Repository:
        if repository.value in reader.names():
            roles = reader.nested(repository.value)
            for role in ROLES:
                if role in roles.names():
                    found[repository, role] = roles.integer(role, least=1, most=_MOST_KEYS)
    return found


def _damaged(path: Path, why: str) -> VerificationError:
    return VerificationError(
        f"the list of keys is damaged: {why}", where=str(path), fix="take it from a backup"
    )
