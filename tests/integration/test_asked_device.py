"""A real agent that came in with a token is asked for this and that, and at last shut out.

Between it and the control plane stands mosquitto with TLS and the fleet's own access list.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509

from edgekit.cli import edgekit
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.serving import PageServer
from edgekit.fleet.authority import FleetAuthority
from edgekit.fleet.broker import find_mosquitto
from edgekit.fleet.broker_address import parse_broker
from edgekit.fleet.broker_setup import BrokerPlan, new_fleet
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keys import init_keys
from edgekit.fleet.ordering import order_bundle
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.service.leading import FleetService
from edgekit.fleet.store.database import Database, open_fleet_database
from edgekit.quickstart.device import Device
from edgekit_agent.identity.enrolment import enrol
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.orders import BundleOrder, Gates
from tests.simulators.convolving_models import answers, write_convolving
from tests.simulators.tiny_bundles import GOLDEN, write_measured_bundle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]

NAME = "cam-7"


def wait_for(holds: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 90
    while not (found := holds()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


class Site:
    """A fleet with a broker and a control plane that run, and its commands."""

    bundle = "meter"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        made = new_fleet(folder / "fleet", "plant-7", BrokerPlan(hosts=("127.0.0.1",), port=port))
        self.config = made.config
        fleet = Fleet.open(folder / "fleet")
        init_keys(fleet)
        self.model = write_convolving(folder / "model.onnx")
        model = self.model.read_bytes()
        write_measured_bundle(
            folder / "bundle.ekb",
            self.bundle,
            "1.0.0",
            model,
            inputs=GOLDEN,
            outputs=answers(model, GOLDEN),
        )
        release_bundle(fleet, folder / "bundle.ekb")
        self.address = parse_broker(made.url, fleet=fleet.path)
        self.fleet = fleet.with_broker(self.address)
        self.database: Database = open_fleet_database(self.fleet)

    @contextmanager
    def broker(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [str(find_mosquitto()), "-c", str(self.config)]
        with (self.folder / "broker.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(self._listens, "mosquitto listens")
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def _listens(self) -> bool:
        try:
            socket.create_connection((self.address.host, self.address.port), 1).close()
        except OSError:
            return False
        return True

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The control plane runs; where, for devices."""
        issued, key = FleetAuthority.load(self.fleet).issue("page", hosts=("127.0.0.1",))
        certificate, secret = self.folder / "page.pem", self.folder / "page-key.pem"
        certificate.write_text(issued.pem)
        secret.write_bytes(key)
        plane = ControlPlane(fleet=self.fleet, database=self.database)
        server = PageServer(plane, host="127.0.0.1", port=0, certificate=certificate, key=secret)
        service = FleetService(self.fleet, self.database, self.address)
        stopping = threading.Event()
        threads = [
            threading.Thread(target=server.run),
            threading.Thread(target=service.run, args=[lambda: not stopping.is_set()]),
        ]
        for thread in threads:
            thread.start()
        try:
            yield f"https://{server.address}"
        finally:
            stopping.set()
            server.stop()
            for thread in threads:
                thread.join()

    def run(self, *arguments: str, code: int = 0) -> Any:
        """A command's JSON."""
        options = ["--fleet", str(self.fleet.path), "--json"]
        done = CliRunner().invoke(edgekit, [*arguments, *options])
        if isinstance(done.exception, EdgekitError):
            assert done.exception.exit_code == code, done.exception
            return json.loads(done.stdout) if done.stdout else str(done.exception)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    def ask(self, kind: str, *options: str, code: int = 0) -> dict[str, Any]:
        command = ("fleet", "request", kind, NAME, *options, "--wait", "90")
        (answer,) = self.run(*command, code=code)
        found: dict[str, Any] = answer
        return found

    def is_online(self) -> bool:
        return Inventory(self.database, actor="test").get(NAME).online


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.database.close()


