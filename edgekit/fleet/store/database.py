"""Open the control plane's database, bring its tables up to date, and run transactions on it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.folder import Fleet
from edgekit_runtime.durable import write_bytes
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.orm import Session

DEFAULT_NAME: Final = "fleet.db"
_MARK: Final = "database.txt"
_BUSY_MS: Final = 15_000
# How long PostgreSQL may take to let us in, and when its line counts as dead: a machine that is
# gone, or a wall that drops packets, must hold nobody for as long as the kernel would.
_LINE: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# For a connection while all are in use.
_ROOM_SECONDS: Final = 15.0
_WRITES: Final = "edgekit_writes"
# Any fixed number: it names the lock that only one migrating process holds.
_MIGRATION_LOCK: Final = 7_310_457


class Database:
    """A database whose tables are up to date; may be used from many threads at once.

    Attributes:
        engine: SQLAlchemy's engine.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def where(self) -> str:
        """Its address, without the password."""
        return self.engine.url.render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file on this machine."""
        return self.engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads.

        Raises:
            EnvironmentLackError: If the database cannot be reached.
        """
        with self._transaction(writes=False) as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is kept whole at its end, or not at all if an error leaves it.

        Raises:
            EnvironmentLackError: If the database cannot be reached or written.
        """
        with self._transaction(writes=True) as session:
            yield session

    def wipe_log(self) -> None:
        """Leave nothing in SQLite's log of writes of what was deleted; PostgreSQL keeps its own.

        Waits for those who read; who reads longer than others wait for a lock is an error.

        Raises:
            EnvironmentLackError: If somebody reads for that long, or the file cannot be written.
        """
        if not self.is_sqlite:
            return
        with _faults_named(self.where), contextlib.closing(self.engine.raw_connection()) as opened:
            busy = opened.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise EnvironmentLackError(
                "what was deleted still stands in the log of writes: somebody reads all the time",
                where=f"{self.engine.url.database}-wal",
                fix="end what reads this database for so long; the log is emptied when the last "
                "program that uses the database ends",
            )

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Session]:
        from sqlalchemy.orm import Session

        with (
            _faults_named(self.where),
            self.engine.connect().execution_options(**{_WRITES: writes}) as connection,
            connection.begin(),
            Session(connection, expire_on_commit=False) as session,
        ):
            yield session
            if writes:
                session.flush()


def open_database(address: str | Path) -> Database:
    """Open a database, and make or change its tables as this version of edgekit needs them.

    Several processes may do so at once: one migrates, the others wait.

    Args:
        address: A file for SQLite, or a URL: `postgresql://user@host/name`.

    Raises:
        UsageError: If the address is none, or the tables are of a newer edgekit.
        EnvironmentLackError: If it cannot be reached, or a package is missing.
    """
    require("sqlalchemy", extra="fleet")
    require("alembic", extra="fleet")
    database = Database(_engine(_url(address)))
    try:
        with (
            _faults_named(database.where),
            database.engine.connect().execution_options(**{_WRITES: True}) as connection,
        ):
            _migrate(connection, database.where)
    except BaseException:
        database.close()
        raise
    return database


def open_fleet_database(fleet: Fleet, address: str | None = None) -> Database:
    """The database of a fleet: the one that is named, or `fleet.db` in its folder.

    A fleet has one: which it is stands in its folder once another than `fleet.db` was used. What
    an edgekit that kept rollouts and measurements as files has left is taken into it, and what
    was changed in the folder without it into its audit log.

    Raises:
        UsageError: As `open_database`; or if the fleet's database is another one.
        EnvironmentLackError: As `open_database`.
    """
    from edgekit.fleet.folder_changes import record_noted
    from edgekit.fleet.store.adoption import adopt_files

    require("sqlalchemy", extra="fleet")
    chosen = address or fleet.path / DEFAULT_NAME
    url = _url(chosen)
    is_new = _is_new(fleet, url, named=address is not None)
    database = open_database(chosen)
    try:
        if is_new:
            # Not before it was there: a slip would keep everybody from the right one.
            write_bytes(fleet.path / _MARK, f"{_shown(url)}\n".encode())
        adopt_files(fleet, database)
        record_noted(fleet, database)
    except BaseException:
        database.close()
        raise
    return database


def _is_new(fleet: Fleet, url: URL, *, named: bool) -> bool:
    """Whether it has to be written down that this is the fleet's database from now on.

    Two databases of one fleet would each tell devices what to run.
    """
    mark = fleet.path / _MARK
    shown = _shown(url)
    usual = _url(fleet.path / DEFAULT_NAME).render_as_string()
    try:
        known = mark.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        known = ""
    if named:
        return shown != known and (bool(known) or shown != usual)
    if known and known != shown:
        raise UsageError(
            "this fleet's database is another one",
            where=str(mark),
            fix=f"give --database or EDGEKIT_DATABASE, without a password it is {known}; "
            f"or --database {DEFAULT_NAME} in the fleet's folder to go back to that",
        )
    return False


def _shown(url: URL) -> str:
    return url.set(password=None).render_as_string()


def _url(address: str | Path) -> URL:
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    text = str(address)
    if "://" not in text:
        return URL.create("sqlite+pysqlite", database=text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        # The text may hold a password: it is not repeated.
        raise UsageError(
            "the database's address cannot be read",
            fix="write it as postgresql://USER:PASSWORD@HOST/NAME, or give a file for SQLite",
        ) from error
    kind = url.get_backend_name()
    if kind == "sqlite":
        return url.set(drivername="sqlite+pysqlite")
    if kind in ("postgresql", "postgres"):
        require("psycopg", extra="postgres")
        # libpq takes it there as well, and there nobody would hide it in errors and files.
        named = url.query.get("password")
        if isinstance(named, str):
            url = url.set(password=url.password or named)
        return url.difference_update_query(["password"]).set(drivername="postgresql+psycopg")
    raise UsageError(
        f"there is no support for the database {kind!r}",
        fix="take PostgreSQL (postgresql://…) or a file for SQLite",
    )


def _engine(url: URL) -> Engine:
    from sqlalchemy import create_engine, event

    if url.get_backend_name() != "sqlite":
        # A server that was restarted leaves dead connections in the pool: each is tried first.
        return create_engine(
            url,
            pool_pre_ping=True,
            pool_size=10,
            max_overflow=20,
            pool_timeout=_ROOM_SECONDS,
            connect_args=dict(_LINE),
        )
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        # Python's own transactions begin too late, and not at all for DDL: ours begin below.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        _use_write_ahead_log(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        # What is deleted is overwritten: not every SQLite is built to do so by itself.
        connection.execute("PRAGMA secure_delete=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes its lock at once: a reader that turns writer would fail, not wait.
        writes = connection.get_execution_options().get(_WRITES, True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    # The change of mode does not wait for other connections as statements do.
    deadline = time.monotonic() + _BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _migrate(connection: Connection, where: str) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from sqlalchemy import text

    config = migration_config()
    config.attributes["connection"] = connection
    with connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            head = ScriptDirectory.from_config(config).get_current_head()
            raise UsageError(
                f"the tables are not ones that this edgekit knows (it knows up to {head}): {error}",
                where=where,
                fix="use the version of edgekit that last changed this database, or a newer one",
            ) from error


def migration_config() -> Any:
    """Alembic's configuration for the migrations in this package."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "edgekit.fleet.store:migrations")
    return config


@contextlib.contextmanager
def _faults_named(where: str) -> Iterator[None]:
    """Turn what is wrong with the database itself into our error; a wrong statement stays one."""
    from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError
    from sqlalchemy.exc import TimeoutError as NoRoomError

    try:
        yield
    except NoRoomError as error:
        raise EnvironmentLackError(
            "the database cannot be used: all connections wait for it",
            where=where,
            fix="see whether it answers, and how long its statements take",
        ) from error
    except DBAPIError as error:
        # A damaged SQLite file is a DatabaseError; so are, as subclasses, all faults of statements.
        if not isinstance(error, OperationalError | InterfaceError) and (
            type(error) is not DatabaseError
        ):
            raise
        reason = str(error.orig or error).strip().splitlines()
        raise EnvironmentLackError(
            f"the database cannot be used: {reason[0] if reason else type(error).__name__}",
            where=where,
            fix="see whether it runs, is whole, is not full, and lets this user in",
        ) from error
