"""The elements of a JSON column as rows, so that the database adds up what stands in documents.

The same on SQLite and PostgreSQL, whose table functions differ in name alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import ColumnClause, ColumnElement, Function
    from sqlalchemy.orm import Session
    from sqlalchemy.sql.selectable import TableValuedAlias


def elements(session: Session, document: Any) -> TableValuedAlias:
    """A row for each element of an array: its `value`."""
    return _rows(session, document, "jsonb_array_elements", named=False)


def entries(session: Session, document: Any) -> TableValuedAlias:
    """A row for each entry of an object: its `key` and its `value`."""
    return _rows(session, document, "jsonb_each", named=True)


def number(value: ColumnElement[Any], at: str | int) -> ColumnElement[float]:
    """The number at a place of a document; exact below 2**53, and no sum of it overflows."""
    from sqlalchemy import Double, cast

    return cast(value[at].as_float(), Double)


def _rows(session: Session, document: Any, postgresql: str, *, named: bool) -> TableValuedAlias:
    from sqlalchemy import JSON, String, column, func
    from sqlalchemy.dialects.postgresql import JSONB

    key: ColumnClause[Any] = column("key", String)
    value: ColumnClause[Any] = column("value", JSON().with_variant(JSONB(), "postgresql"))
    is_postgresql = session.get_bind().dialect.name == "postgresql"
    rows: Function[Any] = getattr(func, postgresql if is_postgresql else "json_each")(document)
    return rows.table_valued(*((key, value) if named else (value,)))
