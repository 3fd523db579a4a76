"""A person's own key: made where that person is, and known elsewhere by its public half alone."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit.fleet.keyring import (
    NAME_PATTERN,
    FleetKey,
    Repository,
    public_document,
    read_public,
)
from edgekit.fleet.secret_files import write_secret
from edgekit.fleet.signing_keys import (
    PublicKey,
    Secrets,
    make_key,
    public_half,
    secret_from_environment,
)
from edgekit_runtime.durable import unwritable, write_bytes
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.fields import FieldReader

_FORMAT: Final = "edgekit-public-key"
_FORMAT_VERSION: Final = 1
_MAX_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnKey:
    """What a fleet needs to know of a person's key.

    Attributes:
        name: What it is called in every fleet: "anna".
        public: Its public half.
        encrypted: Whether its file needs a passphrase.
        uri: Where it is, if it is not in a file.
    """

    name: str
    public: PublicKey
    encrypted: bool
    uri: str | None = None

    def for_roles(self, repository: Repository, *roles: str) -> FleetKey:
        """The key as one of a fleet's, kept offline."""
        return FleetKey(
            name=self.name,
            keyid=self.public.keyid,
            repository=repository,
            roles=roles,
            offline=True,
            encrypted=self.encrypted,
            uri=self.uri,
            public=self.public,
        )


def make_own_key(
    name: str,
    folder: Path,
    *,
    passphrase: str | None = None,
    uri: str | None = None,
    secrets: Secrets = secret_from_environment,
) -> Path:
    """Make a key in a file, or take one that a token or a cloud holds.

    Args:
        name: What it is to be called.
        folder: For `NAME.pem`, which stays with its owner, and `NAME.pub.json`, which does not.
        passphrase: Encrypts the file.
        uri: Of a key that exists elsewhere; nothing is made then but the public half's file.
        secrets: Gives the PIN of a token.

    Returns:
        The public half's file.

    Raises:
        UsageError: If the name is none, the passphrase is empty, or there is such a key already.
        EnvironmentLackError: If the folder cannot be written, or the token cannot be reached.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(
            f"{name!r} is no name for a key",
            fix="at most 63 small letters, digits and dashes; a letter first",
        )
    path = folder / f"{name}.pub.json"
    if path.exists():
        raise UsageError(
            "there is a key of this name already, and keys are never overwritten",
            where=str(path),
            fix="use it, or choose another name",
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if uri is None:
            public, pem = make_key(passphrase)
            write_secret(folder / f"{name}.pem", pem)
        else:
            uri, public = public_half(uri, secrets=secrets)
    except FileExistsError as error:
        raise UsageError(
            "there is a key of this name already, and keys are never overwritten",
            where=str(error.filename),
            fix="use it, or choose another name",
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error
    document: dict[str, object] = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "name": name,
        "encrypted": uri is None and passphrase is not None,
        "public": public_document(public),
    }
    if uri is not None:
        document["uri"] = uri
    write_bytes(path, json.dumps(document, indent=1).encode() + b"\n")
    return path


def read_own_key(path: Path) -> OwnKey:
    """The public half of a key.

    Raises:
        UsageError: If the file cannot be read.
        VerificationError: If it is no such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError as error:
        raise UsageError(
            f"the public key cannot be read: {error.strerror or error}",
            where=str(path),
            fix="its owner makes it: edgekit keys new NAME",
        ) from error
    try:
        reader = FieldReader(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise _bad(path, str(error)) from error
    if reader.raw("format") != _FORMAT or reader.raw("format_version") != _FORMAT_VERSION:
        reader.fault("format", f"is not {_FORMAT} of version {_FORMAT_VERSION}")
    key = OwnKey(
        name=reader.text("name", pattern=NAME_PATTERN),
        public=read_public(reader.nested("public")),
        encrypted=reader.boolean("encrypted"),
        uri=reader.text("uri", most=1024) if "uri" in reader.names() else None,
    )
    if reader.faults:
        raise _bad(path, "; ".join(reader.faults))
    _require_usable(key.public, path)
    return key


def _require_usable(public: PublicKey, path: Path) -> None:
    """A key that no device could use is found out here, and not by the devices."""
    from securesystemslib.exceptions import UnverifiedSignatureError
    from securesystemslib.exceptions import VerificationError as BrokenKeyError
    from securesystemslib.formats import encode_canonical
    from securesystemslib.signer import Signature

    key = public.to_tuf()
    written = {"keytype": key.keytype, "scheme": key.scheme, "keyval": key.keyval}
    if hashlib.sha256(str(encode_canonical(written)).encode()).hexdigest() != public.keyid:
        raise _bad(path, "its id is not its own")
    try:
        key.verify_signature(Signature(public.keyid, "00"), b"")
    except BrokenKeyError as error:
        raise _bad(path, f"it is no {public.scheme} key") from error
    except UnverifiedSignatureError:
        # As it should be: it can tell that this is no signature.
        return


def _bad(path: Path, why: str) -> VerificationError:
    return VerificationError(
        f"this is no public key: {why}", where=str(path), fix="its owner makes it: edgekit keys new"
    )
