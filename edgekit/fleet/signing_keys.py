"""Take a signing key out of its file, its token or its cloud, ready to sign.

A key is a PEM file (ed25519, PKCS#8, best with a passphrase), or a URI of securesystemslib's
signers:

    hsm:2?label=NAME       PKCS#11; PYKCS11LIB names its library, EDGEKIT_PIN holds the PIN
    gcpkms:projects/…      Google Cloud KMS
    awskms:KEY             AWS KMS
    azurekms://VAULT/KEY   Azure Key Vault

The clouds find their credentials as their own libraries do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_runtime.errors import (
    EdgekitError,
    EnvironmentLackError,
    UsageError,
    VerificationError,
)
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, Key, Signature, Signer, SSlibKey

PIN_VARIABLE: Final = "EDGEKIT_PIN"
_ENCRYPTED: Final = b"BEGIN ENCRYPTED PRIVATE KEY"
# What to install for each kind of URI.
_PACKAGES: Final = {
    "hsm": "edgekit[hsm]",
    "gcpkms": "securesystemslib[gcpkms]",
    "awskms": "securesystemslib[awskms]",
    "azurekms": "securesystemslib[azurekms]",
}
Secrets = Callable[[str], str]
"""Gives a secret by its name ("pin"), or raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """What anybody may know of a key.

    Attributes:
        keyid: As in the TUF metadata.
        keytype: "ed25519", "ecdsa", "rsa".
        scheme: How it signs.
        value: The key itself, as TUF writes it.
    """

    keyid: str
    keytype: str
    scheme: str
    value: str

    @classmethod
    def of(cls, key: SSlibKey) -> PublicKey:
        """As TUF has it."""
        return cls(
            keyid=key.keyid,
            keytype=key.keytype,
            scheme=key.scheme,
            value=str(key.keyval["public"]),
        )

    def to_tuf(self) -> SSlibKey:
        """As the metadata has it."""
        from securesystemslib.signer import SSlibKey

        return SSlibKey(self.keyid, self.keytype, self.scheme, {"public": self.value})


def secret_from_environment(name: str) -> str:
    """The PIN of a token, from the environment.

    Raises:
        UsageError: If it is not there.
    """
    found = os.environ.get(PIN_VARIABLE, "")
    if not found:
        raise UsageError(f"the token asks for a {name}", fix=f"give it in {PIN_VARIABLE}")
    return found


