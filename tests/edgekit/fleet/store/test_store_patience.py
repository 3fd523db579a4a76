"""Connections that are not to be had: everybody is told, in time."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from edgekit.fleet.store import database as store
from edgekit.fleet.store.database import open_database
from edgekit_runtime.errors import EnvironmentLackError


def test_who_finds_no_connection_is_told_in_time(
    postgresql_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_ROOM_SECONDS", 1.0)
    database = open_database(postgresql_server)
    most = 30
    go, held = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        with database.read() as session:
            session.execute(text("SELECT 1"))
            held.release()
            go.wait(60)

    threads = [threading.Thread(target=hold) for _ in range(most)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert held.acquire(timeout=60)
        with (
            pytest.raises(EnvironmentLackError, match="all connections wait for it"),
            database.read() as session,
        ):
            session.execute(text("SELECT 1"))
    finally:
        go.set()
        for thread in threads:
            thread.join()
    with database.read() as session:
        assert session.execute(text("SELECT 1")).scalar_one() == 1
    database.close()


def test_a_dead_line_is_noticed_by_every_connection(postgresql_server: str) -> None:
    database = open_database(postgresql_server)
    with database.read() as session:
        driver = session.connection().connection.driver_connection
        assert driver is not None
        options = driver.info.get_parameters()
    assert {name: options[name] for name in store._LINE} == {
        name: str(value) for name, value in store._LINE.items()
    }
    database.close()
