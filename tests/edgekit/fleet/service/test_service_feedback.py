"""A version whose answers turn out to be wrong is taken back, end to end: from the API on."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edgekit.fleet.access import Role, create_token
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.serving import PageServer
from edgekit.fleet.broker import RunningBroker, find_mosquitto, start_broker
from edgekit.fleet.folder import Fleet
from edgekit.fleet.ordering import device_order, order_bundle
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.rollouts.plan import Criteria, RolloutPlan, Stage
from edgekit.fleet.rollouts.state import Phase
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.protocol import Topics
from edgekit_runtime.telemetry import ModelCounts, Window, pack_batch
from tests.edgekit.fleet.service.test_service import DEVICES, Running, say, state, wait_until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with start_broker(tmp_path / "broker", prefer="mosquitto") as running:
        yield running


@pytest.fixture
def api(fleet: Fleet, database) -> Iterator[httpx.Client]:
    server = PageServer(ControlPlane(fleet=fleet, database=database), host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    _, token = create_token(database, name="eve", role=Role.OPERATOR, days=1, actor="test")
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"http://{server.address}", headers=headers, timeout=60) as client:
        yield client
    server.stop()
    thread.join()


def test_a_canary_whose_answers_are_wrong_is_taken_back(
    fleet: Fleet, database, broker: RunningBroker, make_bundle, api: httpx.Client
) -> None:
    for version in ("1.0.0", "2.0.0"):
        release_bundle(fleet, make_bundle(version))
    for device in DEVICES:
        order_bundle(fleet, device, BundleOrder(bundle="digits", version="1.0.0"))
    publish(fleet, broker.address)
    say(fleet, broker, *(state(fleet, device, "1.0.0") for device in DEVICES))
    rollouts = ControlPlane(fleet=fleet, database=database).rollouts
    criteria = Criteria(min_seconds=0.0, max_drift=0.0, min_accuracy=0.8, min_feedback=30)
    rollouts.create(
        RolloutPlan(
            id="r1",
            order=BundleOrder(bundle="digits", version="2.0.0"),
            query="",
            stages=(
                Stage(name="canary", count=1, criteria=criteria),
                Stage(name="all", percent=100.0, criteria=criteria),
            ),
            created_by="test",
            created=time.time(),
        )
    )
    followed = {device: device_order(fleet, device).version for device in DEVICES}
    told: set[str] = set()

    def follow() -> None:
        """Be the devices: do what is ordered."""
        for device in DEVICES:
            order = device_order(fleet, device)
            if order.version > followed[device]:
                followed[device] = order.version
                told.add(device)
                say(fleet, broker, state(fleet, device, order.bundles[0].version))

    def serve_and_judge(device: str) -> None:
        """Be a device that answers, and somebody who knows that one of ten answers is right."""
        numbers.append(number := len(numbers) + 1)
        counts = ModelCounts(requests=10)
        window = Window(start=1.0, end=2.0, bundle="digits", version="2.0.0", model=counts)
        row = (number, json.dumps(window.to_json()).encode())
        topic = Topics(fleet.id).telemetry(device)
        say(fleet, broker, (topic, pack_batch(device, "0" * 16, 0, [row])))
        item = {"device": device, "bundle": "digits", "version": "2.0.0", "id": f"day:{number}"}
        answer = api.post("/api/v1/feedback", json={"items": [item | {"right": 1, "wrong": 9}]})
        assert answer.status_code == 200, answer.text
        counted.append(answer.json()["counted"])

    def is_over() -> bool:
        follow()
        for device in told:
            serve_and_judge(device)
        return rollouts.load("r1").state.phase is Phase.ROLLED_BACK

    numbers: list[int] = []
    counted: list[int] = []
    with Running(fleet, database, broker):
        wait_until(is_over, "the canary is taken back")
    assert len(told) == 1
    assert {device_order(fleet, device).bundles[0].version for device in DEVICES} == {"1.0.0"}
    reasons = [decision.reason for decision in rollouts.load("r1").state.decisions]
    wanted = r"\d+ of \d+ answers with feedback were right, a share of 0.8 is needed"
    assert any(re.search(wanted, text) for text in reasons)
    (known,) = api.get("/api/v1/feedback").json()
    assert (known["share"], known["right"]) == (0.1, sum(counted))
    assert re.search(wanted, api.get("/rollouts/r1").text)
    assert "answers with feedback 10.0 % were right" in api.get("/health-of-models").text
    figures = api.get("/metrics").text
    assert f'edgekit_recent_right{{bundle="digits",version="2.0.0"}} {sum(counted)}.0' in figures
