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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgekit_agent.settings import StreamSettings
from edgekit_agent.streams import ModelStream
from tests.simulators.local_agent import RunningAgent, infer_body, make_config
from tests.simulators.signed_fleet import SignedFleet

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
    process = subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        time.sleep(0.05)
    yield port
    process.terminate()
    process.wait(10)


class Camera:
    """Publishes, and hears the answers; use it in a `with` statement."""

    def __init__(self, port: int) -> None:
        self.heard: list[paho.MQTTMessage] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
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
