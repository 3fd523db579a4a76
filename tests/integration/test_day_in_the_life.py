"""A day in a device's life: joins, serves, is cut off, drifts, is misled, is helped, comes back.

The control plane is the commands that a user types, the device is `edgekit-agent`, and between
them stands mosquitto as `edgekit fleet init` configures it: TLS, certificates, an access list.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.cli import edgekit
from edgekit.fleet.broker import find_mosquitto
from edgekit.quickstart.device import Device
from tests.simulators.authority import Authority
from tests.simulators.local_agent import infer_body
from tests.simulators.tiny_bundles import (
    WIDTH,
    affine_model,
    logarithm_model,
    write_measured_bundle,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]

NAME = "oven-7"
WAIT_SECONDS = 90.0
MORNING = np.linspace(0.5, 2.0, 40 * WIDTH, dtype=np.float32).reshape(40, WIDTH)
EVENING = MORNING - np.float32(3.0)


class Broker:
    """The process; what it remembers is in its folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(find_mosquitto()), "-c", str(self.folder / "mosquitto.conf")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None


class Plant:
    """A fleet in a folder, its broker, the commands of its owner, its control plane."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "fleet"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        made = self.command(
            *("fleet", "init", str(self.path), "--id", "plant-7", "--json"),
            *("--broker-host", "127.0.0.1", "--broker-port", str(port)),
            on_fleet=False,
        )
        self._address = json.loads(made)["broker"]["url"]
        self.command("keys", "init")
        self.broker = Broker(self.path / "mosquitto", port)
        # Whoever runs the page over HTTPS has a certificate for it.
        authority = Authority()
        self._certificate = authority.server(folder)
        self.ca = folder / "page-ca.pem"
        self.ca.write_text(authority.pem)

    def command(self, *arguments: str, on_fleet: bool = True) -> str:
        where = ("--fleet", str(self.path)) if on_fleet else ()
        done = CliRunner().invoke(edgekit, [*arguments, *where])
        assert done.exit_code == 0, done.output
        return done.stdout

    def release(self, version: str, model: bytes, seen: np.ndarray, expected: np.ndarray) -> None:
        bundle = self.folder / f"meter-{version}.ekb"
        write_measured_bundle(bundle, "meter", version, model, inputs=seen, outputs=expected)
        self.command("release", "add", str(bundle))

    def order(self, version: str, **gates: float) -> None:
        options = {"min_seconds": 0.0, **gates}
        words = [f"--{name.replace('_', '-')}={value:g}" for name, value in options.items()]
        self.command("fleet", "order", NAME, f"meter@{version}", *words)

    def publish(self) -> None:
        self.command("fleet", "publish", "--broker", self._address)

    def put_in_the_stick(self) -> None:
        """Bring the device its orders and their bundles by hand, in place of what was brought."""
        stick = self.folder / "stick"
        self.command("fleet", "export", str(stick), "--device", NAME)
        shutil.rmtree(self.folder / "media", ignore_errors=True)
        stick.rename(self.folder / "media")

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The control plane runs; where."""
        log = self.folder / f"serve-{time.monotonic_ns()}.log"
        certificate, key = map(str, self._certificate)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgekit", "fleet", "serve", "--port", "0",
                 "--tls-certificate", certificate, "--tls-key", key,
                 "--fleet", str(self.path), "--broker", self._address],
                stdout=output,
                stderr=output,
            )  # fmt: skip
        try:
            self.wait_for(lambda: b"https://" in log.read_bytes())
            yield re.findall(r"https://[\d.]+:\d+", log.read_text())[0]
        finally:
            process.terminate()
            process.wait(60)

    def rows(self, query: str) -> list[Any]:
        """What the control plane has written down."""
        with closing(sqlite3.connect(f"file:{self.path}/fleet.db?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()

    def counted(self) -> dict[str, int]:
        """How many requests the device has reported, by version."""
        query = "SELECT version, sum(requests) FROM telemetry_hours GROUP BY version"
        return dict(self.rows(query))

    def wait_for(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not holds():
            said = [log.read_text() for log in sorted(self.folder.glob("serve-*.log"))]
            assert time.monotonic() < deadline, said
            time.sleep(0.1)


class Application:
    """Asks the device, and counts what it got from each version.

    Attributes:
        answered: By version; those that gave no number were of 2.0.0, which alone makes such.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.answered: dict[str, int] = {}

    def ask(self, inputs: np.ndarray, times: int = 1) -> list[np.ndarray]:
        """The last answer to each of these inputs."""
        client = http.client.HTTPConnection("127.0.0.1", self._device.status()["port"], timeout=30)
        answers = []
        for row in np.tile(inputs, (times, 1)):
            client.request("POST", "/v2/models/meter/infer", json.dumps(infer_body(row.tolist())))
            response = client.getresponse()
            document = json.loads(response.read())
            if response.status == http.HTTPStatus.OK:
                version = document["model_version"]
                answers.append(np.array(document["outputs"][0]["data"], dtype=np.float32))
            else:
                assert document["error"] == "the model gave no finite number"
                version = "2.0.0"
            self.answered[version] = self.answered.get(version, 0) + 1
        client.close()
        return answers[-len(inputs) :]


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """A fleet that has a broker, and no device yet."""
    made = Plant(tmp_path)
    made.broker.start()
    with ExitStack() as stack:
        stack.callback(made.broker.stop)
        yield made


def join(plant: Plant, url: str, folder: Path) -> Device:
    """A device makes its key, and comes in with a token."""
    token = json.loads(plant.command("fleet", "enrolment", "create", "--device", NAME, "--json"))
    joined = subprocess.run(
        [sys.executable, "-m", "edgekit_agent", "enrol", "--url", url, "--ca", str(plant.ca),
         "--fleet", "plant-7", "--device", NAME, "--folder", str(folder), "--http-port", "0"],
        capture_output=True,
        text=True,
        check=False,
        env={"EDGEKIT_TOKEN": token["token"], "PATH": "", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert joined.returncode == 0, joined.stderr
    config = folder / "agent.toml"
    text = config.read_text()
    for before, after in (
        ("window_seconds = 60", "window_seconds = 1"),
        ('# [stick]\n# folder = "/media/edgekit"\n# poll_seconds = 5',
         f'[stick]\nfolder = "{plant.folder}/media"\npoll_seconds = 0.3'),
    ):  # fmt: skip
        assert before in text
        text = text.replace(before, after)
    config.write_text(text)
    return Device(folder, NAME)


def reached(device: Device, phase: str, active: str, reason: str = "") -> dict[str, Any]:
    def holds(status: dict[str, Any]) -> bool:
        bundle = status.get("state", {}).get("bundles", {}).get("meter", {})
        return bundle.get("phase") == phase and bundle.get("active") == active

    status = device.wait_until(holds, what=f"{phase}, {active}", timeout_s=WAIT_SECONDS)
    assert reason in status["state"]["bundles"]["meter"]["reason"]
    return status


def kinds(device: Device) -> list[str]:
    return [event["kind"] for event in device.status().get("events", [])]


def serve_in_the_morning(plant: Plant, device: Device) -> Application:
    """What is ordered comes, and is used."""
    plant.release("1.0.0", affine_model(2.0), MORNING, MORNING * 2)
    plant.order("1.0.0")
    plant.publish()
    reached(device, "active", "1.0.0")
    application = Application(device)
    assert np.allclose(application.ask(MORNING, times=6), MORNING * 2)
    plant.wait_for(lambda: plant.counted() == application.answered)
    return application


def go_on_alone(device: Device, application: Application) -> None:
    """Nobody who asks the device notices that the network is gone, nor that it was restarted."""
    device.wait_until(lambda status: not status["connected"], what="cut off", timeout_s=60)
    assert np.allclose(application.ask(MORNING), MORNING * 2)
    device.stop()
    device.start()
    device.wait_until(lambda status: status["ready"], what="it serves", timeout_s=60)
    assert np.allclose(application.ask(MORNING), MORNING * 2)


def notice_that_the_world_changes(device: Device, application: Application) -> None:
    """Drift is found without anybody's help, and waits to be told."""
    while "drift.found" not in kinds(device):
        application.ask(EVENING, times=2)
    device.wait_until(
        lambda status: status["telemetry"]["waiting"] > 2, what="it waits", timeout_s=60
    )


def survive_a_bad_version(plant: Plant, device: Device, application: Application) -> None:
    """It is right wherever its maker looked; live answers put the version before back."""
    plant.release("2.0.0", logarithm_model(), MORNING, np.log(MORNING))
    plant.order("2.0.0", min_requests=20)
    plant.put_in_the_stick()
    reached(device, "trying", "2.0.0")
    while "update.rolled_back" not in kinds(device):
        application.ask(EVENING[:1])
    reached(device, "rolled_back", "1.0.0", "answers held NaN or infinity")
    device.wait_until(
        lambda _: bool(application.ask(EVENING[:1])), what="1.0.0 answers", timeout_s=60
    )
    assert np.allclose(application.ask(EVENING), EVENING * 2)


def take_a_good_version(plant: Plant, device: Device, application: Application) -> None:
    """Its maker has seen the evening."""
    plant.release("3.0.0", affine_model(3.0), EVENING, EVENING * 3)
    plant.order("3.0.0", min_requests=20)
    plant.put_in_the_stick()
    while "3.0.0" not in application.answered:
        application.ask(EVENING[:1])
    application.ask(EVENING)
    reached(device, "active", "3.0.0")
    assert np.allclose(application.ask(EVENING, times=6), EVENING * 3)


def assert_everything_was_told_once(plant: Plant, device: Device, application: Application) -> None:
    events = "SELECT sequence, kind FROM events ORDER BY sequence, id"
    last = device.status()["events"][-1]["sequence"]
    plant.wait_for(lambda: len(plant.rows(events)) >= last)
    plant.wait_for(lambda: plant.counted() == application.answered)
    heard = plant.rows(events)
    assert [sequence for sequence, _ in heard] == list(range(1, len(heard) + 1))
    kept = {event["sequence"]: event["kind"] for event in device.status()["events"]}
    assert kept.items() <= dict(heard).items()
    assert plant.rows("SELECT version, outcome FROM deployments ORDER BY id") == [
        ("1.0.0", "active"),
        ("2.0.0", "rolled_back"),
        ("3.0.0", "active"),
    ]
    # One stream of windows without a gap, each once, and all of them believed; what is kept of the
    # device alone adds up to the same.
    assert plant.rows("SELECT missing, dropped FROM telemetry_streams") == [("[]", 0)]
    assert plant.rows("SELECT * FROM telemetry_faults") == []
    slots = plant.rows("SELECT version, counts FROM telemetry_slots WHERE bundle <> ''")
    requests: dict[str, int] = {}
    for version, counts in slots:
        requests[version] = requests.get(version, 0) + json.loads(counts)["model"]["requests"]
    assert requests == application.answered


def test_a_day_in_the_life(plant: Plant) -> None:
    plant.publish()
    with ExitStack() as stack:
        with plant.serving() as url:
            device = join(plant, url, plant.folder / "device")
            device.start()
            stack.callback(device.stop)
            application = serve_in_the_morning(plant, device)
            # The network goes, and the office's computer with it.
            plant.broker.stop()
        go_on_alone(device, application)
        notice_that_the_world_changes(device, application)
        survive_a_bad_version(plant, device, application)
        take_a_good_version(plant, device, application)
        # The network is back; the office comes later, and the broker keeps everything for it.
        plant.broker.start()
        # The device looks for it ever more seldom; it has enough to do until then.
        device.wait_until(
            lambda status: not status["telemetry"]["drift"]["meter"]["input:x"]["drifted"],
            what="the evening is what it knows",
            timeout_s=60,
        )
        # Of the second at hand there are always one or two windows that are just being told.
        device.wait_until(
            lambda status: status["telemetry"]["waiting"] <= 2,
            what="what waited is told",
            timeout_s=WAIT_SECONDS,
        )
        with plant.serving():
            assert_everything_was_told_once(plant, device, application)
            said = json.loads(plant.command("fleet", "status", "--json"))
            (oven,) = [each for each in said["devices"] if each["device"] == NAME]
            assert oven["state"]["bundles"]["meter"]["active"] == "3.0.0"
