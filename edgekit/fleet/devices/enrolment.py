"""Take devices in: tokens that work once, and the certificates that devices get for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.access import ForbiddenError
from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.devices.certificates import (
    add_certificate,
    retire_certificates,
    valid_certificates,
)
from edgekit.fleet.devices.facts import MAX_LABELS, require_labels
from edgekit.fleet.devices.inventory import make_known, require_device
from edgekit.fleet.folder import Fleet
from edgekit.fleet.secret_tokens import is_genuine, make_token, token_id
from edgekit.fleet.store.errors import NotFoundError
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.protocol import require_id

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database
    from edgekit.fleet.store.tables import EnrolmentTokenRow

MAX_HOURS: Final = 24 * 365
_PREFIX: Final = "eke"
_HOUR: Final = 3_600.0


class RefusedTokenError(ForbiddenError):
    """A device may not come in with this token; `reason` says why without naming it."""

    def __init__(self, reason: str, *, what: str, fix: str, where: str | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentToken:
    """What is known of a token; moments are seconds since 1970.

    Attributes:
        id: Names it; no secret.
        device: The one that it is for, or that it took in; None for any that is new.
        labels: What the device gets.
        created: When it was made.
        created_by: By whom.
        expires: When it ends.
        used: When it took a device in, or None.
        revoked: When it was taken back, or None.
    """

    id: str
    device: str | None
    labels: dict[str, str]
    created: float
    created_by: str
    expires: float
    used: float | None
    revoked: float | None

    def standing(self, now: float) -> str:
        """What it is worth: "open", "used", "revoked" or "expired"."""
        if self.used is not None:
            return "used"
        if self.revoked is not None:
            return "revoked"
        return "open" if now < self.expires else "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What a device sends that wants to come in.

    Attributes:
        device: Its id.
        fleet: The fleet that it means.
        token: As its owner got it.
        request: A certificate signing request, PEM.
    """

    device: str
    fleet: str
    token: str
    request: str


def create_enrolment_token(
    database: Database,
    *,
    device: str | None = None,
    labels: Mapping[str, str] | None = None,
    hours: float = 24.0,
    actor: str,
    clock: Clock = utc_now,
) -> tuple[EnrolmentToken, str]:
    """Make a token that takes one device in.

    Args:
        database: Where it is known.
        device: Whose it is; it becomes known now. None for any device that has no certificate.
        labels: What the device gets when it comes in.
        hours: After how many it expires.
        actor: Who makes it.
        clock: The time.

    Returns:
        The token, and its text: shown once, and kept nowhere.

    Raises:
        UsageError: If the id, a label or the hours are none.
    """
    from edgekit.fleet.store.tables import EnrolmentTokenRow

    wanted = dict(labels or {})
    require_labels(wanted)
    if len(wanted) > MAX_LABELS:
        raise UsageError(f"a device has at most {MAX_LABELS} labels")
    if not 0 < hours <= MAX_HOURS:
        raise UsageError(
            f"a token cannot be good for {hours:g} hours",
            fix=f"give more than 0, at most {MAX_HOURS}",
        )
    now = clock().timestamp()
    if device is not None:
        require_id(device, kind="device")
    made = make_token(_PREFIX)
    row = EnrolmentTokenRow(
        id=made.id,
        device_id=device,
        secret_sha256=made.secret_sha256,
        labels=wanted,
        created=now,
        created_by=actor,
        expires=now + hours * _HOUR,
        used=None,
        revoked=None,
    )
    with database.write() as session:
        if device is not None:
            make_known(session, [device], now)
        session.add(row)
        session.flush()
        record(
            session,
            actor=actor,
            action="enrolment.token_created",
            subject=f"enrolment token {made.id}",
            detail={"hours": hours, "labels": wanted} | _named(session, device),
            clock=clock,
        )
    return _token(row), made.text


