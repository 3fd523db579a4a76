"""Label queries with names: `berlin` for `site=berlin and ram>=1GB`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.rollouts.labels import parse_query
from edgekit.fleet.store.errors import NotFoundError
from edgekit.fleet.store.inserts import insert_new
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database

_NAME: Final = r"[A-Za-z][A-Za-z0-9._-]{0,63}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A query with a name; its devices are those that match when it is asked."""

    name: str
    query: str


def save_group(
    database: Database, name: str, query: str, *, actor: str, clock: Clock = utc_now
) -> Group:
    """Make a group, or give one another query.

    Raises:
        UsageError: If the name is none, or the query breaks the grammar.
    """
    from edgekit.fleet.store.tables import GroupRow

    if not re.fullmatch(_NAME, name):
        raise UsageError(
            f"{name[:80]!r} is no name of a group",
            fix="use at most 64 letters, digits, dots, dashes, underscores; a letter first",
        )
    text = parse_query(query).text
    with database.write() as session:
        new = {"name": name, "query": text, "created": clock().timestamp()}
        insert_new(session, GroupRow, [new], returning=["name"])
        session.get_one(GroupRow, name, with_for_update=True).query = text
        record(
            session,
            actor=actor,
            action="group.saved",
            subject=f"group {name}",
            detail={"query": text},
            clock=clock,
        )
    return Group(name=name, query=text)


def delete_group(database: Database, name: str, *, actor: str, clock: Clock = utc_now) -> None:
    """Forget a group; its devices stay as they are.

    Raises:
        NotFoundError: If there is none of that name.
    """
    from edgekit.fleet.store.tables import GroupRow

    with database.write() as session:
        row = session.get(GroupRow, name, with_for_update=True)
        if row is None:
            raise NotFoundError(f"there is no group {name!r}", fix="see: edgekit fleet groups list")
        session.delete(row)
        record(session, actor=actor, action="group.deleted", subject=f"group {name}", clock=clock)


def list_groups(database: Database) -> tuple[Group, ...]:
    """All groups, by name."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import GroupRow

    with database.read() as session:
        rows = session.scalars(select(GroupRow).order_by(GroupRow.name))
        return tuple(Group(name=row.name, query=row.query) for row in rows)
