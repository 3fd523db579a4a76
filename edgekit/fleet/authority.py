"""The fleet's certificate authority: who may speak to its broker, and who may not any more.

For whoever takes devices in (`POST /v1/enrol`) or renews their certificates:

    authority = FleetAuthority.load(fleet)            # made by `edgekit fleet init`
    issued = authority.sign_request(request_pem, device="oven-001", days=90)
    issued.pem, issued.serial, issued.expires         # keep the serial: it is what revokes it
    authority.authorities_pem                         # what a device must trust of the broker
    authority.revoke([issued.serial])                 # makes the list of revoked ones anew

The certificate's common name is the device's id: the broker's access list knows it by that name
alone. The revocation list is the authority's whole memory; the broker reads the copy that
`edgekit.fleet.broker_setup.install_revocations` puts into its folder.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.certificates import (
    check_authority,
    general_name,
    hash_for,
    read_authority,
    read_chain,
    read_private_key,
    requested_key,
    start_certificate,
    subject_of,
    to_pem,
)
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.folder import Fleet
from edgekit.fleet.secret_files import write_secret
from edgekit_runtime.durable import sync_folder, unwritable, write_bytes
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from edgekit_runtime.extras import require
from edgekit_runtime.protocol import require_id

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificateIssuerPrivateKeyTypes,
        CertificatePublicKeyTypes,
    )

CERTIFICATE: Final = "ca.pem"
KEY: Final = "ca-key.pem"
REVOKED: Final = "crl.pem"
DEVICE_DAYS: Final = 90
SERVER_DAYS: Final = 825
_AUTHORITY_DAYS: Final = 20 * 365
_LOCK: Final = ".authority-lock"
_PATIENCE_SECONDS: Final = 10.0
# X.509 allows no more in a common name (RFC 5280, ub-common-name).
_MOST_NAME: Final = 64
# The clocks of devices run behind.
_BACKDATED: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A certificate that the authority has signed.

    Attributes:
        name: Its common name: a device's id.
        pem: The certificate itself.
        serial: Its number, 160 bits at most; what `revoke` takes.
        expires: When it ends.
    """

    name: str
    pem: str
    serial: int
    expires: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetAuthority:
    """A certificate and its key, ready to sign.

    Attributes:
        fleet: Whose authority it is.
        certificate: Its own certificate.
        authorities_pem: That certificate, and those above it where it is not the topmost.
    """

    fleet: Fleet
    certificate: x509.Certificate
    authorities_pem: str
    _key: CertificateIssuerPrivateKeyTypes

    @classmethod
    def create(cls, fleet: Fleet, *, clock: Clock = utc_now) -> FleetAuthority:
        """Make an authority for a fleet that has none, with a key of its own (P-256).

        It appears all at once, as the last step.

        Raises:
            UsageError: If the fleet has one already.
            EnvironmentLackError: If the folder cannot be written, or cryptography is missing.
        """
        require("cryptography", extra="fleet")
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = subject_of(fleet.id, f"{fleet.id} authority"[:_MOST_NAME])
        builder = start_certificate(name, key.public_key(), name, key.public_key(), authority=True)
        now = clock()
        builder = builder.not_valid_before(now - _BACKDATED)
        builder = builder.not_valid_after(now + timedelta(days=_AUTHORITY_DAYS))
        certificate = builder.sign(key, hash_for(key))
        return cls._install(fleet, certificate, to_pem(certificate), key, clock)

    @classmethod
    def adopt(
        cls,
        fleet: Fleet,
        certificate: Path,
        key: Path,
        *,
        passphrase: str | None = None,
        clock: Clock = utc_now,
    ) -> FleetAuthority:
        """Take an authority that exists: of a company, or one made for this fleet by it.

        Args:
            fleet: Whose authority it will be.
            certificate: PEM: the authority's own first, then those above it.
            key: Its private key, PEM.
            passphrase: Of the key, if it has one; the fleet's copy has none.
            clock: The time.

        Raises:
            UsageError: If the fleet has one already, the files do not fit together, or the
                certificate is no authority's or over.
        """
        chain, private = read_authority(certificate, key, passphrase=passphrase, now=clock())
        return cls._install(fleet, chain[0], "".join(map(to_pem, chain)), private, clock)

    @classmethod
    def load(cls, fleet: Fleet) -> FleetAuthority:
        """The authority of a fleet.

        Raises:
            UsageError: If the fleet has none.
            VerificationError: If its files are damaged or do not belong together.
        """
        require("cryptography", extra="fleet")
        folder = folder_of(fleet)
        if not (folder / CERTIFICATE).exists():
            raise UsageError(
                "this fleet has no certificate authority",
                where=str(fleet.path),
                fix="make one: edgekit fleet authority init",
            )
        try:
            text, secret = (folder / CERTIFICATE).read_bytes(), (folder / KEY).read_bytes()
        except OSError as error:
            raise EnvironmentLackError(
                f"the authority cannot be read: {error.strerror or error}",
                where=str(error.filename),
                fix="run this as the fleet's user; or take the file from a backup",
            ) from error
        try:
            chain = read_chain(text, str(folder / CERTIFICATE))
            private = read_private_key(secret, None, str(folder / KEY))
            check_authority(chain[0], private, str(folder / CERTIFICATE), None)
        except UsageError as error:
            raise VerificationError(
                error.what, where=error.where, fix="take the file from a backup"
            ) from error
        return cls(
            fleet=fleet, certificate=chain[0], authorities_pem=text.decode("ascii"), _key=private
        )

    def sign_request(
        self, request: str, *, device: str, days: float = DEVICE_DAYS, clock: Clock = utc_now
    ) -> IssuedCertificate:
        """A certificate for a device that asks with a signing request for its own id.

        Of the request only the name and the key count: what else it asks for is not granted.

        Args:
            request: PKCS#10 in PEM.
            device: The id that the device has proven to be its own.
            days: How long it holds, at most as long as the authority itself.
            clock: The time of signing.

        Raises:
            UsageError: If the request is none, is for another name or fleet, is not signed by
                its own key, or its key is too weak.
        """
        require_id(device, kind="device")
        key = requested_key(request, fleet=self.fleet.id, device=device)
        return self._issue(device, key, days=days, hosts=(), clock=clock)

    def issue(
        self,
        name: str,
        *,
        hosts: tuple[str, ...] = (),
        days: float = SERVER_DAYS,
        clock: Clock = utc_now,
    ) -> tuple[IssuedCertificate, bytes]:
        """A certificate for a new key, and that key in PEM (PKCS#8, unencrypted).

        Args:
            name: The common name.
            hosts: DNS names and IP addresses: with any it is a server's certificate, without a
                client's. Neither serves as the other.
            days: How long it holds.
            clock: The time of signing.

        Raises:
            UsageError: If a name is invalid.
        """
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._issue(name, key.public_key(), days=days, hosts=hosts, clock=clock)
        return issued, key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def revoke(self, serials: Iterable[int], *, clock: Clock = utc_now) -> None:
        """Take certificates back, for good; those that are taken back already stay so.

        The broker knows it when it has the new list: `install_revocations`.

        Raises:
            VerificationError: If the list of those revoked until now is damaged.
            EnvironmentLackError: If the list cannot be written.
        """
        with self.held():
            known = self.revoked()
            new = {serial: clock() for serial in serials}
            number = self._revocations_number() + 1
            _write_revocations(self._list(new | known, number, clock), folder_of(self.fleet))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the list of revoked certificates as it is, while it is copied.

        Raises:
            EnvironmentLackError: If somebody else holds it for long.
        """
        # Not the lock of those who sign orders: a device is shut out while a rollout goes on.
        with self.fleet.locked(_LOCK, wait_s=_PATIENCE_SECONDS):
            yield

    def revoked(self) -> dict[int, datetime]:
        """The serials of all that are revoked, and since when.

        Raises:
            VerificationError: If the list is missing or damaged, or somebody else has signed it.
        """
        return {
            entry.serial_number: entry.revocation_date_utc for entry in self._read_revocations()
        }

    @property
    def revocations(self) -> Path:
        """The file of the revocation list, PEM."""
        return folder_of(self.fleet) / REVOKED

    @classmethod
    def _install(
        cls,
        fleet: Fleet,
        certificate: x509.Certificate,
        authorities: str,
        key: CertificateIssuerPrivateKeyTypes,
        clock: Clock,
    ) -> FleetAuthority:
        from cryptography.hazmat.primitives import serialization

        made = cls(fleet=fleet, certificate=certificate, authorities_pem=authorities, _key=key)
        folder = folder_of(fleet)
        with fleet.locked():
            if folder.exists():
                raise UsageError(
                    "this fleet has a certificate authority already, and it is never overwritten",
                    where=str(folder),
                    fix="use it; a new one would shut every device out",
                )
            try:
                # mkdtemp makes a folder that only its owner may enter.
                staging = Path(tempfile.mkdtemp(prefix=".authority-", dir=fleet.path))
                try:
                    write_secret(
                        staging / KEY,
                        key.private_bytes(
                            serialization.Encoding.PEM,
                            serialization.PrivateFormat.PKCS8,
                            serialization.NoEncryption(),
                        ),
                    )
                    write_bytes(staging / CERTIFICATE, authorities.encode())
                    _write_revocations(made._list({}, 1, clock), staging)
                    staging.replace(folder)
                    sync_folder(fleet.path)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
            except OSError as error:
                raise unwritable(folder, error) from error
        return made

    def _issue(
        self,
        name: str,
        key: CertificatePublicKeyTypes,
        *,
        days: float,
        hosts: tuple[str, ...],
        clock: Clock,
    ) -> IssuedCertificate:
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        if not 0 < len(name) <= _MOST_NAME:
            raise UsageError(f"{name!r} is no name for a certificate", fix="1 to 64 characters")
        now = clock()
        ends = min(now + timedelta(days=days), self.certificate.not_valid_after_utc)
        if not now < ends:
            raise UsageError(
                "a certificate must end after it begins, and before its authority does",
                where=name,
                fix=f"ask for some days; the authority ends {self.certificate.not_valid_after_utc}",
            )
        issuer = self.certificate.subject
        authority = self.certificate.public_key()
        builder = start_certificate(
            subject_of(self.fleet.id, name), key, issuer, authority, authority=False
        )
        builder = builder.not_valid_before(now - _BACKDATED).not_valid_after(ends)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        made = builder.sign(self._key, hash_for(self._key))
        return IssuedCertificate(
            name=name,
            pem=to_pem(made),
            serial=made.serial_number,
            expires=made.not_valid_after_utc,
        )

    def _list(self, revoked: dict[int, datetime], number: int, clock: Clock) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization

        now = clock()
        # A list that is over shuts everybody out: it holds as long as the authority. Its
        # freshness is not proven by its date, for it lies beside the broker.
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - _BACKDATED)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        for serial, since in sorted(revoked.items()):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since)
            builder = builder.add_revoked_certificate(entry.build())
        made = builder.sign(self._key, hash_for(self._key))
        return made.public_bytes(serialization.Encoding.PEM)

    def _read_revocations(self) -> x509.CertificateRevocationList:
        from cryptography import x509

        try:
            found = x509.load_pem_x509_crl(self.revocations.read_bytes())
        except (OSError, ValueError) as error:
            raise self._bad_list(f"is missing or damaged: {error}") from error
        key: Any = self.certificate.public_key()
        if not found.is_signature_valid(key):
            raise self._bad_list("is not signed by this authority")
        return found

    def _revocations_number(self) -> int:
        from cryptography import x509

        return (
            self._read_revocations()
            .extensions.get_extension_for_class(x509.CRLNumber)
            .value.crl_number
        )

    def _bad_list(self, why: str) -> VerificationError:
        return VerificationError(
            f"the list of revoked certificates {why}",
            where=str(self.revocations),
            fix="take it from a backup, or from the broker's folder",
        )


def folder_of(fleet: Fleet) -> Path:
    """Where a fleet's authority is: its certificate, its key, and the list of revoked ones."""
    return fleet.path / "authority"


def _write_revocations(pem: bytes, folder: Path) -> None:
    write_bytes(folder / REVOKED, pem)