def test_a_device_comes_in_is_asked_and_shut_out(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_PROFILES", str(tmp_path / "profiles"))
    order = BundleOrder(bundle=site.bundle, version="1.0.0", gates=Gates(min_seconds=0.0))
    order_bundle(site.fleet, NAME, order)
    with site.broker() as broker, site.serving() as url:
        publish(site.fleet, site.address)
        token = site.run("fleet", "enrolment", "create", "site=bonn", "--device", NAME)["token"]
        ca = tmp_path / "authority.pem"
        ca.write_text(FleetAuthority.load(site.fleet).authorities_pem)
        enrol(
            url,
            device=NAME,
            fleet="plant-7",
            token=token,
            folder=tmp_path / "agent",
            ca=ca,
            http_port=0,
        )
        device = Device(tmp_path / "agent", NAME)
        # Asked before it is there for the first time.
        early = site.run("fleet", "request", "logs", NAME, "--lines", "3", "--wait", "0")[0]
        assert early["standing"] == "waiting"
        device.start()
        try:
            look_around(site, device, early["number"])
            done = CliRunner().invoke(
                edgekit, ["fleet", "devices", "revoke", NAME, "--fleet", str(site.fleet.path)]
            )
            assert "2 certificates revoked" in done.output, done.output
            broker.send_signal(signal.SIGHUP)
            # Whoever is connected stays so until the next handshake.
            device.stop()
            device.start()
            log = site.folder / "broker.log"
            wait_for(lambda: "certificate verify failed" in log.read_text(), "it is refused")
            wait_for(lambda: not site.is_online(), "it is offline")
        finally:
            device.stop()


def look_around(site: Site, device: Device, early: int) -> None:
    def serves() -> bool:
        found = Inventory(site.database, actor="test").get(NAME).bundles.get(site.bundle, {})
        return found.get("active") == "1.0.0" and found.get("phase") == "active"

    wait_for(serves, "it serves the bundle")
    assert Inventory(site.database, actor="test").get(NAME).labels == {"site": "bonn"}
    first = wait_for(
        lambda: site.run("fleet", "request", "show", NAME, str(early))[0]["answer"], "early answer"
    )
    assert 1 <= len(first[0]["lines"]) <= 3

    # By a file that the bundle is made of: the board that it is like has to be named here.
    command = ("bench", str(site.model), "--device", NAME, "--profile", "raspberrypi4")
    benched = site.run(*command, "--wait", "90")
    (model,) = benched["models"]
    assert model["measured"]["kind"] == "measured on that device"
    assert model["measured"]["bundle"] == site.bundle
    assert model["measured"]["median_ms"] > 0
    (prediction,) = model["predictions"]
    assert prediction["profile"] == "raspberrypi4"
    assert prediction["low_ms"] < prediction["latency_ms"] < prediction["high_ms"]
    calibrated = benched["calibrated"]
    assert (calibrated["profile"], calibrated["base"]) == ("raspberrypi4-cam-7", "raspberrypi4")
    assert "cam-7 of the fleet plant-7" in Path(calibrated["path"]).read_text()
    # The new profile is used by its name, and says of this model what was measured.
    again = site.run("bench", str(site.model), "--predict-only", "--profile", "raspberrypi4-cam-7")
    learnt = again["models"][0]["predictions"][0]
    assert learnt["kind"] == "anchored on your device"
    assert learnt["latency_ms"] == pytest.approx(model["measured"]["median_ms"], rel=1e-6)
    refusal = site.run("bench", "nothing", "--device", NAME, code=2)
    assert "it holds no bundle 'nothing'" in refusal

    # Its owner did not allow it: nothing leaves the device.
    samples = site.ask("samples", code=1)
    assert samples["standing"] == "failed"
    assert "does not allow samples" in samples["answer"][0]["error"]
    assert site.ask("restart")["answer"] == [{"restarting": "server"}]

    held = device.folder / "identity" / "device.pem"
    before = x509.load_pem_x509_certificate(held.read_bytes())
    assert site.ask("renew")["standing"] == "done"
    wait_for(
        lambda: (
            x509.load_pem_x509_certificate(held.read_bytes()).serial_number != before.serial_number
        ),
        "it has another certificate",
    )
    asked = site.run("fleet", "request", "list", NAME, "--all")
    assert next(item["kind"] for item in asked) == "certificate"
    assert len(site.run("fleet", "devices", "show", NAME)["certificates"]) == 2
