"""Insert rows, one or many, those that are new or all; the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.tables import Base

Values = dict[str, Any]


def insert_new(
    session: Session, table: type[Base], rows: Sequence[Values], *, returning: Sequence[str]
) -> list[Row[Any]]:
    """Insert the rows that break no unique constraint.

    Returns:
        The given columns of those that were new, in any order.
    """
    if not rows:
        return []
    columns = [getattr(table, name) for name in returning]
    statement = _insert(session)(table).on_conflict_do_nothing().returning(*columns)
    return list(session.execute(statement, list(rows)))


def put_rows(
    session: Session,
    table: type[Base],
    rows: Sequence[Values],
    *,
    added: Collection[str] = (),
) -> None:
    """Insert rows, or change those that are there: columns in `added` grow by what is given."""
    if not rows:
        return
    columns = table.__table__.columns
    keys = {column.name for column in table.__table__.primary_key}
    statement = _insert(session)(table.__table__)
    changes = {
        name: columns[name] + statement.excluded[name]
        if name in added
        else statement.excluded[name]
        for name in rows[0]
        if name not in keys
    }
    changing = statement.on_conflict_do_update(index_elements=sorted(keys), set_=changes)
    # Core, not the mapper: it would ask for every row by itself. What returns something goes to
    # the database as one statement of many rows, not as many statements.
    returned = changing.returning(columns[min(keys)])
    session.connection().execute(returned, list(rows)).close()


def write_alone(session: Session, table: type[Base]) -> None:
    """Let nobody else write to a table until the transaction ends; reading goes on.

    For whoever looks whether a row is there before making it: on SQLite a writer is alone anyway,
    on PostgreSQL two would both see that it is not. Call it before any row is locked: others
    write to rows that they have locked, and would wait for us while we wait for them.
    """
    from sqlalchemy import text

    if session.connection().dialect.name == "postgresql":
        name = table.__table__.name  # type: ignore[attr-defined]
        session.execute(text(f'LOCK TABLE "{name}" IN SHARE ROW EXCLUSIVE MODE'))


def _insert(session: Session) -> Any:
    from sqlalchemy.dialects import postgresql, sqlite

    is_sqlite = session.connection().dialect.name == "sqlite"
    return sqlite.insert if is_sqlite else postgresql.insert
