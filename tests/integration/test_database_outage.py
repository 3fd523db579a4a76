"""The database is gone for a while, in the middle of a rollout, with devices that go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgekit.fleet.broker import RunningBroker, find_mosquitto, start_broker
from edgekit.fleet.folder import Fleet
from edgekit.fleet.publisher import publish
from edgekit.fleet.simulation.behaviour import Behaviour
from edgekit.fleet.simulation.crowd import Crowd
from edgekit.fleet.store.database import open_database
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit.fleet.telemetry.listener import FleetListener
from edgekit_runtime.telemetry import parse_batch
from tests.simulators.postgres import NoServerError, PostgresServer
from tests.simulators.served_fleets import (
    client_of,
    order_versions,
    serve,
    serving,
    two_versions,
    wait_for,
)

DEVICES = 12
OUTAGE_SECONDS = 5.0
FROZEN_SECONDS = 3.0
BEHAVIOUR = Behaviour(
    telemetry_seconds=1.0, fetch_seconds=0.5, prove_seconds=0.2, requests_per_second=5.0
)
QUICK = {"min_seconds": 0, "min_requests": 0, "max_drift": 0}
PLAN = {
    "id": "second",
    "order": {"bundle": "digits", "version": "2.0.0", "gates": {"min_seconds": 1}},
    "stages": [
        {"name": f"to {count}", "count": count, "criteria": QUICK} for count in (2, 5, DEVICES)
    ],
}


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL of this test's own, for it is stopped."""
    pytest.importorskip("psycopg")
    try:
        made = PostgresServer.create()
    except NoServerError as error:
        pytest.skip(f"there is no PostgreSQL here: {error}")
    try:
        made.start(keeps=True)
        yield made
    finally:
        made.remove()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with start_broker(tmp_path / "broker", prefer="mosquitto") as running:
        yield running


class Ear:
    """Hears the same measurements as the control plane, and writes nothing down."""

    def __init__(self, fleet: Fleet, broker: RunningBroker) -> None:
        self._listener = FleetListener(
            fleet.id, broker.address, name="test-ear", events=False, states=False
        )

    def __enter__(self) -> Ear:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def requests(self) -> dict[tuple[str, str], int]:
        """By device and version, the requests in all records that were sent so far."""
        said: dict[tuple[str, str, int], tuple[str, int]] = {}
        while messages := self._listener.take(timeout_s=1.0):
            for message in messages:
                batch = parse_batch(message.payload, where=message.topic)
                for sequence, window in batch.records:
                    assert window.model is not None
                    key = (batch.device, batch.stream, sequence)
                    said[key] = (window.version, window.model.requests)
                message.done()
        found: dict[tuple[str, str], int] = {}
        for (device, _, _), (version, count) in said.items():
            found[device, version] = found.get((device, version), 0) + count
        return found


def counted(url: str) -> dict[tuple[str, str], int]:
    """The same, as the control plane has counted it."""
    database = open_database(url)
    try:
        ledger = Ledger(database)
        return {
            (device, version): health.requests
            for version in ("1.0.0", "2.0.0")
            for device, health in ledger.fleet_health("digits", version, since=0.0).items()
        }
    finally:
        database.close()


def require_reason(answer: httpx.Response) -> None:
    """It says that it is the database, and what may be done."""
    assert answer.status_code == 503, answer.text
    assert "the database cannot be used" in answer.text
    assert "see whether it runs" in answer.text


@pytest.mark.slow
def test_a_database_that_is_gone_in_the_middle_of_a_rollout_delays_it_and_no_more(
    tmp_path: Path, server: PostgresServer, broker: RunningBroker
) -> None:
    fleet = two_versions(tmp_path, devices=DEVICES)
    publish(fleet, broker.address)
    before = order_versions(fleet, devices=DEVICES)
    options = ("--broker", str(broker.address), "--database", server.url)
    with (
        Ear(fleet, broker) as ear,
        serve(fleet, *options) as served,
        client_of(served, fleet, database=server.url) as client,
    ):
        crowd = Crowd.of_fleet(fleet, broker.address, count=DEVICES, behaviour=BEHAVIOUR)
        with crowd:
            wait_for(lambda: serving(client) == {"1.0.0": DEVICES}, "the first version serves")
            client.post("/api/v1/rollouts", json={"plan": PLAN}).raise_for_status()
            wait_for(
                lambda: order_versions(fleet, devices=DEVICES) != before, "the rollout has begun"
            )
            server.stop("immediate")
            began = time.monotonic()
            while time.monotonic() - began < OUTAGE_SECONDS:
                require_reason(client.get("/health"))
                require_reason(client.get("/api/v1/status"))
                require_reason(client.get("/rollouts/second"))
                assert served.runs, served.said()
                time.sleep(0.5)
            server.start(keeps=True)
            wait_for(
                lambda: client.get("/health").is_success, "it finds the database by itself again"
            )
            # Once more, as where its disk hangs: all that was asked waits for the answer.
            with server.frozen():
                time.sleep(FROZEN_SECONDS)
            assert served.runs, served.said()

            def ended() -> Any:
                answer = client.get("/api/v1/rollouts/second")
                return answer.is_success and answer.json()["phase"] == "completed"

            wait_for(ended, "the rollout is completed")
            wait_for(lambda: serving(client) == {"2.0.0": DEVICES}, "the second version serves")
            client.get("/api/v1/audit/verification").raise_for_status()
        said = ear.requests()
        assert sum(said.values()) > DEVICES * OUTAGE_SECONDS
        wait_for(lambda: counted(server.url) == said, "all that devices measured is counted once")
        assert served.runs
    assert "the database cannot be used" in served.said()
    after = order_versions(fleet, devices=DEVICES)
    assert {name: after[name] - before[name] for name in before} == dict.fromkeys(before, 1)
