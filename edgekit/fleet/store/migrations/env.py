"""Alembic's entry: migrates on the connection, and in the transaction, that it is given."""

from __future__ import annotations

from alembic import context

from edgekit.fleet.store.tables import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    compare_type=True,
    # SQLite cannot change a column: the table is copied.
    render_as_batch=connection.dialect.name == "sqlite",
)
context.run_migrations()
