"""The certificates that devices of this fleet hold: which are valid, and how they end."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.devices.inventory import require_device
from edgekit.fleet.folder import Fleet
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.authority import IssuedCertificate
    from edgekit.fleet.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCertificate:
    """A certificate; moments are seconds since 1970.

    Attributes:
        serial: Its number in hex.
        key: SHA-256 of the public key.
        begins: From when it is valid.
        ends: Until when.
        revoked: When it was taken back, or None.
        pem: The certificate itself.
    """

    serial: str
    key: str
    begins: float
    ends: float
    revoked: float | None
    pem: str


def certificates_of(database: Database, device: str) -> tuple[DeviceCertificate, ...]:
    """All certificates of a device, by id or pseudonym, the newest first.

    Raises:
        NotFoundError: If there is no such device.
    """
    with database.read() as session:
        return _read(session, require_device(session, device).id)[::-1]


def valid_certificates(session: Session, device: str, now: float) -> list[DeviceCertificate]:
    """Those that are neither revoked nor over, the newest last."""
    return [c for c in _read(session, device) if c.revoked is None and now < c.ends]


def add_certificate(session: Session, device: str, issued: IssuedCertificate) -> None:
    """Remember a certificate that was signed for a device."""
    from cryptography import x509

    from edgekit.fleet.store.tables import CertificateRow

    made = x509.load_pem_x509_certificate(issued.pem.encode())
    session.add(
        CertificateRow(
            serial=f"{issued.serial:x}",
            device_id=device,
            key_sha256=_digest(made.public_key()),
            begins=made.not_valid_before_utc.timestamp(),
            ends=made.not_valid_after_utc.timestamp(),
            revoked=None,
            pem=issued.pem,
        )
    )


def key_digest(request: str, *, fleet: str, device: str) -> str:
    """SHA-256 of the public key of a signing request that is for this device.

    Raises:
        UsageError: If it is none, or for somebody else.
    """
    from edgekit.fleet.certificates import requested_key

    return _digest(requested_key(request, fleet=fleet, device=device))


def retire_certificates(session: Session, device: str, now: float) -> int:
    """Mark all of a device's certificates as revoked; how many were not.

    `spread_revocations` tells the broker.
    """
    from sqlalchemy import update

    from edgekit.fleet.store.tables import CertificateRow as Row

    done = session.execute(
        update(Row).where(Row.device_id == device, Row.revoked.is_(None)).values(revoked=now)
    )
    count: int = done.rowcount  # type: ignore[attr-defined]
    return count


def revoke_device(
    database: Database, fleet: Fleet, device: str, *, actor: str, clock: Clock = utc_now
) -> int:
    """Take all certificates of a device back, and make the broker's list anew.

    Interrupted after the database, do it again: the list is made from what stands there.

    Returns:
        How many certificates were valid until now.

    Raises:
        UsageError: If there is no such device, it has no certificate of this fleet, or the fleet
            has no authority.
    """
    from edgekit.fleet.authority import FleetAuthority

    FleetAuthority.load(fleet)
    with database.write() as session:
        row = require_device(session, device, change=True)
        if not _read(session, row.id):
            raise UsageError(
                f"{device} has no certificate of this fleet",
                fix="what another authority has signed, that authority has to take back",
            )
        count = retire_certificates(session, row.id, clock().timestamp())
        if count:
            record(
                session,
                actor=actor,
                action="device.certificates_revoked",
                subject=f"device {row.pseudonym}",
                detail={"certificates": count},
                clock=clock,
            )
    spread_revocations(database, fleet, clock=clock)
    return count


def spread_revocations(database: Database, fleet: Fleet, *, clock: Clock = utc_now) -> int:
    """Put every revoked certificate on the authority's list, and that into the broker's folder.

    Returns:
        How many were new there. mosquitto reads the list when it gets a SIGHUP.

    Raises:
        UsageError: If the fleet has no authority.
        EnvironmentLackError: If the list cannot be written, or the broker is not told of it.
    """
    from sqlalchemy import select

    from edgekit.fleet.authority import REVOKED, FleetAuthority
    from edgekit.fleet.broker_changes import tell_broker
    from edgekit.fleet.broker_setup import broker_folder, install_revocations
    from edgekit.fleet.store.tables import CertificateRow as Row

    with database.read() as session:
        serials = session.scalars(select(Row.serial).where(Row.revoked.is_not(None))).all()
    authority = FleetAuthority.load(fleet)
    new = {int(serial, 16) for serial in serials} - set(authority.revoked())
    if new:
        authority.revoke(sorted(new), clock=clock)
    # A fleet that was made without a broker's folder has its broker elsewhere.
    copy = broker_folder(fleet) / REVOKED
    if copy.is_file():
        if copy.read_bytes() != authority.revocations.read_bytes():
            install_revocations(authority)
        # Or it was not told the last time.
        tell_broker(fleet, copy.parent)
    return len(new)


def _read(session: Session, device: str) -> tuple[DeviceCertificate, ...]:
    from sqlalchemy import select

    from edgekit.fleet.store.tables import CertificateRow as Row

    query = select(Row).where(Row.device_id == device).order_by(Row.begins, Row.ends, Row.serial)
    return tuple(
        DeviceCertificate(
            serial=row.serial,
            key=row.key_sha256,
            begins=row.begins,
            ends=row.ends,
            revoked=row.revoked,
            pem=row.pem,
        )
        for row in session.scalars(query)
    )


def _digest(key: object) -> str:
    from cryptography.hazmat.primitives import serialization

    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    der: bytes = key.public_bytes(*form)  # type: ignore[attr-defined]
    return hashlib.sha256(der).hexdigest()
