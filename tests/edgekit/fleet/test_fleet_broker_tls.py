"""mosquitto with the very files that `edgekit fleet init` writes: who gets in, and to what."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgekit.fleet.authority import FleetAuthority
from edgekit.fleet.broker import find_mosquitto
from edgekit.fleet.broker_address import BrokerAddress, parse_broker
from edgekit.fleet.broker_setup import (
    BrokerPlan,
    add_broker,
    broker_folder,
    install_revocations,
    issue_to_folder,
    mosquitto_config,
    new_fleet,
    renew_certificates,
)
from edgekit.fleet.certificates import serial_of
from edgekit.fleet.connection import connected_to
from edgekit.fleet.folder import Fleet
from edgekit.fleet.key_exchange import rotate_key
from edgekit.fleet.key_signing import Signing
from edgekit.fleet.keyring import read_keyring
from edgekit.fleet.keys import director_root, image_root, init_keys
from edgekit.fleet.ordering import order_device
from edgekit.fleet.publisher import publish
from edgekit.fleet.simulation.behaviour import Behaviour
from edgekit.fleet.simulation.crowd import Crowd
from edgekit.fleet.telemetry.listener import FleetListener
from edgekit_agent.verifier import VerifiedOrder, Verifier
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.protocol import Topics, unpack_metadata
from tests.simulators.authority import Authority

TOPICS = Topics("plant-7")


@dataclass
class Secured:
    """A fleet whose broker runs."""

    fleet: Fleet
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> BrokerAddress:
        return parse_broker(f"mqtts://localhost:{self.port}", fleet=self.fleet.path)

    def identity(self, device: str) -> Path:
        """A folder with a device's certificate and key."""
        folder = self.fleet.path.parent / device
        if not folder.exists():
            authority = FleetAuthority.load(self.fleet)
            issue_to_folder(authority, device, folder, request=None, days=30)
        return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(config: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    mosquitto = find_mosquitto()
    assert mosquitto is not None
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(mosquitto), "-c", str(config)], stdout=output, stderr=output
        )

    def accepts() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    assert wait_until(accepts, seconds=30)
    return process


