"""Devices that lie to the running service: who they are, when it is, and how much they say."""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from edgekit.fleet.broker import RunningBroker
from edgekit.fleet.connection import connected_to
from edgekit.fleet.devices.activity import events_of
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.folder import Fleet
from edgekit.fleet.service.leading import FleetService
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.errors import NotFoundError
from edgekit.fleet.store.telemetry import recent_counts
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import BundleState, DeviceEvent, DeviceState, Phase
from edgekit_runtime.telemetry import ModelCounts, Window, pack_batch

TOPICS = Topics("plant-7")
HOUR = 3_600.0


@pytest.fixture
def service(fleet: Fleet, database: Database, mosquitto: RunningBroker) -> Iterator[None]:
    running = FleetService(fleet, database, mosquitto.address)
    stopping = threading.Event()
    thread = threading.Thread(target=running.run, args=[lambda: not stopping.is_set()])
    thread.start()
    yield
    stopping.set()
    thread.join()


def state(device: str, version: str = "1.0.0") -> bytes:
    bundle = BundleState(phase=Phase.ACTIVE, active=version)
    return DeviceState(device=device, online=True, bundles={"digits": bundle}).to_json()


def event(device: str, **changes: Any) -> bytes:
    usual = {"sequence": 1, "kind": "update.active", "bundle": "digits", "version": "1.0.0"}
    return DeviceEvent(device=device, **({"time": 5.0, "detail": ""} | usual | changes)).to_json()


def batch(device: str, requests: int, *, start: float = 0.0, end: float = 0.0) -> bytes:
    model = ModelCounts(requests=requests)
    window = Window(start=start, end=end, bundle="digits", version="1.0.0", model=model)
    return pack_batch(device, "a" * 16, 0, [(1, json.dumps(window.to_json()).encode())])


def lies() -> list[tuple[str, bytes]]:
    mine = "liar"
    now = time.time()
    endless = b'{"device":"liar","online":true,"agent":"' + b"x" * (4 << 20) + b'"}'
    bomb = zlib.compress(b" " * (64 << 20), level=9)
    return [
        # Who it is.
        (TOPICS.state(mine), state("honest", "6.6.6")),
        (TOPICS.events(mine), event("honest", sequence=66, kind="update.rolled_back")),
        (TOPICS.telemetry(mine), batch("honest", 1_000_000)),
        (TOPICS.replies(mine), json.dumps({"device": "honest", "number": 1, "ok": True}).encode()),
        # How much it is.
        (TOPICS.state(mine), b"[" * 100_000),
        (TOPICS.state(mine), endless),
        (TOPICS.events(mine), event(mine, detail="y" * (2 << 20))),
        (TOPICS.telemetry(mine), bomb),
        (TOPICS.telemetry(mine), b"\x00" * (8 << 20)),
        # When it is, and what cannot be.
        (TOPICS.events(mine), event(mine, sequence=2, time=4e9)),
        (TOPICS.telemetry(mine), batch(mine, 7, start=now + 100 * HOUR, end=now + 200 * HOUR)),
        (TOPICS.telemetry(mine), b"not even JSON"),
    ]


def test_a_device_that_lies_harms_nobody_else_and_the_service_goes_on(
    fleet: Fleet, database: Database, mosquitto: RunningBroker, service: None
) -> None:
    inventory = Inventory(database, actor="test")

    def heard(device: str) -> Any:
        try:
            return inventory.get(device).bundles.get("digits")
        except NotFoundError:
            return None

    def wait_until(holds: Any) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with connected_to(mosquitto.address) as connection:
        connection.publish([(TOPICS.state(name), state(name)) for name in ("honest", "liar")])
        wait_until(lambda: heard("honest") and heard("liar"))
        connection.publish(lies(), retain=False)
        # What comes after it is heard: nobody had to begin anew.
        connection.publish([(TOPICS.events("honest"), event("honest"))], retain=False)
        connection.publish([(TOPICS.telemetry("honest"), batch("honest", 3))], retain=False)
    wait_until(lambda: events_of(database, "honest"))
    wait_until(lambda: recent_counts(database, since=time.time() - HOUR))
    assert inventory.get("honest").bundles["digits"]["active"] == "1.0.0"
    (only,) = events_of(database, "honest")
    assert only.kind == "update.active"
    assert {device.id for device in inventory.all()} == {"honest", "liar"}
    mine = inventory.get("liar")
    assert len(mine.agent) <= 64
    now = time.time()
    assert mine.last_seen is not None
    assert mine.last_seen <= now
    for told in events_of(database, "liar"):
        assert len(told.detail) <= 4_000
        assert told.received <= now
    counts = recent_counts(database, since=now - HOUR)
    assert counts["digits", "1.0.0"].requests in (3, 10)
