"""The whole control plane with simulated devices: a canary that degrades is stopped and said."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgekit.fleet.access import Role, create_token
from edgekit.fleet.broker import find_mosquitto, start_broker
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.keys import init_keys
from edgekit.fleet.ordering import device_order, order_bundle
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.store.database import open_fleet_database
from edgekit_runtime.orders import BundleOrder, Gates
from tests.simulators.carried_bundles import write_carried

NAMES = [f"sim-{number:05d}" for number in range(20)]
PLAN = {
    "id": "second",
    "order": {"bundle": "digits", "version": "2.0.0", "gates": {"min_seconds": 1}},
    "stages": [
        {"name": "canary", "count": 3, "criteria": {"min_seconds": 5, "min_requests": 200}},
        {"name": "all", "percent": 100},
    ],
}


class Command:
    """A running `edgekit` command, and what it has printed."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._log = folder / f"{arguments[1]}.log"
        self._began = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgekit", *arguments], stdout=output, stderr=output
            )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def said(self) -> str:
        return self._log.read_bytes()[self._began :].decode()


def wait_for(get: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 150
    while not (found := get()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return found


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Two released versions, the first ordered for all devices; a broker and devices run."""
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    made = Fleet.create(tmp_path / "fleet", "plant-7")
    init_keys(made)
    first = BundleOrder(bundle="digits", version="1.0.0", gates=Gates(min_seconds=1.0))
    for version in ("1.0.0", "2.0.0"):
        release_bundle(made, write_carried(tmp_path, version, model=version.encode() * 9000))
    for name in NAMES:
        order_bundle(made, name, first)
    with start_broker(tmp_path / "broker", prefer="mosquitto") as broker:
        publish(made, BrokerAddress(broker.host, broker.port))
        yield Fleet.open(made.path)


def crowd(fleet: Fleet, *options: str) -> Command:
    pace = ("--telemetry-seconds", "5", "--fetch-seconds", "1", "--requests-per-second", "20")
    attached = ("--attach", str(fleet.path), "--devices", str(len(NAMES)))
    return Command(fleet.path.parent, "fleet", "simulate", *attached, *pace, *options)


def serve(fleet: Fleet) -> Command:
    return Command(fleet.path.parent, "fleet", "serve", "--port", "0", "--fleet", str(fleet.path))


@contextmanager
def client_of(command: Command, fleet: Fleet) -> Iterator[httpx.Client]:
    url = wait_for(lambda: re.findall(r"http://\S+:\d+", command.said()), "it serves")[0]
    database = open_fleet_database(fleet)
    _, token = create_token(database, name="test", role=Role.ADMIN, days=1, actor="test")
    database.close()
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        yield client


def serving(client: httpx.Client) -> dict[str, int]:
    found = client.get("/api/v1/status").json()["versions"]
    return {v["version"]: v["devices"] for v in found if v["phase"] == "active"}


def order_versions(fleet: Fleet) -> dict[str, int]:
    return {name: device_order(fleet, name).version for name in NAMES}


@pytest.mark.slow
def test_a_canary_that_degrades_is_stopped_and_the_page_says_why(fleet: Fleet) -> None:
    with serve(fleet) as served, crowd(fleet, "--degrade", "1"), client_of(served, fleet) as client:
        wait_for(lambda: serving(client) == {"1.0.0": 20}, "the first version serves everywhere")
        before = order_versions(fleet)
        client.post("/api/v1/rollouts", json={"plan": PLAN}).raise_for_status()

        def ended() -> Any:
            found = client.get("/api/v1/rollouts/second").json()
            return found if found["phase"] == "rolled_back" else None

        rollout = wait_for(ended, "the rollout is rolled back")
        told = [name for name, version in order_versions(fleet).items() if version != before[name]]
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
    before = order_versions(fleet)
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
    assert {name: version - before[name] for name, version in order_versions(fleet).items()} == (
        dict.fromkeys(NAMES, 1)
    )