def wait_until(holds: Callable[[], object], *, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    folder = tmp_path_factory.mktemp("secured")
    port = free_port()
    made = new_fleet(folder / "fleet", "plant-7", BrokerPlan(port=port))
    fleet = Fleet.open(folder / "fleet")
    init_keys(fleet)
    process = start(made.config, port, folder / "log")
    yield Secured(fleet=fleet, port=port, process=process, log=folder / "log")
    process.terminate()
    process.wait()


class Device:
    """A client with the certificate in a folder; use it in a `with` statement."""

    def __init__(self, port: int, identity: Path, topics: list[str]) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.heard: dict[str, bytes] = {}
        self._ready = False
        self._client = Client(CallbackAPIVersion.VERSION2)
        context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
        context.load_cert_chain(identity / "device.pem", identity / "device-key.pem")
        self._client.tls_set_context(context)
        self._client.on_message = lambda _c, _d, m: self.heard.update({m.topic: m.payload})
        self._client.on_subscribe = lambda *_: setattr(self, "_ready", True)
        self._client.on_connect = lambda client, *_: client.subscribe([(t, 1) for t in topics])
        self._client.connect("localhost", port)
        self._client.loop_start()

    def __enter__(self) -> Device:
        assert wait_until(lambda: self._ready)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def say(self, *topics: str) -> None:
        for topic in topics:
            self._client.publish(topic, b"x", qos=1, retain=True).wait_for_publish(20)


def gets_in(port: int, context: ssl.SSLContext) -> bool:
    connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x"
    with socket.create_connection(("localhost", port), 20) as raw:
        try:
            with context.wrap_socket(raw, server_hostname="localhost") as line:
                line.sendall(connect)
                # In TLS 1.3 the refusal comes after the handshake.
                return line.recv(4) == b"\x20\x02\x00\x00"
        except (ssl.SSLError, ConnectionError):
            return False


def context_of(identity: Path, *, certificate: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
    if certificate:
        context.load_cert_chain(identity / "device.pem", identity / "device-key.pem")
    return context


def test_a_device_reads_what_the_control_plane_publishes(secured: Secured) -> None:
    for device in ("oven-1", "oven-2"):
        order_device(secured.fleet, device, [])
    done = publish(secured.fleet, secured.address)
    assert done.orders == 2
    with Device(secured.port, secured.identity("oven-1"), [f"{TOPICS.base}/#"]) as device:
        wanted = {TOPICS.metadata, TOPICS.order("oven-1")}
        assert wait_until(lambda: wanted <= set(device.heard))
        # The other's order lies on the broker too; nothing of it comes.
        assert set(device.heard) <= {*wanted, TOPICS.state("oven-1")}
    # What was published to last need not be said again, wherever the folder is then.
    assert Fleet.open(secured.fleet.path).broker == secured.address
    assert str(secured.fleet.path) not in (secured.fleet.path / "fleet.toml").read_text()


def test_devices_follow_exchanged_keys_over_the_line(secured: Secured, tmp_path: Path) -> None:
    """One hears every change, one was away meanwhile; both read what lies on the broker."""
    order_device(secured.fleet, "oven-3", [])
    verifiers = [
        Verifier(
            tmp_path / name,
            device="oven-3",
            image_root=image_root(secured.fleet).read_bytes(),
            director_root=director_root(secured.fleet).read_bytes(),
        )
        for name in ("awake", "asleep")
    ]

    def verify(verifier: Verifier) -> VerifiedOrder:
        topics = [TOPICS.metadata, TOPICS.order("oven-3")]
        with Device(secured.port, secured.identity("oven-3"), topics) as device:
            assert wait_until(lambda: set(topics) <= set(device.heard))
        image, director = (unpack_metadata(device.heard[topic], where=topic) for topic in topics)
        return verifier.verify(image=image, director=director, now=time.time())

    publish(secured.fleet, secured.address)
    before = [verify(verifier).order_version for verifier in verifiers]
    for name in [key.name for key in read_keyring(secured.fleet).keys]:
        rotate_key(secured.fleet, name, Signing())
        publish(secured.fleet, secured.address)
        assert verify(verifiers[0]).order_version == before[0]
    assert verify(verifiers[1]).order_version == before[1]


def test_a_device_that_pretends_to_be_another_reaches_nothing_of_it(secured: Secured) -> None:
    mine = TOPICS.state("oven-1").rpartition("/")[0]
    with (
        Device(secured.port, secured.identity("oven-1"), [f"{TOPICS.base}/#"]) as own,
        Device(secured.port, secured.identity("oven-2"), [TOPICS.state("oven-2")]) as other,
        FleetListener("plant-7", secured.address, name="pretending", telemetry=False) as control,
    ):
        # All that another may try with this device's topics, and at last what it may do.
        other.say(
            *(f"{mine}/{leaf}" for leaf in ("order", "state", "events", "telemetry", "requests")),
            TOPICS.metadata,
            TOPICS.chunk("0" * 64),
            TOPICS.state("oven-2"),
        )
        assert wait_until(lambda: TOPICS.state("oven-2") in other.heard)
        own.say(f"{mine}/order", f"{mine}/state")
        assert wait_until(lambda: own.heard.get(f"{mine}/state") == b"x")
        assert {topic for topic, payload in own.heard.items() if payload == b"x"} == {
            f"{mine}/state"
        }
        states: set[str] = set()

        def both_heard() -> bool:
            states.update(heard.topic for heard in control.take(timeout_s=0.1))
            return {TOPICS.state("oven-1"), TOPICS.state("oven-2")} <= states

        assert wait_until(both_heard)


def test_who_has_no_certificate_of_the_fleet_does_not_get_in(
    secured: Secured, tmp_path: Path
) -> None:
    identity = secured.identity("oven-1")
    assert gets_in(secured.port, context_of(identity))
    assert not gets_in(secured.port, context_of(identity, certificate=False))
    strange = ssl.create_default_context(cafile=str(identity / "ca.pem"))
    other = Authority()
    other.issue("oven-1", tmp_path / "x.pem", tmp_path / "x.key")
    strange.load_cert_chain(tmp_path / "x.pem", tmp_path / "x.key")
    assert not gets_in(secured.port, strange)


def test_the_brokers_own_certificate_lets_nobody_in(secured: Secured) -> None:
    context = ssl.create_default_context(cafile=str(secured.identity("oven-1") / "ca.pem"))
    context.load_cert_chain(broker_folder(secured.fleet) / "broker.pem")
    assert not gets_in(secured.port, context)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_a_revoked_certificate_does_not_get_in_any_more(secured: Secured) -> None:
    identity = secured.identity("stolen")
    assert gets_in(secured.port, context_of(identity))
    authority = FleetAuthority.load(secured.fleet)
    authority.revoke([serial_of(str(identity / "device.pem"))])
    install_revocations(authority)
    secured.process.send_signal(signal.SIGHUP)
    assert wait_until(lambda: not gets_in(secured.port, context_of(identity)))
    assert gets_in(secured.port, context_of(secured.identity("oven-1")))


def test_an_expired_certificate_does_not_get_in(secured: Secured, tmp_path: Path) -> None:
    authority = FleetAuthority.load(secured.fleet)

    def long_ago() -> datetime:
        return datetime.now(UTC) - timedelta(days=40)

    issue_to_folder(authority, "oven-9", tmp_path / "old", request=None, days=30, clock=long_ago)
    assert not gets_in(secured.port, context_of(tmp_path / "old"))
    # Our own: who would only see that the broker hangs up is told why.
    own, key = authority.issue("@control-plane", days=30, clock=long_ago)
    (tmp_path / "own.pem").write_bytes(own.pem.encode() + key)
    place = f"mqtts://localhost:{secured.port}?certificate={tmp_path / 'own.pem'}"
    with pytest.raises(EnvironmentLackError, match=r"our certificate .* has ended at") as caught:
        publish(secured.fleet, parse_broker(place, fleet=secured.fleet.path))
    assert "authority renew" in str(caught.value.fix)


def test_new_certificates_are_taken_into_use(secured: Secured) -> None:
    before = (broker_folder(secured.fleet) / "broker.pem").read_bytes()
    ends = renew_certificates(
        FleetAuthority.load(secured.fleet), hosts=BrokerPlan(hosts=("other.example",)).all_hosts
    )
    assert ends.timestamp() > time.time() + 800 * 86_400
    assert (broker_folder(secured.fleet) / "broker.pem").read_bytes() != before
    with connected_to(secured.address) as connection:
        assert connection.protocol == "MQTT 5"


def test_what_is_wrong_with_the_line_is_said(secured: Secured, tmp_path: Path) -> None:
    folder = secured.fleet.path
    own = secured.identity("oven-1") / "ca.pem"
    nobody = tmp_path / "ca.pem"
    nobody.write_text(Authority().pem)
    place = f"localhost:{secured.port}"
    cases = {
        f"mqtts://{place}?ca={nobody}": "is not to be trusted",
        f"mqtts://{place}?ca={tmp_path / 'none.pem'}": "cannot be prepared",
        f"mqtts://{place}?login={tmp_path / 'none'}": "login cannot be read",
        f"mqtts://localhost:{free_port()}": "no broker answers",
    }
    for text, why in cases.items():
        with pytest.raises(EnvironmentLackError, match=why):
            publish(secured.fleet, parse_broker(text, fleet=folder))
    bare = BrokerAddress(
        "localhost", secured.port, parse_broker("mqtts://x", fleet=tmp_path).security
    )
    with pytest.raises(EnvironmentLackError, match="is not to be trusted"), connected_to(bare):
        pytest.fail("the system trusts no authority of ours")
    without = parse_broker(f"mqtts://{place}?ca={own}", fleet=tmp_path)
    with pytest.raises(EnvironmentLackError, match="does not let us in"), connected_to(without):
        pytest.fail("nobody gets in without a certificate")


def test_simulated_devices_come_in_as_the_control_plane_does(secured: Secured) -> None:
    publish(secured.fleet, secured.address)
    with Crowd.of_fleet(secured.fleet, secured.address, count=3, behaviour=Behaviour()) as crowd:
        assert crowd.figures().connected == 3


def test_a_password_from_a_file_does_as_well(tmp_path: Path) -> None:
    """A broker that asks for a password, with the authority of ours."""
    program = shutil.which("mosquitto_passwd")
    if program is None or find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    port = free_port()
    made = new_fleet(tmp_path / "fleet", "plant-7", BrokerPlan(port=port))
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run([program, "-b", str(passwords), "plane", "secret"], check=True)
    text = made.config.read_text()
    for line in ("require_certificate true", "use_identity_as_username true"):
        text = text.replace(line, line.replace("true", "false"))
    access = made.folder / "acl"
    access.write_text(access.read_text().replace("@control-plane", "plane"))
    made.config.write_text(text + f"password_file {passwords}\n")
    fleet = Fleet.open(tmp_path / "fleet")
    init_keys(fleet)
    login = tmp_path / "login"
    process = start(made.config, port, tmp_path / "log")
    try:
        address = parse_broker(f"mqtts://localhost:{port}?login={login}", fleet=fleet.path)
        login.write_text("plane:wrong\n")
        with pytest.raises(EnvironmentLackError, match="does not let us in"):
            publish(fleet, address)
        login.write_text("plane\n")
        with pytest.raises(UsageError, match="no login"):
            publish(fleet, address)
        login.write_text("plane:secret\n")
        assert publish(fleet, address).metadata_bytes > 0
        again = Fleet.open(fleet.path).broker
        assert again is not None
        assert again == address
        with Crowd.of_fleet(fleet, again, count=2, behaviour=Behaviour()) as crowd:
            assert crowd.figures().connected == 2
    finally:
        process.terminate()
        process.wait()


def test_a_department_of_a_company_signs_for_a_fleet(tmp_path: Path) -> None:
    """The authority is one below another, as companies have them."""
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    company = Authority()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "department")])
    own = company._build(name, key.public_key(), days=10, ca=True)
    chain, secret = tmp_path / "chain.pem", tmp_path / "key.pem"
    form = serialization.Encoding.PEM
    chain.write_text(own.public_bytes(form).decode() + company.pem)
    secret.write_bytes(
        key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    port = free_port()
    plan = BrokerPlan(port=port, authority=chain, authority_key=secret)
    made = new_fleet(tmp_path / "fleet", "plant-7", plan)
    fleet = Fleet.open(tmp_path / "fleet")
    init_keys(fleet)
    process = start(made.config, port, tmp_path / "log")
    secured = Secured(fleet=fleet, port=port, process=process, log=tmp_path / "log")
    try:
        assert publish(fleet, secured.address).metadata_bytes > 0
        assert gets_in(port, context_of(secured.identity("oven-1")))
        assert not gets_in(port, context_of(secured.identity("oven-1"), certificate=False))
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize(
    "text",
    [
        "localhost",
        ":1883",
        "localhost:0",
        "localhost:99999",
        "http://localhost:1883",
        "mqtt://localhost?ca=x",
        "mqtts://localhost?color=red",
        "mqtts://localhost?key=x",
        "mqtts://a b",
    ],
)
def test_what_is_no_address_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no broker address"):
        parse_broker(text, fleet=tmp_path)


@pytest.mark.parametrize(
    ("text", "host", "port", "secure"),
    [
        ("localhost:1883", "localhost", 1883, False),
        ("::1:1883", "::1", 1883, False),
        ("mqtt://broker.example", "broker.example", 1883, False),
        ("mqtts://broker.example", "broker.example", 8883, True),
        ("mqtts://[::1]:9", "::1", 9, True),
        ("mqtts://broker.example:9/?ca=system", "broker.example", 9, True),
    ],
)
def test_addresses(text: str, host: str, port: int, secure: bool, tmp_path: Path) -> None:
    found = parse_broker(text, fleet=tmp_path)
    assert (found.host, found.port, found.security is not None) == (host, port, secure)


def test_settings_hold_files_within_and_outside_of_the_folder(tmp_path: Path) -> None:
    new_fleet(tmp_path / "a", "plant-7", BrokerPlan())
    made = Fleet.open(tmp_path / "a")
    inside = parse_broker("mqtts://broker.example", fleet=made.path)
    made.with_broker(inside)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = Fleet.open(tmp_path / "b").broker
    assert moved == parse_broker("mqtts://broker.example", fleet=tmp_path / "b")
    outside = parse_broker(f"mqtts://x?ca=system&login={tmp_path / 'login'}", fleet=made.path)
    Fleet.open(tmp_path / "b").with_broker(outside)
    assert Fleet.open(tmp_path / "b").broker == outside


def test_a_bad_plan_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("x")
    plans = {
        "no name of a host": BrokerPlan(hosts=("a b",)),
        "is no port": BrokerPlan(port=0),
        "stands on one line": BrokerPlan(place="/a\nb"),
        "go together": BrokerPlan(authority=tmp_path / "x.pem"),
        "no certificate in PEM": BrokerPlan(
            authority=tmp_path / "x.pem", authority_key=tmp_path / "x.pem"
        ),
    }
    for why, plan in plans.items():
        with pytest.raises(UsageError, match=why):
            new_fleet(tmp_path / "fleet", "plant-7", plan)
    assert not (tmp_path / "fleet").exists()


def test_the_broker_is_made_anew_with_the_same_authority(tmp_path: Path) -> None:
    new_fleet(tmp_path / "fleet", "plant-7", BrokerPlan())
    fleet = Fleet.open(tmp_path / "fleet")
    first = FleetAuthority.load(fleet).authorities_pem
    made = add_broker(fleet, BrokerPlan(hosts=("broker.example",), port=9, place="/etc/x"))
    assert made.url == "mqtts://broker.example:9"
    assert FleetAuthority.load(fleet).authorities_pem == first
    # The control plane may call it otherwise than the devices that enrol.
    Fleet.open(fleet.path).with_broker(BrokerAddress("localhost", 9))
    assert Fleet.open(fleet.path).device_broker == BrokerAddress("broker.example", 9)
    assert made.config.read_text() == mosquitto_config("plant-7", place="/etc/x", port=9)


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "busybox"])
def test_a_broker_that_its_runner_has_started_hears_of_changes_by_itself(
    shell: str, tmp_path: Path
) -> None:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    port = free_port()
    made = new_fleet(tmp_path / "fleet", "plant-7", BrokerPlan(port=port))
    fleet = Fleet.open(tmp_path / "fleet")
    authority = FleetAuthority.load(fleet)
    for name in ("oven-1", "stolen"):
        issue_to_folder(authority, name, tmp_path / name, request=None, days=30)
    arguments = [program, *(["sh"] if shell == "busybox" else []), str(made.folder / "run.sh")]
    with (tmp_path / "log").open("wb") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=output)
    try:
        stolen = context_of(tmp_path / "stolen")
        assert wait_until(lambda: accepts(port) and gets_in(port, stolen), seconds=60)
        authority.revoke([serial_of(str(tmp_path / "stolen" / "device.pem"))])
        install_revocations(authority)
        # Nobody sends a signal, and nobody who may come in is shut out.
        assert wait_until(lambda: not gets_in(port, stolen), seconds=60)
        assert gets_in(port, context_of(tmp_path / "oven-1"))
        process.terminate()
        assert process.wait(60) == 0
        assert not accepts(port)
    finally:
        process.kill()
        process.wait()


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
