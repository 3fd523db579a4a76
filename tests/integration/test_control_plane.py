"""The whole control plane with simulated devices: a canary that degrades is stopped and said."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.fleet.broker import find_mosquitto, start_broker
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.ordering import device_order
from edgekit.fleet.publisher import publish
from tests.simulators.served_fleets import (
    Command,
    client_of,
    order_versions,
    serve,
    serving,
    two_versions,
    wait_for,
)

NAMES = [f"sim-{number:05d}" for number in range(20)]
PLAN = {
    "id": "second",
    "order": {"bundle": "digits", "version": "2.0.0", "gates": {"min_seconds": 1}},
    "stages": [
        {"name": "canary", "count": 3, "criteria": {"min_seconds": 5, "min_requests": 200}},
        {"name": "all", "percent": 100},
    ],
}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Two released versions, the first ordered for all devices; a broker and devices run."""
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    made = two_versions(tmp_path, devices=len(NAMES))
    with start_broker(tmp_path / "broker", prefer="mosquitto") as broker:
        publish(made, BrokerAddress(broker.host, broker.port))
        yield Fleet.open(made.path)


def crowd(fleet: Fleet, *options: str) -> Command:
    pace = ("--telemetry-seconds", "5", "--fetch-seconds", "1", "--requests-per-second", "20")
    attached = ("--attach", str(fleet.path), "--devices", str(len(NAMES)))
    return Command(fleet.path.parent, "fleet", "simulate", *attached, *pace, *options)


@pytest.mark.slow
def test_a_canary_that_degrades_is_stopped_and_the_page_says_why(fleet: Fleet) -> None:
    with serve(fleet) as served, crowd(fleet, "--degrade", "1"), client_of(served, fleet) as client:
        wait_for(lambda: serving(client) == {"1.0.0": 20}, "the first version serves everywhere")
        before = order_versions(fleet, devices=len(NAMES))
        client.post("/api/v1/rollouts", json={"plan": PLAN}).raise_for_status()

        def ended() -> Any:
            found = client.get("/api/v1/rollouts/second").json()
            return found if found["phase"] == "rolled_back" else None

        rollout = wait_for(ended, "the rollout is rolled back")
        told = [
            name
            for name, version in order_versions(fleet, devices=len(NAMES)).items()
            if version != before[name]
        ]
        assert len(told) == 3
        assert rollout["statuses"] == {"restored": 3}
        assert rollout["reason"].startswith("stage canary: ")
        page = client.get("/rollouts/second").text
        assert "rolled back" in page
        assert "requests failed" in page or "has drifted" in page
        log = client.get("/api/v1/audit", params={"subject": "rollout second"}).json()
        assert json.dumps(log).count("engine") >= 2
        wait_for(lambda: serving(client) == {"1.0.0": 20}, "the first version is back everywhere")
    versions = Counter(device_order(fleet, name).bundles[0].version for name in NAMES)
    assert versions == {"1.0.0": 20}


@pytest.mark.slow
def test_a_control_plane_that_is_killed_again_and_again_orders_nothing_twice(fleet: Fleet) -> None:
    before = order_versions(fleet, devices=len(NAMES))
    quick = {"min_seconds": 0, "min_requests": 0, "max_drift": 0}
    stages = [
        {"name": f"to {count}", "count": count, "criteria": quick} for count in (2, 6, 12, 20)
    ]
    with crowd(fleet):
        served = serve(fleet)
        with client_of(served, fleet) as client:
            wait_for(lambda: serving(client) == {"1.0.0": 20}, "the first version serves")
            plan = PLAN | {"stages": stages}
            client.post("/api/v1/rollouts", json={"plan": plan}).raise_for_status()
        # The next one takes over when the lease of the one that was killed is over: 20 seconds.
        for seconds in (0.4, 23.0):
            time.sleep(seconds)
            served.kill()
            served = serve(fleet)
        with served, client_of(served, fleet) as client:
            wait_for(
                lambda: client.get("/api/v1/rollouts/second").json()["phase"] == "completed",
                "the rollout is completed",
            )
            assert serving(client) == {"2.0.0": 20}
            client.get("/api/v1/audit/verification").raise_for_status()
    assert {
        name: version - before[name]
        for name, version in order_versions(fleet, devices=len(NAMES)).items()
    } == (dict.fromkeys(NAMES, 1))
