"""Insert those of many rows that are new; the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
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


def _insert(session: Session) -> Any:
    from sqlalchemy.dialects import postgresql, sqlite

    is_sqlite = session.connection().dialect.name == "sqlite"
    return sqlite.insert if is_sqlite else postgresql.insert
