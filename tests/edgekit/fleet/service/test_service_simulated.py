"""Shadow runs and requests on simulated devices: the control plane takes them for real ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.fleet.broker import RunningBroker
from edgekit.fleet.connection import connected_to
from edgekit.fleet.devices.activity import events_of
from edgekit.fleet.devices.requests import RequestBook, samples_in
from edgekit.fleet.experiments.shadow import ShadowSettings
from edgekit.fleet.folder import Fleet
from edgekit.fleet.ordering import order_device
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.service.leading import FleetService, ServiceSettings
from edgekit.fleet.simulation.behaviour import Behaviour, allows_samples, device_name
from edgekit.fleet.simulation.crowd import Crowd
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.shadows import ShadowTable
from edgekit_runtime.orders import BundleOrder, Gates
from edgekit_runtime.protocol import Topics
from edgekit_runtime.requests import RequestKind
from tests.simulators.background_work import running, wait_until

DEVICES = 12
BEHAVIOUR = Behaviour(
    fetch_seconds=0.2,
    prove_seconds=0.1,
    answer_seconds=0.2,
    telemetry_seconds=0.5,
    requests_per_second=60.0,
    degrade=1.0,
    only_version="3.0.0",
)


@pytest.fixture
def crowd(
    fleet: Fleet, mosquitto: RunningBroker, make_bundle: Callable[..., Path]
) -> Iterator[Crowd]:
    """Devices that run 1.0.0; 2.0.0 answers nearly as it does, 3.0.0 often does not."""
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        release_bundle(fleet, make_bundle(version))
    order = BundleOrder(bundle="digits", version="1.0.0", gates=Gates(min_seconds=0.0))
    for number in range(DEVICES):
        order_device(fleet, device_name(number), [order])
    publish(fleet, mosquitto.address)
    with Crowd.of_fleet(fleet, mosquitto.address, count=DEVICES, behaviour=BEHAVIOUR) as devices:
        serves = {"digits 1.0.0 (active)": DEVICES}
        wait_until(lambda: devices.figures().phases == serves, "1.0.0 serves")
        yield devices


def test_a_version_that_agrees_and_one_that_differs_are_told_apart(
    fleet: Fleet, database: Database, crowd: Crowd, mosquitto: RunningBroker
) -> None:
    settings = ServiceSettings(turn_seconds=0.05)
    table = ShadowTable(database)
    asked = ShadowSettings(rate=1.0, max_per_second=100.0, seconds=600.0, min_agreement=0.9)
    with running(FleetService(fleet, database, mosquitto.address, settings=settings).run):
        for version, verdict in (("2.0.0", "agrees"), ("3.0.0", "differs")):
            run = f"beside-{version[0]}"
            table.create(run, bundle="digits", version=version, query="", settings=asked, who="ada")

            def says(run: str = run, verdict: str = verdict) -> bool:
                # The service looks every half minute.
                table.look(run)
                return bool(table.get(run).result.get("verdict") == verdict)

            wait_until(says, f"{version} {verdict}")
            result = table.get(run).result
            assert result["outputs"]["y"]["median_difference"] > 0
            table.stop(run, who="ada")
            wait_until(lambda run=run: table.get(run).ended is not None, "its end")
    assert crowd.figures().phases == {"digits 1.0.0 (active)": DEVICES}
    assert crowd.refused == 0


def test_requests_are_answered_or_refused_as_devices_do(
    fleet: Fleet, database: Database, crowd: Crowd, mosquitto: RunningBroker
) -> None:
    topics, book = Topics(fleet.id), RequestBook(database, actor="ada")
    by_owner = {allows_samples(name, BEHAVIOUR): name for name in crowd.names}
    settings = ServiceSettings(turn_seconds=0.05)
    with running(FleetService(fleet, database, mosquitto.address, settings=settings).run):
        wait_until(lambda: len(_known(database)) == DEVICES, "the devices are known")
        asked = [
            book.ask(crowd.names[0], RequestKind.BENCH, {"bundle": "digits"}),
            book.ask(by_owner[True], RequestKind.SAMPLES, {"most": 2}),
            book.ask(by_owner[False], RequestKind.SAMPLES, {"most": 2}),
        ]
        wait_until(
            lambda: all(item.answered is not None for item in book.look_again(asked)),
            "all are answered",
        )
        bench, samples, refused = book.look_again(asked)
        assert [item.ok for item in (bench, samples, refused)] == [True, True, False]
        (measured,) = book.answer(bench.device, bench.number)
        assert (measured["version"], measured["board"]) == ("1.0.0", "simulated")
        assert len(samples_in(book.answer(samples.device, samples.number))) == 2
        # Nobody but the director may ask for anything.
        name = crowd.names[1]
        forged = {"signed": json.dumps({"device": name}), "signatures": [["a" * 64, "b" * 128]]}
        with connected_to(mosquitto.address) as connection:
            message = (topics.requests(name), json.dumps(forged).encode())
            connection.publish([message], retain=False)
        wait_until(lambda: "security.refused" in _kinds(database, name), "it tells of it")
    assert (crowd.requests, crowd.refused) == (3, 1)


def _known(database: Database) -> list[str]:
    from edgekit.fleet.devices.inventory import Inventory

    return [device.id for device in Inventory(database, actor="test").all()]


def _kinds(database: Database, device: str) -> list[str]:
    return [event.kind for event in events_of(database, device=device)]
