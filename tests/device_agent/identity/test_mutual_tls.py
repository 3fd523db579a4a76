"""An enrolled device and a real broker that asks for its certificate, under an access list."""

from __future__ import annotations

import contextlib
import getpass
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgekit_agent.config import load_config
from edgekit_agent.identity.enrolment import enrol
from edgekit_agent.identity.keys import make_key, signing_request
from edgekit_agent.supervisor import Supervisor
from edgekit_agent.transports.configured import configured_transport
from edgekit_runtime.protocol import Topics
from edgekit_runtime.requests import DeviceRequest, RequestKind, parse_reply, sign_request
from tests.simulators.authority import Authority, EnrolmentServer
from tests.simulators.signed_fleet import SignedFleet

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
TOPICS = Topics("plant")


def wait_for(holds: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class TlsBroker:
    """Mosquitto that takes the name of a client from its certificate."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.folder = folder
        self.authority = authority
        certificate, key = authority.server(folder)
        (folder / "broker-ca.pem").write_text(authority.pem)
        base = TOPICS.base
        (folder / "acl").write_text(
            f"user server\ntopic readwrite {base}/#\n"
            f"pattern read {base}/repo/#\npattern readwrite {base}/devices/%u/#\n"
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.config = folder / "tls.conf"
        self.config.write_text(
            # As root it would become another user, who may not read what is here.
            f"user {getpass.getuser()}\n"
            f"listener {self.port} 127.0.0.1\ncafile {folder}/broker-ca.pem\n"
            f"certfile {certificate}\nkeyfile {key}\nrequire_certificate true\n"
            f"use_identity_as_username true\nallow_anonymous false\nacl_file {folder}/acl\n"
        )
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [str(MOSQUITTO), "-c", str(self.config)], stderr=subprocess.DEVNULL
        )

        def answers() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return True
            return False

        wait_for(answers)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def client(self, name: str) -> paho.Client:
        """Connected, with a certificate of that name."""
        key = self.folder / f"client-{name}-key.pem"
        make_key(key)
        certificate = self.folder / f"client-{name}.pem"
        certificate.write_text(
            self.authority.sign(signing_request(key, device=name, fleet="plant"))
        )
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.tls_set(str(self.folder / "broker-ca.pem"), str(certificate), str(key))
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        return client


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[EnrolmentServer, TlsBroker]]:
    tokens = {"one": "cam-7", "two": "cam-8"}
    with EnrolmentServer(tmp_path, fleet=SignedFleet(), tokens=tokens) as server:
        broker = TlsBroker(tmp_path, server.authority)
        server.broker = {"host": "127.0.0.1", "port": broker.port}
        yield server, broker
        broker.stop()


def test_an_enrolled_device_talks_and_renews_over_mutual_tls(
    world: tuple[EnrolmentServer, TlsBroker], tmp_path: Path
) -> None:
    server, broker = world
    path = enrol(
        server.url,
        device="cam-7",
        fleet="plant",
        token="one",
        folder=tmp_path / "agent",
        ca=server.ca,
        http_port=0,
    )
    config = load_config(path)
    assert config.tls
    assert config.tls.certificate
    heard: dict[str, list[bytes]] = {}
    plane = broker.client("server")
    plane.on_message = lambda _c, _d, m: heard.setdefault(m.topic, []).append(bytes(m.payload))
    subscribed = threading.Event()
    plane.on_subscribe = lambda *_: subscribed.set()
    plane.subscribe(f"{TOPICS.base}/devices/#", qos=1)
    assert subscribed.wait(30)
    supervisor = Supervisor(config, transport=configured_transport)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        wait_for(lambda: heard.get(TOPICS.state("cam-7")))
        key = server.fleet.director.signers["targets"]

        def sign(data: bytes) -> tuple[str, str]:
            signature = key.sign(data)
            return signature.keyid, signature.signature

        def ask(number: int, kind: RequestKind, **arguments: str) -> dict[str, str]:
            request = DeviceRequest(
                device="cam-7",
                number=number,
                expires=time.time() + 60,
                kind=kind,
                arguments=arguments,
            )
            plane.publish(TOPICS.requests("cam-7"), sign_request(request, [sign]), qos=1)
            replies = heard.setdefault(TOPICS.replies("cam-7"), [])
            wait_for(lambda: len(replies) == number)
            reply = parse_reply(replies[-1], where="test")
            assert reply.ok, reply
            return dict(reply.result)

        asked = ask(1, RequestKind.RENEW)
        new = server.authority.sign(asked["request"], days=20)
        ask(2, RequestKind.CERTIFICATE, certificate=new, authorities="")
        assert config.tls.certificate.read_text() == new
        states = len(heard[TOPICS.state("cam-7")])
        broker.stop()
        broker.start()
        # Connected again, with the new certificate.
        wait_for(lambda: len(heard[TOPICS.state("cam-7")]) > states)
        assert json.loads(heard[TOPICS.state("cam-7")][-1])["device"] == "cam-7"
    finally:
        supervisor.stop()
        thread.join(30)
        plane.disconnect()
        plane.loop_stop()
    assert not thread.is_alive()


def test_a_device_reaches_only_what_is_its_own(
    world: tuple[EnrolmentServer, TlsBroker],
) -> None:
    _, broker = world
    plane = broker.client("server")
    heard: list[str] = []
    plane.on_message = lambda _c, _d, m: heard.append(m.topic)
    subscribed = threading.Event()
    plane.on_subscribe = lambda *_: subscribed.set()
    plane.subscribe(f"{TOPICS.base}/devices/#", qos=1)
    assert subscribed.wait(30)
    thief = broker.client("cam-8")
    for device in ("cam-7", "cam-8"):
        sent = thief.publish(TOPICS.telemetry(device), b"x", qos=1)
        sent.wait_for_publish(10)
    wait_for(lambda: TOPICS.telemetry("cam-8") in heard)
    assert TOPICS.telemetry("cam-7") not in heard
    for client in (thief, plane):
        client.disconnect()
        client.loop_stop()


def test_a_certificate_of_another_authority_is_turned_away(
    world: tuple[EnrolmentServer, TlsBroker], tmp_path: Path
) -> None:
    _, broker = world
    stranger = Authority()
    key = tmp_path / "stranger-key.pem"
    make_key(key)
    certificate = tmp_path / "stranger.pem"
    certificate.write_text(stranger.sign(signing_request(key, device="cam-7", fleet="plant")))
    context = ssl.create_default_context(cafile=str(tmp_path / "broker-ca.pem"))
    context.load_cert_chain(certificate, key)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        talk(context, broker.port)


def talk(context: ssl.SSLContext, port: int) -> None:
    """Say hello in MQTT; in TLS 1.3 a refusal comes with the first answer."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
        if not secure.recv(10):
            raise ConnectionError
