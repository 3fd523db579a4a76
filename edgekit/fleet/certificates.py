"""X.509 as a fleet uses it: names, requests, keys that are strong enough, certificates' form."""

from __future__ import annotations

import re
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_runtime.errors import UsageError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificateIssuerPrivateKeyTypes,
        CertificatePublicKeyTypes,
    )

_MAX_REQUEST_BYTES: Final = 64 * 1024
_LEAST_RSA_BITS: Final = 2048
# Of a serial number at most (RFC 5280, 4.1.2.2: 20 octets, and positive).
_SERIAL_BITS: Final = 159


def subject_of(fleet: str, name: str) -> x509.Name:
    """A name within a fleet: its organisation is the fleet's id."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def start_certificate(
    subject: x509.Name,
    key: CertificatePublicKeyTypes,
    issuer: x509.Name,
    issuer_key: Any,
    *,
    authority: bool,
) -> x509.CertificateBuilder:
    """A certificate with everything but its time and what it is for."""
    from cryptography import x509

    usage = x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def requested_key(request: str, *, fleet: str, device: str) -> CertificatePublicKeyTypes:
    """The public key of a signing request that is for this device of this fleet.

    Raises:
        UsageError: If it is none, is for another name or fleet, is not signed by its own key, or
            the key is too weak; everything that is wrong is named.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509.oid import NameOID

    if len(request) > _MAX_REQUEST_BYTES:
        raise UsageError("the signing request is too long", where=f"device {device}")
    try:
        asked = x509.load_pem_x509_csr(request.encode())
        genuine = asked.is_signature_valid
        key = asked.public_key()
        names = [item.value for item in asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        fleets = [
            item.value for item in asked.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        ]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"this is no certificate signing request: {error}", where=f"device {device}"
        ) from error
    faults = []
    if not genuine:
        faults.append("is not signed by its own key")
    if names != [device]:
        faults.append(f"is for {names}")
    if fleets not in ([], [fleet]):
        faults.append(f"is for the fleet {fleets}")
    if not _is_strong(key):
        faults.append("has a key that is neither P-256, P-384, ed25519 nor RSA of 2048 bits")
    if faults:
        raise UsageError(
            "the signing request " + ", ".join(faults),
            where=f"device {device}",
            fix="make a request for this device with its own key",
        )
    return key


def _is_strong(key: CertificatePublicKeyTypes) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= _LEAST_RSA_BITS
    return isinstance(key, ed25519.Ed25519PublicKey)


def read_chain(pem: bytes, where: str) -> list[x509.Certificate]:
    """The certificates of a PEM file.

    Raises:
        UsageError: If there is none.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise UsageError(f"this is no certificate in PEM: {error}", where=where) from error


def read_private_key(
    pem: bytes, passphrase: str | None, where: str
) -> CertificateIssuerPrivateKeyTypes:
    """A private key from PEM that may sign certificates.

    Raises:
        UsageError: If it cannot be read, or is too weak.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key: Any = load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"the authority's key cannot be read: {error}",
            where=where,
            fix="give its passphrase if it has one; it must be PEM",
        ) from error
    if not _is_strong(key.public_key()):
        raise UsageError(
            "the authority's key is neither P-256, P-384, ed25519 nor RSA of 2048 bits", where=where
        )
    found: CertificateIssuerPrivateKeyTypes = key
    return found


def read_authority(
    certificate: Path, key: Path, *, passphrase: str | None, now: datetime
) -> tuple[list[x509.Certificate], CertificateIssuerPrivateKeyTypes]:
    """An authority's certificates, its own first, and its key, from files that fit together.

    Raises:
        UsageError: If they do not, cannot be read, or are no authority's.
        EnvironmentLackError: If cryptography is missing.
    """
    require("cryptography", extra="fleet")
    try:
        pem, secret = certificate.read_bytes(), key.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the authority cannot be read: {error.strerror or error}", where=str(error.filename)
        ) from error
    chain = read_chain(pem, str(certificate))
    private = read_private_key(secret, passphrase, str(key))
    check_authority(chain[0], private, str(certificate), now)
    if chain[-1].subject != chain[-1].issuer:
        raise UsageError(
            "the authorities above this one are missing",
            where=str(certificate),
            fix="put their certificates below its own, up to one that has signed itself: a broker "
            "and devices trust nothing less",
        )
    return chain, private


def check_authority(
    certificate: x509.Certificate,
    key: CertificateIssuerPrivateKeyTypes,
    where: str,
    now: datetime | None,
) -> None:
    """Go on only if a certificate is an authority's, its key is this, and it is not over `now`.

    Raises:
        UsageError: If it is not.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if certificate.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        raise UsageError("the authority's certificate and key do not belong together", where=where)
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        basic = None
    if basic is None or not basic.value.ca:
        raise UsageError("this is not the certificate of an authority", where=where)
    if now is not None and not now < certificate.not_valid_after_utc:
        raise UsageError(
            f"this authority has ended at {certificate.not_valid_after_utc}", where=where
        )


def serial_of(text: str) -> int:
    """The serial number of a certificate, given as a PEM file or as that number in hexadecimal.

    Raises:
        UsageError: If it is neither.
    """
    path = Path(text)
    if path.is_file():
        return read_chain(path.read_bytes(), text)[0].serial_number
    if not re.fullmatch(r"[0-9A-Fa-f]{1,40}", text) or not 0 < int(text, 16) < 1 << _SERIAL_BITS:
        raise UsageError(
            "this is neither a certificate's file nor a serial number",
            where=text[:80],
            fix="give a PEM file that is there, or the number in hexadecimal digits",
        )
    return int(text, 16)


def names_served(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses of a server that its certificate holds."""
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = found.get_values_for_type(x509.IPAddress)
    return (*found.get_values_for_type(x509.DNSName), *map(str, addresses))


def hash_for(key: CertificateIssuerPrivateKeyTypes) -> Any:
    """The hash that goes with a key: none for ed25519, which has its own."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def general_name(host: str) -> x509.GeneralName:
    """A DNS name or an IP address, as a certificate names it.

    Raises:
        UsageError: If it is neither.
    """
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise UsageError(f"{host!r} is no host name", fix="DNS names and IP addresses") from error


def to_pem(certificate: x509.Certificate) -> str:
    """A certificate in PEM."""
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
