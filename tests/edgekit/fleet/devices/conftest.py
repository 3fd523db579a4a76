from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.store.database import Database
from edgekit_runtime.reports import BundleState, DeviceEvent, DeviceState, Phase


class Watch:
    """A clock that stands still until it is set on."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 25, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def goes_on(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def inventory(database: Database, watch: Watch) -> Inventory:
    return Inventory(database, actor="alice", clock=watch)


@pytest.fixture
def state():
    def make(device: str = "d1", **changes: object) -> DeviceState:
        usual: dict[str, object] = {
            "device": device,
            "online": True,
            "time": 5.0,
            "agent": "0.1.0",
            "hardware": {
                "architecture": "aarch64",
                "ram_bytes": 2_000_000_000,
                "runtimes": {"litert": "2.3.0"},
                "python": "3.11.2",
            },
            "order_version": 3,
            "bundles": {"digits": BundleState(phase=Phase.ACTIVE, active="1.0.0")},
        }
        return DeviceState(**(usual | changes))

    return make


@pytest.fixture
def event():
    def make(sequence: int = 1, **changes: object) -> DeviceEvent:
        usual: dict[str, object] = {
            "device": "d1",
            "sequence": sequence,
            "time": 5.0,
            "kind": "update.active",
            "bundle": "digits",
            "version": "1.0.0",
        }
        return DeviceEvent(**(usual | changes))

    return make
