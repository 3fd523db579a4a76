from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.fleet.broker import RunningBroker, find_mosquitto, start_broker
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keys import init_keys
from edgekit.fleet.ordering import order_device
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.simulation.behaviour import device_name
from edgekit_runtime.bundle.archive import write_bundle
from edgekit_runtime.bundle.manifest import MANIFEST_NAME, parse_manifest
from edgekit_runtime.orders import BundleOrder, Gates
from tests.simulators.tiny_bundles import affine_bundle

GATES = Gates(min_seconds=0.0)
ReadyFleet = Callable[..., Fleet]


def release(fleet: Fleet, version: str, folder: Path, *, name: str = "double") -> None:
    files = affine_bundle(name, version, float(version.split(".", maxsplit=1)[0]))
    manifest = parse_manifest(files.pop(MANIFEST_NAME), where="test")
    path = folder / f"{name}-{version}.ekb"
    write_bundle(path, manifest, files)
    release_bundle(fleet, path)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[RunningBroker]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with start_broker(tmp_path / "broker", prefer="mosquitto") as running:
        yield running


@pytest.fixture
def ready_fleet(tmp_path: Path, mosquitto: RunningBroker) -> ReadyFleet:
    """A fleet whose devices are told to run 1.0.0, with 2.0.0 released, all published."""

    def make(devices: int) -> Fleet:
        fleet = Fleet.create(tmp_path / "fleet", "plant-7")
        init_keys(fleet)
        for version in ("1.0.0", "2.0.0"):
            release(fleet, version, tmp_path)
        order = BundleOrder(bundle="double", version="1.0.0", gates=GATES)
        for number in range(devices):
            order_device(fleet, device_name(number), [order])
        publish(fleet, mosquitto.address)
        return fleet

    return make
