"""A network that is cut in each phase of an update, and a broker that remembers what it held."""

from __future__ import annotations

import dataclasses
import getpass
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit_runtime.orders import Conditions
from tests.device_agent.test_mqtt import (
    TOPICS,
    AgentProcess,
    Mosquitto,
    needs_mosquitto,
    publish,
    wait_for,
)
from tests.simulators.local_agent import DEVICE
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import affine_bundle

pytestmark = needs_mosquitto

REQUESTS = 5


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """One that is the same after a restart."""
    memory = tmp_path / "memory"
    memory.mkdir()
    running = Mosquitto(
        tmp_path,
        "persistence true",
        f"persistence_location {memory}/",
        f"user {getpass.getuser()}",
    )
    yield running
    running.stop()


def remembers(broker: Mosquitto, topic: str) -> bool:
    """Whether there is a retained message."""
    heard: list[bytes] = []
    with broker.client() as client:
        client.on_message = lambda _c, _d, message: heard.append(bytes(message.payload))
        client.subscribe(topic, qos=1)
        wait_for(lambda: heard)
    return bool(heard[0])


@pytest.mark.parametrize("phase", ["fetching", "staged", "trying"])
def test_a_cut_in_any_phase_holds_up_only_what_needs_the_network(
    tmp_path: Path, broker: Mosquitto, phase: str
) -> None:
    fleet = SignedFleet()
    agent = AgentProcess(tmp_path, fleet, broker.port)
    try:
        fleet.release("double", "1.0.0", affine_bundle("double", "1.0.0", 2.0))
        publish(broker, fleet, fleet.order(DEVICE, quick_order("double", "1.0.0")))
        wait_for(lambda: agent.is_active("1.0.0"), say=agent.status)
        fleet.release("double", "2.0.0", affine_bundle("double", "2.0.0", 3.0, padding=300_000))
        held_back = dict([fleet.chunks.popitem()]) if phase == "fetching" else {}
        order = quick_order("double", "2.0.0", min_requests=REQUESTS)
        if phase == "staged":
            tomorrow = Conditions(not_before=int(time.time()) + 86_400)
            order = dataclasses.replace(order, conditions=tomorrow)
        publish(broker, fleet, fleet.order(DEVICE, order))
        wait_for(lambda: agent.bundle().get("phase") == phase, seconds=60, say=agent.status)
        broker.stop()
        wait_for(lambda: not agent.status()["connected"], seconds=60, say=agent.status)
        assert agent.answer() in ([2.0, 4.0, 6.0, 8.0], [3.0, 6.0, 9.0, 12.0])
        if phase == "trying":
            # Its gates need no network.
            wait_for(lambda: agent.answer() and agent.is_active("2.0.0"), seconds=60)
        else:
            assert agent.bundle()["phase"] == phase
        broker.start()
        assert remembers(broker, TOPICS.order(DEVICE))
        broker.publish({TOPICS.chunk(name): data for name, data in held_back.items()})
        if phase == "staged":
            order = dataclasses.replace(order, conditions=Conditions())
            broker.publish({TOPICS.order(DEVICE): fleet.order(DEVICE, order)})
        wait_for(lambda: agent.answer() and agent.is_active("2.0.0"), seconds=60, say=agent.status)
        assert agent.answer() == [3.0, 6.0, 9.0, 12.0]
    finally:
        assert agent.stop() == 0
