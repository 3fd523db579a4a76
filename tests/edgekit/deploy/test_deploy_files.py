"""What can be checked of the files in deploy/ without a container engine or a cluster."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


def documents(path: str) -> list[Any]:
    return [item for item in yaml.safe_load_all((DEPLOY / path).read_text()) if item]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What `/metrics` of a fleet with a device and its measurements holds: names and labels."""
    pytest.importorskip("prometheus_client", reason="writes the figures")
    from prometheus_client.parser import text_string_to_metric_families

    from edgekit.fleet.api.control_plane import ControlPlane
    from edgekit.fleet.api.figures import prometheus_text
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.keys import init_keys
    from edgekit.fleet.telemetry.feedback import Feedback, give_feedback
    from simulators.databases import sqlite_database
    from simulators.demo_fleet import clock, populate_devices, populate_history

    folder = tmp_path_factory.mktemp("figures")
    with sqlite_database(folder / "database") as database:
        fleet = Fleet.create(folder / "fleet", "plant-7")
        init_keys(fleet)
        plane = ControlPlane(fleet=fleet, database=database, clock=clock)
        names = populate_devices(plane, devices=40)
        populate_history(plane, names)
        items = [
            Feedback(device=n, bundle="digits", version="1.4.0", id="1", right=9, wrong=1)
            for n in names
        ]
        assert give_feedback(database, items, actor="test", clock=clock).counted
        families = text_string_to_metric_families(prometheus_text(plane).decode())
        return {
            family.name: {label for sample in family.samples for label in sample.labels}
            for family in families
        }


def test_every_figure_that_is_asked_for_exists(figures: dict[str, set[str]]) -> None:
    texts = [
        (DEPLOY / "prometheus/alerts.yml").read_text(),
        (DEPLOY / "grafana/edgekit-fleet.json").read_text(),
    ]
    for text in texts:
        asked = set(re.findall(r"\bedgekit_[a-z_]+", text))
        assert asked
        assert asked <= figures.keys()
    # What nobody looks at is not worth its series.
    assert figures.keys() <= set(re.findall(r"\bedgekit_[a-z_]+", "".join(texts)))


def test_figures_are_asked_for_by_labels_that_they_have(figures: dict[str, set[str]]) -> None:
    dashboard = json.loads((DEPLOY / "grafana/edgekit-fleet.json").read_text())
    (alerts,) = documents("prometheus/alerts.yml")
    wanted = [
        (t["expr"], t.get("legendFormat", "")) for p in dashboard["panels"] for t in p["targets"]
    ]
    wanted += [
        (rule["expr"], rule["annotations"]["summary"].replace("$labels.", ""))
        for group in alerts["groups"]
        for rule in group["rules"]
    ]
    for expression, shown in wanted:
        names = re.findall(r"\bedgekit_[a-z_]+", expression)
        labels = set(re.findall(r"[{,]\s*([a-z]+)=", expression))
        labels |= set(re.findall(r"{{\s*([a-z]+)\s*}}", shown))
        for name in names:
            assert labels <= figures[name] | {"job"}, (expression, shown)


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


def test_prometheus_can_read_what_it_is_asked() -> None:
    grammar = pytest.importorskip("promql_parser", reason="reads queries as Prometheus does")
    (alerts,) = documents("prometheus/alerts.yml")
    asked = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    dashboard = json.loads((DEPLOY / "grafana/edgekit-fleet.json").read_text())
    asked += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for query in asked:
        assert grammar.parse(query), query
    with pytest.raises(ValueError, match="right parenthesis"):
        grammar.parse(asked[0] + ")")


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
                # The fleet's folder is the reader's own.
                assert source.startswith("./fleet") or (DEPLOY / source).exists(), source
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