def list_enrolment_tokens(database: Database) -> tuple[EnrolmentToken, ...]:
    """All tokens, the newest first; used, expired and revoked ones too."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import EnrolmentTokenRow as Row

    with database.read() as session:
        rows = session.scalars(select(Row).order_by(Row.created.desc(), Row.id))
        return tuple(_token(row) for row in rows)


def revoke_enrolment_token(
    database: Database, identifier: str, *, actor: str, clock: Clock = utc_now
) -> None:
    """End a token at once; a device that it took in stays.

    Raises:
        NotFoundError: If there is none of that id.
    """
    from edgekit.fleet.store.tables import EnrolmentTokenRow

    with database.write() as session:
        row = session.get(EnrolmentTokenRow, identifier, with_for_update=True)
        if row is None:
            raise NotFoundError(
                f"there is no enrolment token {identifier!r}",
                fix="see: edgekit fleet enrolment list",
            )
        if row.revoked is None:
            row.revoked = clock().timestamp()
            record(
                session,
                actor=actor,
                action="enrolment.token_revoked",
                subject=f"enrolment token {identifier}",
                clock=clock,
            )


def take_in(
    database: Database, fleet: Fleet, application: Application, *, clock: Clock = utc_now
) -> str:
    """Give a device its certificate, and use up its token: both, or neither.

    With another key than before, the device's former certificates end. The same token again with
    the same key gives the same certificate: an answer may be lost on its way.

    Args:
        database: Where tokens and devices are.
        fleet: Whose authority signs.
        application: What the device sent.
        clock: The time.

    Returns:
        The certificate in PEM.

    Raises:
        RefusedTokenError: If the token does not let this device in; says why where the token is
            genuine, for then it is its owner who asks.
        UsageError: If the signing request is none or is for somebody else, or the fleet has no
            authority.
    """
    from edgekit.fleet.authority import FleetAuthority
    from edgekit.fleet.store.tables import EnrolmentTokenRow

    now = clock().timestamp()
    # Read first: whoever knocks without a token makes nobody wait who writes.
    with database.read() as session:
        identifier = _known_token(session, application.token)
    with database.write() as session:
        row = session.get_one(EnrolmentTokenRow, identifier, with_for_update=True)
        # Locked before it is seen what it has: with another token somebody may come as it now.
        make_known(session, [application.device], now)
        device = require_device(session, application.device, change=True)
        authority = FleetAuthority.load(fleet)
        again = _given_before(session, row, application, fleet)
        if again is not None:
            return again
        reason = _refusal(session, row, application, fleet, now)
        if reason:
            raise RefusedTokenError(
                reason,
                what=f"this enrolment token does not let {application.device} in: {reason}",
                where=f"enrolment token {row.id}",
                fix="ask for a new one: edgekit fleet enrolment create",
            )
        issued = authority.sign_request(application.request, device=application.device, clock=clock)
        device.labels = dict(sorted((device.labels | row.labels).items()))
        ended = retire_certificates(session, device.id, now)
        add_certificate(session, device.id, issued)
        row.used, row.device_id = now, device.id
        record(
            session,
            actor=f"enrolment token {row.id}",
            action="device.enrolled",
            subject=f"device {device.pseudonym}",
            detail={"serial": f"{issued.serial:x}", "ended_certificates": ended},
            clock=clock,
        )
    return issued.pem


def note_refusal(
    database: Database, application: Application, reason: str, *, clock: Clock = utc_now
) -> None:
    """Write down that somebody was not let in.

    Args:
        database: Where.
        application: What was sent: its token's id is noted, never its secret.
        reason: Why, without the device's name, for which its pseudonym stands.
        clock: The time.
    """
    identifier = token_id(_PREFIX, application.token)
    with database.write() as session:
        record(
            session,
            actor="enrolment",
            action="enrolment.refused",
            subject=f"enrolment token {identifier or 'of another form'}",
            detail={"reason": reason[:300]} | _named(session, application.device),
            clock=clock,
        )


def require_ready(fleet: Fleet) -> tuple[str, int]:
    """Where the fleet's broker is, once everything is there that a device has to be given.

    Raises:
        EnvironmentLackError: If something is missing.
    """
    from edgekit.fleet.authority import FleetAuthority

    try:
        FleetAuthority.load(fleet)
        _newest_root(fleet.image_metadata)
    except UsageError as error:
        raise EnvironmentLackError(error.what, where=error.where, fix=error.fix) from error
    # Read anew: it may have been published since this program was started.
    broker = Fleet.open(fleet.path).device_broker
    if broker is None:
        raise EnvironmentLackError(
            "this fleet has no broker yet", where=str(fleet.path), fix="run: edgekit fleet publish"
        )
    return broker.host, broker.port


def enrol_answer(fleet: Fleet, certificate: str, *, broker: tuple[str, int]) -> dict[str, Any]:
    """What a device that was taken in has to know; `edgekit_agent.identity.enrolment` reads it.

    Args:
        fleet: The fleet, for which `require_ready` holds.
        certificate: The device's, in PEM.
        broker: Host and port.
    """
    from edgekit.fleet.authority import FleetAuthority

    return {
        "fleet": fleet.id,
        "broker": {"host": broker[0], "port": broker[1]},
        "certificate": certificate,
        "authorities": FleetAuthority.load(fleet).authorities_pem,
        "image_root": _newest_root(fleet.image_metadata),
        "director_root": _newest_root(fleet.director_metadata),
    }


def _newest_root(folder: Path) -> str:
    found = [
        (int(path.name.partition(".")[0]), path)
        for path in folder.glob("*.root.json")
        if path.name.partition(".")[0].isdecimal()
    ]
    if not found:
        raise UsageError(
            "this fleet has no keys yet", where=str(folder), fix="make them: edgekit keys init"
        )
    return max(found)[1].read_text(encoding="utf-8")


def _refusal(
    session: Session, row: EnrolmentTokenRow, application: Application, fleet: Fleet, now: float
) -> str:
    standing = _token(row).standing(now)
    if standing != "open":
        return f"it is {standing}"
    if application.fleet != fleet.id:
        return f"it is for the fleet {fleet.id}, not for {application.fleet[:64]}"
    if row.device_id is not None and row.device_id != application.device:
        return "it was made for another device"
    if row.device_id is None and valid_certificates(session, application.device, now):
        # Or whoever has a token for a new device could become one that is there.
        return "a device of this id has a certificate; a token made for it by name replaces that"
    return ""


def _known_token(session: Session, text: str) -> str:
    """The id of a token whose secret is right.

    Raises:
        RefusedTokenError: If there is none.
    """
    from edgekit.fleet.store.tables import EnrolmentTokenRow

    identifier = token_id(_PREFIX, text)
    row = session.get(EnrolmentTokenRow, identifier) if identifier else None
    right = is_genuine(_PREFIX, text, row.secret_sha256 if row else None)
    if row is None or not right:
        raise RefusedTokenError(
            "it is not known",
            what="this enrolment token is not known",
            fix="ask for one: edgekit fleet enrolment create",
        )
    return row.id


def _given_before(
    session: Session, row: EnrolmentTokenRow, application: Application, fleet: Fleet
) -> str | None:
    """The certificate that this token has given to the very key that asks again."""
    from edgekit.fleet.devices.certificates import key_digest

    if row.used is None or row.revoked is not None or row.device_id != application.device:
        return None
    digest = key_digest(application.request, fleet=fleet.id, device=application.device)
    same = [c for c in valid_certificates(session, application.device, row.used) if c.key == digest]
    return same[-1].pem if same else None


def _named(session: Session, device: str | None) -> dict[str, str]:
    """A device as the audit log may know it: by its pseudonym, if it has one."""
    if device is None:
        return {}
    try:
        return {"device": require_device(session, device).pseudonym}
    except NotFoundError:
        return {}


def _token(row: EnrolmentTokenRow) -> EnrolmentToken:
    return EnrolmentToken(
        id=row.id,
        device=row.device_id,
        labels=row.labels,
        created=row.created,
        created_by=row.created_by,
        expires=row.expires,
        used=row.used,
        revoked=row.revoked,
    )
