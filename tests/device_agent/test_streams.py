"""The MQTT door against a real mosquitto."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgekit_agent.config import load_config
from edgekit_agent.settings import StreamSettings, Tls
from edgekit_agent.streams import ModelStream, start_streams
from edgekit_agent.tls import tls_context
from edgekit_runtime.errors import UsageError
from tests.simulators.authority import Authority
from tests.simulators.babbler import Babbler
from tests.simulators.local_agent import RunningAgent, infer_body, make_config
from tests.simulators.signed_fleet import SignedFleet

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
CONNACK_5 = b"\x20\x03\x00\x00\x00"
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with broker(tmp_path, "allow_anonymous true") as port:
        yield port


@contextlib.contextmanager
def broker(tmp_path: Path, *lines: str) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    # As root it would become another user, who may not read its files.
    options = [f"listener {port} 127.0.0.1", *lines, "set_tcp_nodelay true", "user root"]
    config.write_text("\n".join(options) + "\n")
    process = subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        time.sleep(0.05)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


class Camera:
    """Publishes, and hears the answers; use it in a `with` statement."""

    def __init__(self, port: int, prepare: Callable[[paho.Client], None] = id) -> None:
        self.heard: list[paho.MQTTMessage] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        prepare(self.client)
        self.client.on_message = lambda _c, _d, message: self.heard.append(message)
        self._ready = threading.Event()
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.client.subscribe("answers/#", qos=1)
        assert self._ready.wait(30)

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def publish(self, payload: bytes, **properties: Any) -> None:
        given = Properties(PacketTypes.PUBLISH)
        for name, value in properties.items():
            setattr(given, name, value)
        self.client.publish("camera/7/frame", payload, qos=1, properties=given)

    def wait(self, count: int) -> list[paho.MQTTMessage]:
        deadline = time.monotonic() + 30
        while len(self.heard) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(self.heard) >= count
        return self.heard


def settings(port: int, **changes: Any) -> StreamSettings:
    usual = StreamSettings(
        model="double", topic_in="camera/+/frame", topic_out="answers/all", port=port
    )
    return dataclasses.replace(usual, **changes)


@needs_mosquitto
def test_messages_are_answered_through_a_switch_of_versions(tmp_path: Path, port: int) -> None:
    fleet = SignedFleet()
    config = dataclasses.replace(make_config(tmp_path, fleet), streams=(settings(port),))
    agent = RunningAgent(config=config, fleet=fleet)
    agent.start()
    body = json.dumps(infer_body([1.0, 2.0, 3.0, 4.0])).encode()
    try:
        agent.install("1.0.0", 2.0)
        supervisor = agent.supervisor
        assert supervisor
        agent.wait_for(supervisor._streams[0]._client.is_connected)
        with Camera(port) as camera:
            # Its subscription is on its way.
            while not camera.heard:
                camera.publish(body)
                time.sleep(0.1)
            first = json.loads(camera.heard[0].payload)
            assert (first["model_version"], first["outputs"][0]["data"]) == ("1.0.0", [2, 4, 6, 8])
            assert camera.heard[0].topic == "answers/all"
            agent.install("2.0.0", 3.0)
            agent.wait_for(lambda: agent.served_versions() == ["2.0.0"])
            supervisor_doors = supervisor._doors
            agent.wait_for(lambda: supervisor_doors.settled)
            known = len(camera.heard)
            camera.publish(
                struct.pack("<4f", 1, 2, 3, 4),
                ContentType="application/octet-stream",
                ResponseTopic="answers/mine",
                CorrelationData=b"42",
            )
            answers = camera.wait(known + 1)
            mine = next(each for each in answers if each.topic == "answers/mine")
            assert mine.properties.CorrelationData == b"42"
            assert json.loads(mine.payload)["model_version"] == "2.0.0"
            camera.publish(b"no json", ResponseTopic="answers/mine")
            errors = camera.wait(known + 2)
            assert "no JSON" in json.loads(errors[-1].payload)["error"]
    finally:
        agent.stop()


@needs_mosquitto
def test_when_the_models_are_busy_the_oldest_messages_are_dropped(port: int) -> None:
    # Nobody accepts: the first message waits for its answer, and the rest in the queue.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stream = ModelStream(settings(port, queue_messages=2), address=silent.getsockname())
        stream.start()
        with Camera(port) as camera:
            deadline = time.monotonic() + 30
            while stream.dropped < 3 and time.monotonic() < deadline:
                camera.publish(b"frame")
                time.sleep(0.05)
        assert stream.dropped >= 3
        assert stream._waiting.qsize() == 2
        assert stream.answered == 0
    stream.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[StreamSettings]:
    """A stream of a broker that asks for TLS, a certificate, a name and a password."""
    authority = Authority()
    ca = tmp_path / "ca.pem"
    ca.write_text(authority.pem)
    certificate, secret = authority.server(tmp_path)
    own, key = tmp_path / "own.pem", tmp_path / "own-key.pem"
    authority.issue("camera-models", own, key)
    passwords = tmp_path / "passwords"
    passwords.write_text("models:right\n")
    subprocess.run([str(shutil.which("mosquitto_passwd")), "-U", str(passwords)], check=True)
    password = tmp_path / "password"
    password.write_text("right\n")
    password.chmod(0o600)
    with broker(
        tmp_path,
        f"cafile {ca}",
        f"certfile {certificate}",
        f"keyfile {secret}",
        "require_certificate true",
        "allow_anonymous false",
        f"password_file {passwords}",
    ) as port:
        yield settings(
            port,
            tls=Tls(ca=ca, certificate=own, key=key),
            username="models",
            password_file=password,
        )


@needs_mosquitto
@pytest.mark.skipif(not shutil.which("mosquitto_passwd"), reason="mosquitto_passwd is missing")
def test_a_stream_proves_its_broker_and_itself(guarded: StreamSettings) -> None:
    def prepare(client: paho.Client) -> None:
        assert guarded.tls
        client.tls_set_context(tls_context(guarded.tls))
        client.username_pw_set("models", "right")

    with socket.create_server(("127.0.0.1", 0)) as models:
        stream = ModelStream(guarded, address=models.getsockname())
        stream.start()
        models.settimeout(30)
        with Camera(guarded.port, prepare) as camera:
            # Retained: it comes once, whether the stream has subscribed already or does so later.
            camera.client.publish("camera/7/frame", b"frame", qos=1, retain=True)
            asked, _ = models.accept()
            assert asked.recv(10_000).startswith(b"POST /v2/models/double/infer")
            asked.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer")
            assert camera.wait(1)[0].payload == b"answer"
            asked.close()
        stream.close()


@needs_mosquitto
@pytest.mark.skipif(not shutil.which("mosquitto_passwd"), reason="mosquitto_passwd is missing")
# paho leaves a socket behind whose handshake failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("wrong", ["password", "authority", "certificate"])
def test_a_stream_that_is_not_let_in_goes_on_asking(
    guarded: StreamSettings, wrong: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert guarded.tls
    if wrong == "password":
        assert guarded.password_file
        guarded.password_file.write_text("wrong")
    elif wrong == "authority":
        guarded.tls.ca.write_text(Authority().pem)
    else:
        guarded = dataclasses.replace(
            guarded, tls=dataclasses.replace(guarded.tls, certificate=None, key=None)
        )
    stream = ModelStream(guarded, address=("127.0.0.1", 1))
    stream.start()
    said = {
        "password": f"broker {guarded.address} refused: Not authorized",
        "authority": "CERTIFICATE_VERIFY_FAILED",
        "certificate": f"broker {guarded.address} ended the connection",
    }[wrong]
    deadline = time.monotonic() + 30
    while caplog.text.count(said) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    stream.close()
    assert caplog.text.count(said) >= 2
    assert not stream._accepted


def test_what_is_wrong_with_a_streams_files_is_told_and_the_others_start(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o644)
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    missing = tmp_path / "missing.pem"
    told: list[str] = []
    streams = start_streams(
        (
            settings(1, username="u", password_file=password),
            settings(1, tls=Tls(ca=missing, certificate=None, key=None)),
            settings(1, tls=Tls(ca=junk, certificate=None, key=None)),
            settings(1),
        ),
        address=("127.0.0.1", 1),
        tell=told.append,
    )
    assert len(streams) == 1
    streams[0].close()
    assert "others may read the password" in told[0]
    assert f"chmod 600 {password}" in told[0]
    assert f"no such file [{missing}]" in told[1]
    assert "TLS cannot be spoken with these files" in told[2]
    assert all(text.startswith("camera/+/frame of 127.0.0.1:1: ") for text in told)
    assert "secret" not in " ".join(told)


def test_a_streams_own_broker_is_read_from_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    usual = 'device = "d"\nfleet = "f"\nimage_root = "a"\ndirector_root = "b"\n'
    usual += '[broker]\nhost = "h"\n[[stream]]\nmodel = "m"\ntopic_in = "i"\ntopic_out = "o"\n'

    def load(text: str) -> StreamSettings:
        path.write_text(usual + text)
        return load_config(path).streams[0]

    assert (load("").tls, load("").port, load("").username) == (None, 1883, "")
    found = load('host = "b"\nusername = "u"\npassword_file = "p"\n[stream.tls]\nca = "ca.pem"\n')
    assert found.tls == Tls(ca=tmp_path / "ca.pem", certificate=None, key=None)
    assert (found.port, found.username, found.password_file) == (8883, "u", tmp_path / "p")
    assert load('username = "u"\npassword_file = "p"\n').tls is None
    for wrong, fault in (
        ('host = "b"\nusername = "u"\npassword_file = "p"\n', "to b in the clear: needs tls"),
        ('host = "127.example"\nusername = "u"\npassword_file = "p"\n', "in the clear: needs tls"),
        ('password_file = "p"\n', "needs a username"),
        ('[stream.tls]\nca = "a"\nkey = "k"\n', "certificate and key come together"),
        ('[stream.tls]\nca = "a"\ncrl = "c"\n', "crl: is not known"),
    ):
        with pytest.raises(UsageError, match=fault):
            load(wrong)


def test_a_broker_that_knows_only_3_1_1_is_spoken_to_in_it() -> None:
    """It hangs up on MQTT 5, sends one message, and hears the answer."""
    levels: list[int] = []
    heard = bytearray()
    topic, payload = b"camera/7/frame", b"{}"
    message = len(topic).to_bytes(2) + topic + payload
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                packet = client.recv(1000)
                level = packet[packet.index(b"MQTT") + 4]
                levels.append(level)
                if level == 4:
                    client.sendall(b"\x20\x02\x00\x00")
                    # SUBSCRIBE, whose packet id stands after the fixed header.
                    client.sendall(b"\x90\x03" + client.recv(1000)[2:4] + b"\x00")
                    client.sendall(b"\x30" + len(message).to_bytes(1) + message)
                    while data := client.recv(1000):
                        heard.extend(data)
                client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with socket.create_server(("127.0.0.1", 0)) as models:
        stream = ModelStream(settings(server.getsockname()[1]), address=models.getsockname())
        stream.start()
        models.settimeout(30)
        asked, _ = models.accept()
        request = asked.recv(10_000)
        assert request.startswith(b"POST /v2/models/double/infer")
        asked.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer")
        deadline = time.monotonic() + 30
        while b"answers/allanswer" not in heard and time.monotonic() < deadline:
            time.sleep(0.02)
        asked.close()
        stream.close()
    assert b"answers/allanswer" in heard
    assert levels[0] == 5
    assert levels[-1] == 4
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


@needs_mosquitto
def test_a_content_type_that_no_header_can_hold_ends_no_stream(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as models:
        models.settimeout(0.1)
        stream = ModelStream(settings(port), address=models.getsockname())
        stream.start()
        with Camera(port) as camera:
            deadline = time.monotonic() + 30
            asked = None
            # The stream's own subscription is on its way.
            while asked is None and time.monotonic() < deadline:
                camera.publish(b"hostile", ContentType="image/\N{SNOWMAN}")
                if camera.heard:
                    camera.publish(b"good")
                with contextlib.suppress(TimeoutError):
                    asked, _ = models.accept()
            assert asked
            asked.settimeout(30)
            assert asked.recv(10_000).startswith(b"POST /v2/models/double/infer")
            asked.close()
        stream.close()
    assert b"content type" in camera.heard[0].payload


def test_a_broker_that_says_too_much_or_has_an_odd_name_is_asked_again(
    babbler: Babbler, caplog: pytest.LogCaptureFixture
) -> None:
    babbler.says = CONNACK_5 + b"\x30\xff\xff\xff\x7f"
    odd = [settings(babbler.port), settings(1, host="x" * 64 + ".example")]
    streams = [ModelStream(each, address=("127.0.0.1", 1)) for each in odd]
    for stream in streams:
        stream.start()
    deadline = time.monotonic() + 30
    counts = [0, 0]
    while min(counts) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
        counts = [caplog.text.count(f"{each.address} cannot be followed: ") for each in odd]
    for stream in streams:
        stream.close()
    assert min(counts) >= 2
    assert "sends a packet of 268435455 bytes" in caplog.text


def test_a_filter_that_is_none_is_told() -> None:
    told: list[str] = []
    odd = (settings(1, topic_in="camera/#/frame"), settings(1, topic_in="camera+"))
    assert start_streams(odd, address=("127.0.0.1", 1), tell=told.append) == []
    assert all("no topic filter" in text for text in told)
    assert len(told) == 2
