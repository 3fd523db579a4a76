"""What can be checked of the files in deploy/ without a container engine or a cluster."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from edgekit.fleet.broker import find_mosquitto

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
FLEET = "edgekit/v1/plant-7"


def documents(path: str) -> list[Any]:
    return [item for item in yaml.safe_load_all((DEPLOY / path).read_text()) if item]


def figures() -> set[str]:
    source = (DEPLOY.parent / "edgekit/fleet/api/figures.py").read_text()
    names = set(re.findall(r'"(edgekit_[a-z_]+)"', source))
    return names | {f"edgekit_recent_{name}" for name in ("requests", "errors")}


def test_every_figure_that_is_asked_for_exists() -> None:
    texts = [
        (DEPLOY / "prometheus/alerts.yml").read_text(),
        (DEPLOY / "grafana/edgekit-fleet.json").read_text(),
    ]
    for text in texts:
        asked = set(re.findall(r"\bedgekit_[a-z_]+", text))
        assert asked
        assert asked <= figures()


def test_alerts_and_dashboard_are_whole() -> None:
    (alerts,) = documents("prometheus/alerts.yml")
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 5
    for rule in rules:
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("warning", "critical")
    (prometheus,) = documents("prometheus/prometheus.yml")
    for name in prometheus["rule_files"]:
        assert (DEPLOY / "prometheus" / name).is_file()
    dashboard = json.loads((DEPLOY / "grafana/edgekit-fleet.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(panel["targets"] for panel in dashboard["panels"])


def commands_of(document: Any) -> Iterator[list[str]]:
    if isinstance(document, dict):
        for key, value in document.items():
            if key in ("args", "command") and isinstance(value, list) and value[0] == "fleet":
                yield value
            yield from commands_of(value)
    elif isinstance(document, list):
        for value in document:
            yield from commands_of(value)


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes/edgekit.yaml"])
def test_the_commands_of_the_manifests_are_ours(name: str) -> None:
    from edgekit.cli.fleet_serve import serve

    commands = [command for document in documents(name) for command in commands_of(document)]
    assert commands
    for command in commands:
        assert command[:2] == ["fleet", "serve"]
        known = {option for parameter in serve.params for option in parameter.opts}
        assert {word for word in command if word.startswith("--")} <= known
    assert CliRunner().invoke(serve, ["--help"]).exit_code == 0


def test_what_compose_mounts_and_names_is_there() -> None:
    (compose,) = documents("compose.yaml")
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                # Certificates are the reader's own.
                assert source == "./certs" or (DEPLOY / source).exists(), source
            else:
                assert source in compose["volumes"]
        for network in service.get("networks", []):
            assert network in compose["networks"]
        for secret in service.get("secrets", []):
            assert (secret if isinstance(secret, str) else secret["source"]) in compose["secrets"]
        for other in service.get("depends_on", {}):
            assert other in compose["services"]
    assert (DEPLOY / "Containerfile").read_text().count("USER 10001") == 1


def test_the_kubernetes_manifest_refers_to_what_it_holds() -> None:
    objects = documents("kubernetes/edgekit.yaml")
    (deployment,) = [item for item in objects if item["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {o["metadata"]["name"] for o in objects if o["kind"] == "PersistentVolumeClaim"}
    ports = {port["name"] for item in pod["containers"] for port in item["ports"]}
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in claims
    for service in (item for item in objects if item["kind"] == "Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for item in objects:
        selector = item.get("spec", {}).get("selector", {})
        assert selector.get("matchLabels", selector) in ({}, labels)
        assert item["kind"] == "Namespace" or item["metadata"]["namespace"] == "edgekit"


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "edgekit-serve.service"
    text = (DEPLOY / "systemd/edgekit-serve.service").read_text()
    # The program is not installed here; everything else is checked as it stands.
    unit.write_text(text.replace("/opt/edgekit/bin/edgekit", "/bin/true"))
    done = subprocess.run(
        [program, "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ours = [line for line in done.stderr.splitlines() if "edgekit-serve" in line]
    assert ours == []
    security = subprocess.run(
        [program, "security", "--offline=true", "--threshold=25", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert security.returncode == 0, security.stdout[-1500:]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """mosquitto with the very files of deploy/, but for its places; certificates of a test."""
    mosquitto = find_mosquitto()
    if mosquitto is None:
        pytest.skip("mosquitto is not installed")
    folder = tmp_path_factory.mktemp("broker")
    make_certificates(folder)
    with socket.socket() as probe, socket.socket() as other:
        probe.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, inner = probe.getsockname()[1], other.getsockname()[1]
    text = (DEPLOY / "mosquitto/mosquitto.conf").read_text()
    text = text.replace("/etc/mosquitto/certs", str(folder)).replace(
        "/etc/mosquitto/acl", str(DEPLOY / "mosquitto/acl")
    )
    text = text.replace("/var/lib/mosquitto/", f"{folder}/")
    text = text.replace("listener 8883", f"listener {port}").replace("1883", str(inner))
    (folder / "mosquitto.conf").write_text(text + "\nuser root\n")
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [str(mosquitto), "-c", str(folder / "mosquitto.conf")], stdout=log, stderr=log
    )
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield folder, port
    process.terminate()
    process.wait()
    log.close()


def make_certificates(folder: Path) -> None:
    from tests.simulators.authority import Authority

    authority = Authority()
    (folder / "ca.pem").write_text(authority.pem)
    for stem in ("broker", "oven-1", "oven-2", "stolen"):
        files = folder / f"{stem}.pem", folder / f"{stem}.key"
        last = authority.issue(stem, *files, names=("localhost",))
    (folder / "crl.pem").write_text(authority.revocation_list(last))


class Device:
    """A client with a device's certificate, or none."""

    def __init__(self, broker: tuple[Path, int], name: str | None, topics: list[str]) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        folder, port = broker
        self.heard: list[str] = []
        self.ready = False
        self._client = Client(CallbackAPIVersion.VERSION2)
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        if name is not None:
            context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
        self._client.tls_set_context(context)
        self._client.on_message = lambda _c, _d, message: self.heard.append(message.topic)
        self._client.on_subscribe = lambda *_: setattr(self, "ready", True)
        self._client.on_connect = lambda client, *_: client.subscribe([(t, 1) for t in topics])
        self._client.connect("localhost", port)
        self._client.loop_start()

    def say(self, *topics: str) -> None:
        for topic in topics:
            self._client.publish(topic, b"x", qos=1).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def wait_until(holds: Any) -> bool:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(holds())


