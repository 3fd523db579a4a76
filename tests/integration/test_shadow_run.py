"""A version beside the one that serves, from the command to the answer: a real agent, live data."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.cli import edgekit
from edgekit.fleet.broker import find_mosquitto, start_broker
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keys import init_keys
from edgekit.fleet.ordering import device_order, order_device
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.service.leading import FleetService
from edgekit.fleet.store.database import open_fleet_database
from edgekit.quickstart.device import Device
from edgekit_agent.cli import cli as agent
from edgekit_runtime.orders import BundleOrder, Gates
from tests.simulators.background_work import running
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

GOLDEN = np.linspace(0.5, 2.0, 40 * WIDTH, dtype=np.float32).reshape(40, WIDTH)
# Both versions agree where their makers looked; the world has values below zero.
LIVE = [-1.5, 0.75, -0.5, 1.0]


@contextmanager
def asked(port: int) -> Iterator[list[tuple[int, Any]]]:
    """An application that asks all the time, and what it is answered."""
    answers: list[tuple[int, Any]] = []

    def ask(goes_on: Callable[[], bool]) -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while goes_on():
            time.sleep(0.02)
            client.request("POST", "/v2/models/meter/infer", json.dumps(infer_body(LIVE)))
            response = client.getresponse()
            answers.append((response.status, json.loads(response.read())))
        client.close()

    with running(ask):
        yield answers


@contextmanager
def served(fleet: Fleet, broker: Any) -> Iterator[None]:
    """The control plane at work."""
    database = open_fleet_database(fleet)
    service = FleetService(fleet, database, broker.address)
    try:
        with running(lambda goes_on: service.run(goes_on=goes_on)):
            yield
    finally:
        database.close()


def run(fleet: Fleet, *words: str) -> Any:
    done = CliRunner().invoke(
        edgekit, ["fleet", "shadow", *words, "--fleet", str(fleet.path), "--json"]
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def port_of(device: Device) -> int:
    status = device.wait_until(lambda status: status.get("ready"), what="it serves", timeout_s=60)
    return int(status["port"])


def workers(folder: Path) -> list[int]:
    """The processes of versions beside, of an agent in a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (place / "cmdline").read_bytes()
            if b"edgekit_agent.shadow.worker" in words and str(folder).encode() in words:
                found.append(int(place.name))
    return found


def wait_for(holds: Any) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.timeout(240)
def test_a_version_that_differs_on_live_data_is_found_without_being_served(tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "fleet", "plant-7")
    init_keys(fleet)
    for version, model, outputs in (
        ("1.0.0", affine_model(2.0), GOLDEN * 2),
        ("2.0.0", logarithm_model(), np.log(GOLDEN)),
    ):
        path = tmp_path / f"meter-{version}.ekb"
        write_measured_bundle(path, "meter", version, model, inputs=GOLDEN, outputs=outputs)
        release_bundle(fleet, path)
    gates = Gates(min_seconds=0.0)
    order_device(fleet, "d1", [BundleOrder(bundle="meter", version="1.0.0", gates=gates)])
    with start_broker(tmp_path / "broker", prefer="mosquitto") as broker, served(fleet, broker):
        publish(fleet, broker.address)
        device = Device.install(
            tmp_path / "d1",
            "d1",
            fleet=fleet.id,
            broker=broker.address,
            image_root=fleet.image_metadata / "1.root.json",
            director_root=fleet.director_metadata / "1.root.json",
            http_port=0,
        )
        text = device.config.read_text()
        device.config.write_text(re.sub(r"(?m)^window_seconds = .*$", "window_seconds = 1", text))
        device.start()
        try:
            device.wait_until(
                lambda status: (
                    status.get("state", {}).get("bundles", {}).get("meter", {}).get("phase")
                    == "active"
                ),
                what="it runs 1.0.0",
                timeout_s=60,
            )
            options = ("--rate", "1", "--max-per-second", "1000", "--free-mb", "0")
            assert run(fleet, "start", "s1", "meter", "2.0.0", *options)["state"] == (
                "finding devices"
            )
            with asked(port_of(device)) as answers:
                wait_for(lambda: run(fleet, "show", "s1")["result"]["verdict"] == "differs")
                shown = run(fleet, "show", "s1")
                assert shown["devices"]["d1"]["phase"] == "watching"
                told = CliRunner().invoke(agent, ["status", "--config", str(device.config)])
                assert "beside    2.0.0: watching, run s1" in told.output
                assert shown["result"]["insane"] > 0
                assert shown["result"]["agreed"] == 0
                assert "of the inputs of one device alone" in shown["result"]["sentence"]
            told = [event["kind"] for event in device.status()["events"]]
            assert "shadow.watching" in told
            assert not [kind for kind in told if kind.startswith(("server.", "update.rolled"))]
            # The power is cut; it goes on, and what it counted before stays counted.
            os.kill(device.status()["pid"], signal.SIGKILL)
            wait_for(lambda: not workers(tmp_path))
            device.stop()
            device.start()
            wait_for(lambda: workers(tmp_path))
            before = run(fleet, "show", "s1")["result"]["compared"]
            with asked(port_of(device)) as later:
                wait_for(lambda: run(fleet, "show", "s1")["result"]["compared"] > before)
                run(fleet, "stop", "s1")
                wait_for(lambda: run(fleet, "show", "s1")["state"] == "ended")
            (order,) = device_order(fleet, "d1").bundles
            assert (order.version, order.gates, order.shadow) == ("1.0.0", gates, None)
            # Every request was answered, and by the version that serves.
            assert min(len(answers), len(later)) > 20
            for status, answer in (*answers, *later):
                assert status == 200, answer
                assert answer["outputs"][0]["data"] == [2 * value for value in LIVE]
        finally:
            device.stop()
