"""An empty, migrated database for a test, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from edgekit.fleet.store.database import Database, open_database

_TEMPLATE = "edgekit_template"
_numbers = itertools.count()


@contextmanager
def sqlite_database(folder: Path) -> Iterator[Database]:
    database = open_database(folder / "fleet.db")
    try:
        yield database
    finally:
        database.close()


@contextmanager
def postgresql_database(server: str) -> Iterator[Database]:
    """A database of its own in a server; it is gone afterwards."""
    import psycopg

    name = f"edgekit_test_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    database = open_database(url_of(server, name))
    try:
        yield database
    finally:
        database.close()
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def make_template(server: str) -> None:
    """Migrate once; each test's database is a copy."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {_TEMPLATE}")
        connection.execute(f"CREATE DATABASE {_TEMPLATE}")
    open_database(url_of(server, _TEMPLATE)).close()


def url_of(server: str, name: str) -> str:
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