def key_in_file(path: Path, *, name: str, passphrase: str | None) -> CryptoSigner:
    """The key of a PEM file.

    Raises:
        UsageError: If the passphrase is missing or wrong.
        EnvironmentLackError: If the file is not here.
        VerificationError: If it is damaged, or no ed25519 key.
    """
    require("cryptography", extra="fleet")
    require("securesystemslib", extra="fleet")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    try:
        pem = path.read_bytes()
    except OSError as error:
        raise EnvironmentLackError(
            f"the key {name} cannot be read: {error.strerror or error}",
            where=str(path),
            fix="bring the medium that holds it, and put the file back in its place; or take it "
            "from a backup",
        ) from error
    encrypted = _ENCRYPTED in pem
    if encrypted and not passphrase:
        raise UsageError(
            f"the key {name} is encrypted, and no passphrase was given",
            where=str(path),
            fix="give the passphrase that was chosen when the keys were made",
        )
    password = passphrase.encode() if encrypted and passphrase else None
    try:
        private = load_pem_private_key(pem, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise UsageError(
                f"the passphrase does not open the key {name}",
                where=str(path),
                fix="give the passphrase that was chosen when the keys were made; if it is right, "
                "the file is damaged: take it from a backup",
            ) from error
        raise VerificationError(
            f"the key {name} is damaged", where=str(path), fix="take it from a backup"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise VerificationError(
            "this is no ed25519 key", where=str(path), fix="take the right file from a backup"
        )
    return CryptoSigner(private)


def make_key(passphrase: str | None) -> tuple[PublicKey, bytes]:
    """A new ed25519 key: its public half, and the PEM of all of it.

    Raises:
        UsageError: If the passphrase is empty.
    """
    require("cryptography", extra="fleet")
    require("securesystemslib", extra="fleet")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
    )
    from securesystemslib.signer import SSlibKey

    if passphrase is not None and not passphrase.strip():
        raise UsageError("the passphrase is empty", fix="choose one, or give none at all")
    private = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
    public = PublicKey.of(SSlibKey.from_crypto(private.public_key()))
    return public, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def key_at(uri: str, public: PublicKey, *, secrets: Secrets = secret_from_environment) -> Signer:
    """The key of a token or of a cloud, whose public half is known.

    Raises:
        UsageError: If there is no such kind of URI, or a secret is missing.
        EnvironmentLackError: If what it needs is not installed, or it cannot be reached.
    """
    require("securesystemslib", extra="fleet")
    from securesystemslib.signer import Signer

    scheme = _scheme_of(uri)
    with _explained(scheme, uri):
        opened = Signer.from_priv_key_uri(uri, public.to_tuf(), secrets)
    return _explaining(opened, scheme, uri)


def public_half(uri: str, *, secrets: Secrets = secret_from_environment) -> tuple[str, PublicKey]:
    """Ask a token or a cloud for the public half of a key.

    Returns:
        The URI by which that key, and no other, is found from now on, and the key.

    Raises:
        UsageError: If there is no such kind of URI, or a secret is missing.
        EnvironmentLackError: If what it needs is not installed, or it cannot be reached.
    """
    import urllib.parse

    require("securesystemslib", extra="fleet")
    from securesystemslib.signer import AWSSigner, AzureSigner, GCPSigner, HSMSigner

    scheme = _scheme_of(uri)
    place = urllib.parse.urlparse(uri)
    with _explained(scheme, uri):
        if scheme == "hsm":
            label = dict(urllib.parse.parse_qsl(place.query)).get("label")
            found, key = HSMSigner.import_(int(place.path) if place.path else None, label, secrets)
        elif scheme == "gcpkms":
            found, key = GCPSigner.import_(place.path)
        elif scheme == "awskms":
            found, key = AWSSigner.import_(place.path)
        else:
            vault, _, name = (place.netloc + place.path).strip("/").partition("/")
            found, key = AzureSigner.import_(vault, name)
    return found, PublicKey.of(key)


def _scheme_of(uri: str) -> str:
    scheme = uri.partition(":")[0]
    if scheme not in _PACKAGES:
        raise UsageError(
            f"{uri!r} is the address of no key",
            fix="one of hsm:…, gcpkms:…, awskms:…, azurekms:…, or a PEM file",
        )
    return scheme


@contextlib.contextmanager
def _explained(scheme: str, uri: str) -> Iterator[None]:
    """Whatever a token's or a cloud's library raises comes out as an error of ours."""
    from securesystemslib.exceptions import UnsupportedLibraryError

    try:
        yield
    except EdgekitError:
        raise
    except UnsupportedLibraryError as error:
        raise EnvironmentLackError(
            f"a key at {scheme}: needs a library: {error}",
            where=uri,
            fix=f'pip install "{_PACKAGES[scheme]}"',
        ) from error
    except Exception as error:
        raise EnvironmentLackError(
            f"the key cannot be used: {type(error).__name__}"
            + (f": {error}" if str(error) else ""),
            where=uri,
            fix="check that the token is in its place and the PIN right; for a cloud, credentials "
            "and permissions",
        ) from error


def _explaining(signer: Signer, scheme: str, uri: str) -> Signer:
    from securesystemslib.signer import Signer as Base

    class Explaining(Base):
        @classmethod
        def from_priv_key_uri(cls, *_: Any) -> Signer:
            raise NotImplementedError

        @property
        def public_key(self) -> Key:
            return signer.public_key

        def sign(self, payload: bytes) -> Signature:
            with _explained(scheme, uri):
                return signer.sign(payload)

    return Explaining()