def test_a_device_reaches_its_own_topics_and_nobody_elses(broker) -> None:
    mine = f"{FLEET}/devices/oven-1"
    own = Device(broker, "oven-1", [f"{FLEET}/#"])
    other = Device(broker, "oven-2", [f"{FLEET}/devices/oven-2/state"])
    assert wait_until(lambda: own.ready and other.ready)
    # All that another may try with this device's topics, and at last what it may do with its own.
    other.say(
        *(f"{mine}/{leaf}" for leaf in ("order", "state", "events", "telemetry", "requests")),
        f"{FLEET}/repo/metadata",
        f"{FLEET}/repo/chunks/{'0' * 64}",
        f"{FLEET}/devices/oven-2/state",
    )
    assert wait_until(lambda: other.heard == [f"{FLEET}/devices/oven-2/state"])
    own.say(f"{mine}/order", f"{mine}/state")
    assert wait_until(lambda: f"{mine}/state" in own.heard)
    # Of everything that was said it heard its own state alone, although it asked for all.
    assert own.heard == [f"{mine}/state"]
    own.close()
    other.close()


@pytest.mark.parametrize("name", [None, "stolen"])
def test_without_a_valid_certificate_nobody_gets_in(broker, name: str | None) -> None:
    folder, port = broker
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if name:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x"
    with socket.create_connection(("localhost", port), 10) as raw:
        try:
            with context.wrap_socket(raw, server_hostname="localhost") as secured:
                secured.sendall(connect)
                # In TLS 1.3 the refusal comes after the handshake.
                answer = secured.recv(16)
        except (ssl.SSLError, ConnectionError):
            answer = b""
    assert answer == b""
