"""Keys, signing requests and certificates, as PEM files that only the agent's user can read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_agent.settings import Tls
from edgekit_runtime.durable import ORDINARY, PRIVATE, unwritable, write_bytes
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

# Of its life, what may have passed before a certificate is renewed.
RENEW_SHARE: Final = 2 / 3
MAX_PEM_BYTES: Final = 64 * 1024


def make_key(path: Path) -> None:
    """Make a P-256 key, unless there is one already: it is this device's identity.

    Raises:
        EnvironmentLackError: If the place cannot be written.
    """
    if path.exists():
        return
    require("cryptography", extra="agent")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_pem(path, pem, secret=True)


def signing_request(key: Path, *, device: str, fleet: str) -> str:
    """A certificate signing request in PEM, for the device's name within its fleet.

    Raises:
        UsageError: If the key cannot be read.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.COMMON_NAME, device),
        ]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = request.sign(_load_key(key), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def check_certificate(certificate: str, *, key: Path, device: str) -> None:
    """Does a certificate belong to this device and its key?

    Raises:
        VerificationError: If it does not, or is none.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509.oid import NameOID

    found = _load_certificate(certificate)
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    ours = _load_key(key).public_key().public_bytes(*form)
    if found.public_key().public_bytes(*form) != ours:
        raise VerificationError(
            "the certificate is for another key", fix="ask for a new one: renew, or enrol again"
        )
    held = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    names = [attribute.value for attribute in held]
    if names != [device]:
        raise VerificationError(f"the certificate is for {names}, not for {device}")


def renewal_time(certificate: Path) -> float:
    """When a certificate is to be renewed, in seconds since 1970.

    Raises:
        VerificationError: If it is none.
        OSError: If it cannot be read.
    """
    begins, ends = validity(certificate.read_text(encoding="ascii", errors="replace"))
    return begins + RENEW_SHARE * (ends - begins)


def validity(certificate: str) -> tuple[float, float]:
    """From when to when a certificate is valid, in seconds since 1970.

    Raises:
        VerificationError: If it is none.
    """
    found = _load_certificate(certificate)
    return found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()


def install_certificate(tls: Tls, certificate: str, authorities: str, *, device: str) -> None:
    """Take a new certificate for the device's key into use; the next connection uses it.

    Args:
        tls: Where the files are.
        certificate: In PEM.
        authorities: Those that may sign the broker's certificate, in PEM; empty to leave them.
        device: Who this is.

    Raises:
        UsageError: If this agent has no key.
        VerificationError: If the certificate is for another key or device.
        EnvironmentLackError: If the files cannot be written; the old ones are still whole.
    """
    if tls.key is None or tls.certificate is None:
        raise UsageError("this agent has no certificate", where="[broker.tls]")
    check_certificate(certificate, key=tls.key, device=device)
    if authorities:
        _load_certificate(authorities)
        write_pem(tls.ca, authorities.encode(), secret=False)
    write_pem(tls.certificate, certificate.encode(), secret=False)


def write_pem(path: Path, data: bytes, *, secret: bool) -> None:
    """Write a file durably, never readable by others even for a moment if it is secret.

    Raises:
        EnvironmentLackError: If the place cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    write_bytes(path, data, mode=PRIVATE if secret else ORDINARY)


def _load_key(path: Path) -> EllipticCurvePrivateKey:
    serialization: Any = require("cryptography.hazmat.primitives.serialization", extra="agent")
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"the device's key cannot be read: {error}", where=str(path)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError("the device's key is of another kind than P-256", where=str(path))
    return key


def _load_certificate(text: str) -> x509.Certificate:
    require("cryptography", extra="agent")
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        certificate = x509.load_pem_x509_certificate(text.encode())
        # The library reads these only when they are asked for, and fails then.
        certificate.public_key()
        certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise VerificationError(f"this is no certificate: {error}") from error
    return certificate
