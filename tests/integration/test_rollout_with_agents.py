"""A canary whose model goes wrong on live data, and not on its golden samples: real agents."""

from __future__ import annotations

import html
import http.client
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from edgekit.fleet.access import Role, create_token
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.serving import PageServer
from edgekit.fleet.broker import find_mosquitto, start_broker
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.keys import init_keys
from edgekit.fleet.ordering import device_order, order_device
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.rollouts.plan import Criteria, RolloutPlan, Stage
from edgekit.fleet.rollouts.state import Phase, Status
from edgekit.fleet.service.single import drive_rollout
from edgekit.fleet.store.database import Database, open_fleet_database
from edgekit.fleet.store.rollouts import RolloutTable
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit.quickstart.device import Device
from edgekit_runtime.orders import BundleOrder, Gates
from tests.simulators.local_agent import infer_body
from tests.simulators.tiny_bundles import (
    WIDTH,
    affine_model,
    logarithm_model,
    write_measured_bundle,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]

NAMES = ("agent-1", "agent-2", "agent-3")
GATES = Gates(min_seconds=0.0)
GOLDEN = np.linspace(0.5, 2.0, 40 * WIDTH, dtype=np.float32).reshape(40, WIDTH)
LIVE = [-1.5, 0.75, -0.5, 1.0]


def release(fleet: Fleet, folder: Path, version: str, model: bytes, expected: np.ndarray) -> None:
    path = folder / f"meter-{version}.ekb"
    write_measured_bundle(path, "meter", version, model, inputs=GOLDEN, outputs=expected)
    release_bundle(fleet, path)


def make_fleet(folder: Path, second: tuple[bytes, np.ndarray]) -> Fleet:
    fleet = Fleet.create(folder / "fleet", "plant-7")
    init_keys(fleet)
    release(fleet, folder, "1.0.0", affine_model(2.0), GOLDEN * 2)
    release(fleet, folder, "2.0.0", *second)
    return fleet


def make_device(folder: Path, name: str, fleet: Fleet, broker: BrokerAddress) -> Device:
    device = Device.install(
        folder / name,
        name,
        fleet=fleet.id,
        broker=broker,
        image_root=fleet.image_metadata / "1.root.json",
        director_root=fleet.director_metadata / "1.root.json",
        http_port=0,
    )
    text, changes = re.subn(
        r"(?m)^window_seconds = .*$", "window_seconds = 1", device.config.read_text()
    )
    assert changes == 1
    device.config.write_text(text)
    return device


def ask(port: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with suppress(OSError, http.client.HTTPException):
        client.request("POST", "/v2/models/meter/infer", json.dumps(infer_body(LIVE)))
        client.getresponse().read()
    client.close()


@contextmanager
def live_traffic(ports: list[int]) -> Iterator[None]:
    """Applications that ask every device all the time."""
    stopping = threading.Event()

    def run() -> None:
        while not stopping.wait(0.05):
            for port in ports:
                ask(port)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def serves(device: Device, version: str) -> bool:
    bundle = device.status().get("state", {}).get("bundles", {}).get("meter", {})
    return bool(bundle.get("active") == version and bundle.get("phase") == "active")


def rollout_page(fleet: Fleet, database: Database) -> str:
    """The page of the rollout, as a person sees it who may see devices by name."""
    _, token = create_token(database, name="ada", role=Role.OPERATOR, days=1, actor="test")
    server = PageServer(ControlPlane(fleet=fleet, database=database), host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        answer = httpx.get(
            f"http://{server.address}/rollouts/meter-2",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )
    finally:
        server.stop()
        thread.join()
    return html.unescape(answer.raise_for_status().text)


# Both are right wherever their makers looked; the world has values below zero.
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("second", "reason"),
    [
        pytest.param((logarithm_model(), np.log(GOLDEN)), "answers held NaN or infinity", id="nan"),
        pytest.param(
            (affine_model(3.0), GOLDEN * 3),
            "the data has drifted from the reference beyond 0.25: ",
            id="drift",
        ),
    ],
)
def test_a_canary_that_goes_wrong_on_live_data_is_stopped_and_rolled_back(
    tmp_path: Path, second: tuple[bytes, np.ndarray], reason: str
) -> None:
    fleet = make_fleet(tmp_path, second)
    database = open_fleet_database(fleet)
    with start_broker(tmp_path / "broker", prefer="mosquitto") as broker:
        for name in NAMES:
            order_device(fleet, name, [BundleOrder(bundle="meter", version="1.0.0", gates=GATES)])
        publish(fleet, broker.address)
        devices = [make_device(tmp_path, name, fleet, broker.address) for name in NAMES]
        for device in devices:
            device.start()
        try:
            for device in devices:
                device.wait_until(
                    lambda _status, device=device: serves(device, "1.0.0"),  # type: ignore[misc]
                    what="it runs 1.0.0",
                    timeout_s=60,
                )
            watched = Criteria(min_seconds=5.0, min_requests=10_000, max_drift=0.25)
            RolloutTable(database).create(
                RolloutPlan(
                    id="meter-2",
                    order=BundleOrder(bundle="meter", version="2.0.0", gates=GATES),
                    query="",
                    stages=(
                        Stage(name="canary", count=1, criteria=watched),
                        Stage(name="all", percent=100.0, criteria=watched),
                    ),
                    created_by="ada",
                    created=time.time(),
                )
            )
            deadline = time.monotonic() + 120
            with live_traffic([int(device.status()["port"]) for device in devices]):
                state = drive_rollout(
                    fleet,
                    database,
                    "meter-2",
                    broker.address,
                    goes_on=lambda: time.monotonic() < deadline,
                    turn_seconds=0.2,
                )
            canary = state.members[0]
            assert state.phase is Phase.ROLLED_BACK, state
            assert "stage canary" in state.reason
            assert reason in state.reason
            assert list(state.devices) == [canary]
            assert state.devices[canary].status is Status.RESTORED
            assert [d.what for d in state.decisions] == ["begin", "rollback", "rolled back"]
            assert all(serves(device, "1.0.0") for device in devices)
            for device in devices:
                told = [(e["kind"], e["version"]) for e in device.status()["events"]]
                # It passed its golden samples and its gates on the canary; others never met it.
                assert (("update.active", "2.0.0") in told) is (device.name == canary)
        finally:
            for device in devices:
                device.stop()
    versions = {name: device_order(fleet, name).version for name in NAMES}
    assert versions == {name: 3 if name == canary else 1 for name in NAMES}
    health = Ledger(database).health(canary, "meter", "2.0.0")
    page = rollout_page(fleet, database)
    database.close()
    assert reason in page
    assert "rolled back" in page
    assert "1 device is back" in page
    assert health is not None
    assert health.requests > 0
    if "drifted" in reason:
        assert "input:x" in state.reason
        assert health.drift["input:x"].psi() > 0.25
    else:
        assert health.insane > 0