@pytest.mark.parametrize("version", ["1.27", "1.34"])
def test_kubernetes_knows_every_field_of_the_manifest(version: str) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="brings Kubernetes' schemas")
    objects = documents("kubernetes/edgekit.yaml")
    assert len(objects) > 3
    for item in objects:
        schemas.validate(item, version, strict=True)
    (deployment,) = [item for item in objects if item["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["securityContent"] = {}
    with pytest.raises(schemas.ValidationError, match="securityContent"):
        schemas.validate(deployment, version, strict=True)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text()
        # The program is not installed here; everything else is checked as it stands.
        (tmp_path / path.name).write_text(text.replace("/opt/edgekit/bin/edgekit", "/bin/true"))
    units = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([program, "verify", *units], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "edgekit-" in line] == []
    # The one that copies for the broker is root, without a network.
    for name, threshold in (("edgekit-serve", 25), ("edgekit-broker", 50)):
        unit = str(tmp_path / f"{name}.service")
        security = subprocess.run(
            [program, "security", "--offline=true", f"--threshold={threshold}", unit],
            capture_output=True,
            text=True,
            check=False,
        )
        assert security.returncode == 0, security.stdout[-1500:]


def test_what_is_copied_for_the_broker_is_what_it_reads(tmp_path: Path) -> None:
    """The unit's own words, on other folders and without another user."""
    from edgekit.fleet.broker_changes import READ_AGAIN
    from edgekit.fleet.broker_setup import BrokerPlan, new_fleet

    unit = (DEPLOY / "systemd/edgekit-broker.service").read_text()
    (words,) = re.findall(r"^ExecStart=/bin/sh -c '(.*)'$", unit, re.MULTILINE)
    made = new_fleet(tmp_path / "fleet", "plant-7", BrokerPlan())
    place = tmp_path / "place"
    place.mkdir()
    words = words.replace("/etc/mosquitto/edgekit", str(place)).replace(
        "-o mosquitto -g mosquitto", ""
    )
    words = words.replace("/var/lib/edgekit/fleet/mosquitto", str(made.folder))
    subprocess.run(["/bin/sh", "-c", words], check=True)
    assert {item.name for item in place.iterdir()} == {*READ_AGAIN, "mosquitto.conf"}
    for item in place.iterdir():
        assert item.read_bytes() == (made.folder / item.name).read_bytes()
        assert item.stat().st_mode & 0o777 == 0o600
    path = (DEPLOY / "systemd/edgekit-broker.path").read_text()
    watched = re.findall(
        r"^PathChanged=/var/lib/edgekit/fleet/mosquitto/(\S+)$", path, re.MULTILINE
    )
    assert set(watched) == set(READ_AGAIN) - {"ca.pem"}


def test_the_brokers_files_are_what_fleet_init_writes(tmp_path: Path) -> None:
    from edgekit.cli.fleet import fleet

    made = tmp_path / "fleet"
    options = ["--id", "plant-7", "--broker-host", "mosquitto", "--broker-place"]
    done = CliRunner().invoke(fleet, ["init", str(made), *options, "/mosquitto/config"])
    assert done.exit_code == 0, done.output
    for name in ("mosquitto.conf", "acl", "run.sh"):
        text = (DEPLOY / "mosquitto" / name).read_text()
        assert (made / "mosquitto" / name).read_text() == text
    # Every file that the configuration names is there, and what containers mount it as.
    config = (DEPLOY / "mosquitto/mosquitto.conf").read_text()
    named = re.findall(r"^\w+ /mosquitto/config/(\S+)$", config, re.MULTILINE)
    assert len(named) == 6
    assert all((made / "mosquitto" / name.rstrip("/")).exists() for name in named)
    (compose,) = documents("compose.yaml")
    broker = compose["services"]["mosquitto"]
    assert "./fleet/mosquitto:/mosquitto/config" in broker["volumes"]
    manifest = (DEPLOY / "kubernetes/edgekit.yaml").read_text()
    assert "subPath: fleet/mosquitto" in manifest
    assert broker["entrypoint"] == ["sh", "/mosquitto/config/run.sh"]
    assert 'command: ["sh", "/mosquitto/config/run.sh"]' in manifest
    assert (made / "mosquitto/run.sh").is_file()


def test_the_control_plane_calls_the_broker_by_a_name_of_its_certificate(tmp_path: Path) -> None:
    from cryptography import x509

    from edgekit.fleet.broker_address import parse_broker
    from edgekit.fleet.broker_setup import BrokerPlan, new_fleet

    # As the README says for compose; the others call it localhost, which is always among them.
    made = new_fleet(tmp_path / "fleet", "plant-7", BrokerPlan(hosts=("mosquitto",)))
    pem = (made.folder / "broker.pem").read_bytes()
    found = x509.load_pem_x509_certificates(pem)[0]
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    unit = (DEPLOY / "systemd/edgekit-serve.service").read_text()
    addresses = re.findall(r"EDGEKIT_BROKER=(\S+)", unit)
    for name in ("compose.yaml", "kubernetes/edgekit.yaml"):
        for document in documents(name):
            addresses += [c[c.index("--broker") + 1] for c in commands_of(document)]
    assert len(addresses) == 3
    for address in addresses:
        broker = parse_broker(address, fleet=tmp_path / "fleet")
        assert broker.security is not None
        assert broker.host in names.get_values_for_type(x509.DNSName)
        assert f"listener {broker.port}\n" in (DEPLOY / "mosquitto/mosquitto.conf").read_text()


def instructions() -> list[tuple[str, str]]:
    """Of the Containerfile: each with what follows it, on one line."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def test_the_image_is_made_of_the_package_and_nothing_else() -> None:
    root = DEPLOY.parent
    copied = [words for name, words in instructions() if name == "COPY" and "--from" not in words]
    sources = {source for words in copied for source in words.split()[:-1]}
    # Keys and passwords of a fleet that was made here get into no layer.
    assert not sources & {".", "deploy"}
    assert all((root / source).exists() for source in sources)
    project = tomllib.loads((root / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [*wheel["packages"], *wheel["force-include"], project["project"]["readme"]]
    needed += project["project"]["license-files"]
    for name in needed:
        assert any(name == source or name.startswith(f"{source}/") for source in sources), name


def test_the_image_runs_our_command_as_nobody_of_importance() -> None:
    by_name = dict(instructions())
    assert json.loads(by_name["ENTRYPOINT"]) == ["edgekit"]
    assert json.loads(by_name["CMD"])[:2] == ["fleet", "serve"]
    assert by_name["USER"] == "10001"
    extras = re.findall(r"\.\[([a-z,]+)\]", by_name["RUN"] + str(instructions()))
    known = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    assert extras
    assert set(extras[0].split(",")) <= set(known["optional-dependencies"])
    assert "edgekit" in known["scripts"]
    images = [words.split()[0] for name, words in instructions() if name == "FROM"]
    # A short name is another image on another machine, or none at all.
    assert all(image.startswith("docker.io/library/") for image in images)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[int, Any]]:
    """The control plane's page on a port, and its database."""
    from edgekit.fleet.api.control_plane import ControlPlane
    from edgekit.fleet.api.serving import PageServer
    from edgekit.fleet.folder import Fleet
    from simulators.databases import sqlite_database

    with sqlite_database(folder / "database") as database:
        plane = ControlPlane(fleet=Fleet.create(folder / "fleet", "plant-7"), database=database)
        server = PageServer(plane, host="127.0.0.1", port=0)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield int(server.address.rpartition(":")[2]), database
        finally:
            server.stop()
            thread.join()


def test_the_health_check_sees_a_database_that_is_gone(tmp_path: Path) -> None:
    """The image's own command, and the probes of Kubernetes, on a server that runs."""
    import httpx

    command = json.loads(dict(instructions())["HEALTHCHECK"].partition("CMD ")[2])
    assert command[0] == "python"
    objects = documents("kubernetes/edgekit.yaml")
    (pod,) = [o["spec"]["template"]["spec"] for o in objects if o["kind"] == "Deployment"]
    ready = pod["containers"][0]["readinessProbe"]["httpGet"]
    with served(tmp_path) as (port, database):
        here = [sys.executable, *(word.replace(":8470", f":{port}") for word in command[1:])]
        assert f":{port}" in here[-1]
        assert subprocess.run(here, check=False).returncode == 0
        url = f"http://127.0.0.1:{port}{ready['path']}"
        assert httpx.get(url).status_code == 200
        database.close()
        path = Path(database.engine.url.database)
        path.rename(path.with_suffix(".away"))
        path.mkdir()
        assert subprocess.run(here, check=False, stderr=subprocess.DEVNULL).returncode != 0
        assert httpx.get(url).status_code == 503


def test_devices_reach_the_broker_while_the_database_is_gone() -> None:
    """The pod is not ready then, and its broker is what devices need."""
    objects = documents("kubernetes/edgekit.yaml")
    services = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "Service"}
    assert services["mqtts"]["publishNotReadyAddresses"] is True
    assert "publishNotReadyAddresses" not in services["control-plane"]
    (pod,) = [o["spec"]["template"]["spec"] for o in objects if o["kind"] == "Deployment"]
    for container in pod["containers"]:
        # A restart mends no database.
        assert "httpGet" not in container["livenessProbe"]


def test_what_runs_in_containers_is_given_the_time_to_end() -> None:
    from edgekit.fleet.telemetry import messenger

    # Of the service: 5 for what is being answered, then for notices, then for commands.
    needed = 5 + messenger._GOODBYE_SECONDS + messenger._END_SECONDS
    (compose,) = documents("compose.yaml")
    control = compose["services"]["control-plane"]
    assert int(control["stop_grace_period"].rstrip("s")) >= needed
    objects = documents("kubernetes/edgekit.yaml")
    (pod,) = [o["spec"]["template"]["spec"] for o in objects if o["kind"] == "Deployment"]
    assert pod["terminationGracePeriodSeconds"] >= needed
    unit = (DEPLOY / "systemd/edgekit-serve.service").read_text()
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(seconds) >= needed


def test_grafana_finds_its_figures_and_its_dashboard() -> None:
    (compose,) = documents("compose.yaml")
    mounts = dict(v.split(":")[:2] for v in compose["services"]["grafana"]["volumes"])
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    (sources,) = documents("grafana/provisioning/datasources/prometheus.yaml")
    (source,) = sources["datasources"]
    host = source["url"].removeprefix("http://").partition(":")[0]
    assert host in compose["services"]
    shared = set(compose["services"]["grafana"]["networks"])
    assert shared & set(compose["services"][host]["networks"])
    (boards,) = documents("grafana/provisioning/dashboards/edgekit.yaml")
    (provider,) = boards["providers"]
    place = mounts["./grafana/edgekit-fleet.json"]
    assert Path(place).parent == Path(provider["options"]["path"])
    dashboard = json.loads((DEPLOY / "grafana/edgekit-fleet.json").read_text())
    asked = {v["query"] for v in dashboard["templating"]["list"] if v["type"] == "datasource"}
    assert asked == {source["type"]}


def test_the_check_of_the_broker_tells_an_open_port_from_a_closed_one() -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox, whose nc mosquitto's image has, is not installed")
    import socket

    (compose,) = documents("compose.yaml")
    kind, command = compose["services"]["mosquitto"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = command.replace("8883", str(port)).replace("nc ", f"{busybox} nc ", 1)

        def accept() -> None:
            server.accept()[0].close()

        accepting = threading.Thread(target=accept)
        accepting.start()
        assert subprocess.run([busybox, "sh", "-c", command], check=False).returncode == 0
        accepting.join()
    done = subprocess.run([busybox, "sh", "-c", command], check=False, stderr=subprocess.DEVNULL)
    assert done.returncode != 0
