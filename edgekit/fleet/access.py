"""Who may do what: tokens with roles; of a token's secret only a hash is kept."""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.secret_tokens import is_genuine, make_token, token_id
from edgekit.fleet.store.errors import NotFoundError
from edgekit.wording import plural
from edgekit_runtime.errors import GateFailedError, UsageError

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database
    from edgekit.fleet.store.tables import TokenRow

_NAME: Final = r"[^\x00-\x1f\x7f]{1,64}"
_PREFIX: Final = "ekt"
_SECRET_BYTES: Final = 32
# Written down at most this often, so that a reader is no writer.
_USE_NOTED_SECONDS: Final = 300.0
MAX_DAYS: Final = 3650


class Role(StrEnum):
    """What a token is for; each role may also do what those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    RELEASE_MANAGER = "release-manager"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether this role may do what the other may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class UnknownTokenError(GateFailedError):
    """There is no such token, or it is expired or revoked: which of these is not said."""


class ForbiddenError(GateFailedError):
    """The token's role may not do this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Somebody who showed who they are.

    Attributes:
        name: Of the person or program; two tokens of one name are one person.
        role: What they may do.
    """

    name: str
    role: Role

    def require(self, role: Role) -> None:
        """Go on only if this role is included.

        Raises:
            ForbiddenError: If it is not.
        """
        if not self.role.includes(role):
            raise ForbiddenError(
                f"{self.name} is {self.role.value} and may not do this",
                fix=f"ask somebody who is {role.value}, or an admin for another token",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is known of a token; moments are seconds since 1970."""

    id: str
    name: str
    role: Role
    created: float
    expires: float | None
    revoked: float | None
    last_used: float | None


def local_actor() -> str:
    """Who works at this machine's command line, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except OSError:
        return "cli"


def create_token(
    database: Database,
    *,
    name: str,
    role: Role,
    days: int | None,
    actor: str,
    clock: Clock = utc_now,
) -> tuple[Token, str]:
    """Make a token.

    Args:
        database: Where it is known.
        name: Of the person or program.
        role: What it may do.
        days: After how many it expires; None for never.
        actor: Who makes it.
        clock: The time.

    Returns:
        The token, and its text: shown once, and kept nowhere.

    Raises:
        UsageError: If the name or the days are none.
    """
    from edgekit.fleet.store.tables import TokenRow

    if not re.fullmatch(_NAME, name):
        raise UsageError("a token's name is 1 to 64 characters, on one line", where=name[:80])
    if days is not None and not 1 <= days <= MAX_DAYS:
        raise UsageError(
            f"a token cannot be good for {plural(days, 'day')}", fix=f"give 1 to {MAX_DAYS}"
        )
    now = clock().timestamp()
    made = make_token(_PREFIX)
    row = TokenRow(
        id=made.id,
        name=name,
        role=role.value,
        secret_sha256=made.secret_sha256,
        created=now,
        expires=None if days is None else now + days * 86_400.0,
        revoked=None,
        last_used=None,
    )
    with database.write() as session:
        session.add(row)
        record(
            session,
            actor=actor,
            action="token.created",
            subject=f"token {made.id}",
            detail={"name": name, "role": role.value, "days": days},
            clock=clock,
        )
    return _token(row), made.text


def revoke_token(
    database: Database, identifier: str, *, actor: str, clock: Clock = utc_now
) -> None:
    """End a token at once; one that is revoked stays so.

    Raises:
        NotFoundError: If there is none of that id.
    """
    from edgekit.fleet.store.tables import TokenRow

    with database.write() as session:
        row = session.get(TokenRow, identifier, with_for_update=True)
        if row is None:
            raise NotFoundError(
                f"there is no token {identifier!r}", fix="see: edgekit fleet token list"
            )
        if row.revoked is None:
            row.revoked = clock().timestamp()
            record(
                session,
                actor=actor,
                action="token.revoked",
                subject=f"token {identifier}",
                detail={"name": row.name},
                clock=clock,
            )


def list_tokens(database: Database) -> tuple[Token, ...]:
    """All tokens, the newest first; revoked and expired ones too."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import TokenRow

    with database.read() as session:
        rows = session.scalars(select(TokenRow).order_by(TokenRow.created.desc(), TokenRow.id))
        return tuple(_token(row) for row in rows)


def check_token(database: Database, text: str, *, clock: Clock = utc_now) -> Access:
    """Who shows this token.

    Raises:
        UnknownTokenError: If it is none, or not valid any more.
        EnvironmentLackError: If the database cannot be reached.
    """
    from edgekit.fleet.store.tables import TokenRow

    now = clock().timestamp()
    identifier = token_id(_PREFIX, text)
    row = None
    if identifier:
        with database.read() as session:
            row = session.get(TokenRow, identifier)
    right = is_genuine(_PREFIX, text, row.secret_sha256 if row else None)
    if row is None or not right or not _is_valid(row, now):
        raise UnknownTokenError(
            "this token is not known, or not valid any more",
            fix="ask an admin for one: edgekit fleet token create",
        )
    if row.last_used is None or now - row.last_used > _USE_NOTED_SECONDS:
        with database.write() as session:
            session.get_one(TokenRow, row.id).last_used = now
    return Access(name=row.name, role=Role(row.role))


def has_admin(database: Database, *, clock: Clock = utc_now) -> bool:
    """Whether there is a valid token that can make others."""
    now = clock().timestamp()
    return any(
        token.role is Role.ADMIN and _is_valid(token, now) for token in list_tokens(database)
    )


def _is_valid(token: Token | TokenRow, now: float) -> bool:
    return token.revoked is None and (token.expires is None or now < token.expires)


def _token(row: TokenRow) -> Token:
    return Token(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
        last_used=row.last_used,
    )
