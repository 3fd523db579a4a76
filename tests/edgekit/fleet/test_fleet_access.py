from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from edgekit.fleet.access import (
    ForbiddenError,
    Role,
    UnknownTokenError,
    check_token,
    create_token,
    has_admin,
    list_tokens,
    revoke_token,
)
from edgekit.fleet.audit import read_audit
from edgekit.fleet.store.database import Database
from edgekit_runtime.errors import UsageError

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def later(days: float) -> datetime:
    return NOW + timedelta(days=days)


def make(database: Database, role: Role = Role.OPERATOR, days: int | None = 30) -> tuple[str, str]:
    token, secret = create_token(
        database, name="alice", role=role, days=days, actor="root", clock=lambda: NOW
    )
    return token.id, secret


def test_a_token_says_who_and_what(database: Database) -> None:
    _, secret = make(database)
    access = check_token(database, secret, clock=lambda: later(29))
    assert (access.name, access.role) == ("alice", Role.OPERATOR)
    assert list_tokens(database)[0].last_used == later(29).timestamp()


def test_nothing_in_the_database_lets_anybody_in(database: Database) -> None:
    identifier, secret = make(database)
    with database.read() as session:
        rows = [
            str(tuple(row))
            for table in ("tokens", "audit")
            for row in session.execute(text(f"SELECT * FROM {table}"))  # noqa: S608 - our names
        ]
    assert len(rows) == 2
    assert all(secret.split("_", 2)[2] not in row for row in rows)
    (stored,) = [row for row in rows if identifier in row and "alice" in row and "{" not in row]
    digest = next(word for word in stored.split("'") if len(word) == 64)
    with pytest.raises(UnknownTokenError):
        check_token(database, f"ekt_{identifier}_{digest[:43]}")


def test_an_expired_a_revoked_and_a_wrong_token_are_refused_alike(database: Database) -> None:
    identifier, secret = make(database)
    messages = set()
    other = make(database)[1]
    wrong = f"ekt_{identifier}_{other.split('_', 2)[2]}"
    for attempt in ("", "nonsense", "ekt_" + "0" * 16 + "_" + "a" * 43, wrong, secret[:-1]):
        with pytest.raises(UnknownTokenError) as caught:
            check_token(database, attempt, clock=lambda: NOW)
        messages.add(str(caught.value))
    with pytest.raises(UnknownTokenError) as caught:
        check_token(database, secret, clock=lambda: later(30))
    messages.add(str(caught.value))
    check_token(database, secret, clock=lambda: NOW)
    revoke_token(database, identifier, actor="root", clock=lambda: NOW)
    with pytest.raises(UnknownTokenError) as caught:
        check_token(database, secret, clock=lambda: NOW)
    messages.add(str(caught.value))
    assert len(messages) == 1


def test_every_role_may_do_what_those_before_it_may(database: Database) -> None:
    roles = list(Role)
    for position, role in enumerate(roles):
        access = check_token(database, make(database, role)[1], clock=lambda: NOW)
        for other in roles[: position + 1]:
            access.require(other)
        for other in roles[position + 1 :]:
            with pytest.raises(ForbiddenError, match=f"alice is {role.value}"):
                access.require(other)


def test_a_revocation_is_written_down_once(database: Database) -> None:
    identifier, _ = make(database)
    for _ in range(2):
        revoke_token(database, identifier, actor="root")
    with database.read() as session:
        actions = [entry.action for entry in read_audit(session)]
    assert actions == ["token.revoked", "token.created"]
    with pytest.raises(UsageError, match="no token 'abc'"):
        revoke_token(database, "abc", actor="root")


def test_whether_somebody_can_make_tokens_is_known(database: Database) -> None:
    assert not has_admin(database, clock=lambda: NOW)
    make(database, Role.OPERATOR)
    assert not has_admin(database, clock=lambda: NOW)
    identifier, _ = make(database, Role.ADMIN)
    assert has_admin(database, clock=lambda: NOW)
    assert not has_admin(database, clock=lambda: later(31))
    revoke_token(database, identifier, actor="root")
    assert not has_admin(database, clock=lambda: NOW)


@pytest.mark.parametrize(
    ("name", "days"), [("", 1), ("a\nb", 1), ("x" * 65, 1), ("a", 0), ("a", 9999)]
)
def test_a_token_that_makes_no_sense_is_not_made(database: Database, name: str, days: int) -> None:
    with pytest.raises(UsageError):
        create_token(database, name=name, role=Role.VIEWER, days=days, actor="root")
    assert list_tokens(database) == ()
