from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import IntegrityError

from edgekit.fleet.folder import Fleet
from edgekit.fleet.store.database import (
    Database,
    migration_config,
    open_database,
    open_fleet_database,
)
from edgekit.fleet.store.tables import Base, DeviceBundleRow, DeviceRow, SettingRow
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from simulators.databases import url_of
from simulators.postgres import NoServerError, PostgresServer


def device(name: str) -> DeviceRow:
    return DeviceRow(
        id=name,
        pseudonym=name,
        first_seen=1.0,
        online=True,
        agent="",
        order_version=0,
        labels={},
        hardware={"ram_bytes": 2**40},
        state={},
    )


def bundle_of(name: str) -> DeviceBundleRow:
    return DeviceBundleRow(
        device_id=name, bundle="digits", active="1.0.0", variant="", phase="active", reason=""
    )


def test_migrations_and_models_agree(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_migration_can_be_taken_back(database: Database) -> None:
    config = migration_config()
    with database.engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
        command.upgrade(config, "head")
        assert set(inspect(connection).get_table_names()) > set(Base.metadata.tables)


def test_a_transaction_is_kept_whole_or_not_at_all(database: Database) -> None:
    with database.write() as session:
        session.add(device("a"))

    def cut_short() -> None:
        with database.write() as session:
            session.add(device("b"))
            session.flush()
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        cut_short()
    with database.read() as session:
        assert session.scalars(select(DeviceRow.id)).all() == ["a"]
        assert session.get_one(DeviceRow, "a").hardware == {"ram_bytes": 2**40}


def test_what_refers_to_nothing_is_refused(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(bundle_of("ghost"))


def test_what_belongs_to_a_device_goes_with_it(database: Database) -> None:
    with database.write() as session:
        session.add(device("a"))
        session.flush()
        session.add(bundle_of("a"))
    with database.write() as session:
        session.execute(text("DELETE FROM devices"))
    with database.read() as session:
        assert session.scalars(select(DeviceBundleRow)).all() == []


def test_writers_wait_for_each_other(database: Database) -> None:
    with database.write() as session:
        session.add(SettingRow(name="count", value=0))

    def count() -> None:
        for _ in range(10):
            with database.write() as session:
                row = session.scalars(
                    select(SettingRow).where(SettingRow.name == "count").with_for_update()
                ).one()
                row.value += 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert session.get_one(SettingRow, "count").value == 40


def test_several_processes_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(open_database, [tmp_path / "new" / "fleet.db"] * 4))
    for database in opened:
        with database.read() as session:
            assert session.scalars(select(DeviceRow.id)).all() == []
        database.close()


def test_tables_of_a_newer_edgekit_are_left_alone(tmp_path: Path) -> None:
    database = open_database(tmp_path / "fleet.db")
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(UsageError, match="not ones that this edgekit knows") as caught:
        open_database(tmp_path / "fleet.db")
    assert "newer" in str(caught.value.fix)


def test_an_address_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(UsageError, match="no support for the database 'mysql'") as caught:
        open_database("mysql://u:secret@h/n")
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read") as caught:
        open_database("post gres://u:secret@h:port/n")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["me:hush@127.0.0.1:9/x?", "me@127.0.0.1:9/x?password=hush&"])
def test_a_password_is_hidden_wherever_it_stands(
    fleet: Fleet, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    place = fleet.path / "database.txt"
    with pytest.raises(EnvironmentLackError, match="cannot be used") as caught:
        open_fleet_database(fleet, f"postgresql://{address}sslmode=disable")
    assert "hush" not in str(caught.value)
    # An address at which there is nothing does not become the fleet's.
    assert not place.exists()
    open_fleet_database(fleet).close()
    there = open_database(tmp_path / "there.db")
    monkeypatch.setattr("edgekit.fleet.store.database.open_database", lambda _address: there)
    open_fleet_database(fleet, f"postgresql://{address}sslmode=disable").close()
    mark = place.read_text()
    assert mark == "postgresql+psycopg://me:***@127.0.0.1:9/x?sslmode=disable\n"


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(EnvironmentLackError, match="cannot be used") as caught:
        open_database("postgresql://u:secret@127.0.0.1:1/n")
    assert "127.0.0.1:1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fleet.db").write_bytes(b"not a database, and long enough to look like one" * 40)
    with pytest.raises(EnvironmentLackError, match="not a database"):
        open_database(tmp_path / "fleet.db")


def test_a_database_that_went_away_is_used_again_when_it_is_back() -> None:
    pytest.importorskip("psycopg")
    try:
        server = PostgresServer.create()
    except NoServerError as error:
        pytest.skip(f"there is no PostgreSQL here: {error}")
    try:
        server.start()
        database = open_database(url_of(server.url, "postgres"))
        with database.write() as session:
            session.add(device("a"))
        server.stop()
        with pytest.raises(EnvironmentLackError), database.read() as session:
            session.scalars(select(DeviceRow.id)).all()
        server.start()
        with database.read() as session:
            assert session.scalars(select(DeviceRow.id)).all() == ["a"]
        database.close()
    finally:
        server.remove()
