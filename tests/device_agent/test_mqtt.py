"""The transport and the whole agent against a real mosquitto, and against a 3.1.1-only broker."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgekit_agent.transports.arrivals import (
    Arrival,
    ChunkCame,
    Connected,
    Disconnected,
    MetadataCame,
    OrderCame,
    ReportKind,
    ReportTaken,
    ReportTooLarge,
    ReportUnheard,
    RequestCame,
)
from edgekit_agent.transports.mqtt import BoundedClient, MqttTransport
from edgekit_runtime.protocol import Topics
from tests.simulators.local_agent import DEVICE, infer_body
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import affine_bundle

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
TOPICS = Topics("plant")


def wait_for(holds: Callable[[], object], seconds: float = 30.0, say: object = "") -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, say() if callable(say) else say
        time.sleep(0.02)


class Mosquitto:
    """A broker in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.config = folder / "mosquitto.conf"
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "set_tcp_nodelay true\nlog_type none\n" + "".join(f"{line}\n" for line in options)
        )
        self.start()

    def start(self) -> None:
        assert MOSQUITTO
        self.process = subprocess.Popen([MOSQUITTO, "-c", str(self.config)])
        wait_for(self._answers)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def publish(self, messages: dict[str, bytes]) -> None:
        """Publish retained messages, and wait until the broker has them."""
        with self.client() as client:
            sent = [client.publish(t, m, qos=1, retain=True) for t, m in messages.items()]
            for one in sent:
                one.wait_for_publish(10)

    @contextlib.contextmanager
    def client(self) -> Iterator[paho.Client]:
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        try:
            yield client
        finally:
            client.disconnect()
            client.loop_stop()

    @contextlib.contextmanager
    def hearing(self) -> Iterator[list[tuple[str, bytes]]]:
        """What the device reports from now on, topic and message: a control plane listens."""
        heard: list[tuple[str, bytes]] = []
        subscribed = threading.Event()
        with self.client() as client:
            client.on_message = lambda _c, _d, m: heard.append((m.topic, bytes(m.payload)))
            client.on_subscribe = lambda *_: subscribed.set()
            client.subscribe([(TOPICS.report(DEVICE, kind), 1) for kind in ReportKind])
            assert subscribed.wait(30)
            yield heard

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    running = Mosquitto(tmp_path)
    yield running
    running.stop()


class Listener:
    """Keeps what a transport posts."""

    def __init__(self, port: int, *, window: int = 3) -> None:
        self.arrivals: list[Arrival] = []
        self.transport = MqttTransport(
            host="127.0.0.1",
            port=port,
            tls=None,
            topics=TOPICS,
            device=DEVICE,
            will=b"gone",
            chunk_window=window,
            post=self.arrivals.append,
        )

    def of(self, kind: type[Any]) -> list[Any]:
        return [arrival for arrival in list(self.arrivals) if isinstance(arrival, kind)]


@needs_mosquitto
def test_chunks_come_through_a_window_and_only_those_wanted(broker: Mosquitto) -> None:
    chunks = {f"{number:064x}": os.urandom(1000) for number in range(40)}
    broker.publish({TOPICS.chunk(name): data for name, data in chunks.items()})
    broker.publish({TOPICS.metadata: b"m", TOPICS.order(DEVICE): b"o"})
    listener = Listener(broker.port)
    listener.transport.start()
    wait_for(lambda: listener.of(MetadataCame) and listener.of(OrderCame))
    wanted = list(chunks)[:30]
    listener.transport.want(wanted)
    taken: dict[str, bytes] = {}

    def take() -> bool:
        for arrival in listener.of(ChunkCame):
            if arrival.sha256 not in taken:
                taken[arrival.sha256] = arrival.data
                listener.transport.received(arrival.sha256)
        return len(taken) == 30

    wait_for(lambda: len(listener.of(ChunkCame)) == 3)
    time.sleep(0.2)
    assert len(listener.of(ChunkCame)) == 3
    wait_for(take)
    assert taken == {name: chunks[name] for name in wanted}
    listener.transport.close(b"bye")


@needs_mosquitto
def test_missing_chunks_do_not_block_the_window(broker: Mosquitto) -> None:
    there = {f"{number:064x}": b"data" for number in range(100, 103)}
    broker.publish({TOPICS.chunk(name): data for name, data in there.items()})
    absent = [f"{number:064x}" for number in range(3)]
    listener = Listener(broker.port)
    listener.transport.want([*absent, *there])
    listener.transport.start()
    wait_for(lambda: listener.of(Connected))
    time.sleep(0.2)
    assert listener.of(ChunkCame) == []
    listener.transport.retry(absent)
    wait_for(lambda: {c.sha256 for c in listener.of(ChunkCame)} == set(there))
    listener.transport.close(b"bye")


@needs_mosquitto
def test_it_connects_again_and_says_which_reports_were_taken(broker: Mosquitto) -> None:
    listener = Listener(broker.port)
    listener.transport.start()
    wait_for(lambda: listener.of(Connected))
    broker.stop()
    wait_for(lambda: listener.of(Disconnected))
    listener.transport.publish_report(ReportKind.EVENTS, 7, b"while it was away")
    broker.start()
    wait_for(lambda: len(listener.of(Connected)) == 2)
    with broker.hearing() as heard, broker.client() as client:
        for key, kind in enumerate(ReportKind):
            listener.transport.publish_report(kind, key, kind.encode())
        wait_for(lambda: len(listener.of(ReportTaken)) == 3 and len(heard) == 3)
        assert dict(heard) == {TOPICS.report(DEVICE, kind): kind.encode() for kind in ReportKind}
        assert {(t.kind, t.key) for t in listener.of(ReportTaken)} == {
            (kind, key) for key, kind in enumerate(ReportKind)
        }
        client.publish(TOPICS.requests(DEVICE), b"please", qos=1)
        wait_for(lambda: [r.data for r in listener.of(RequestCame)] == [b"please"])
    listener.transport.close(b"bye")


@needs_mosquitto
def test_nothing_is_sent_that_the_broker_would_hang_up_on(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path, "max_packet_size 5000")
    listener = Listener(broker.port)
    try:
        listener.transport.start()
        wait_for(lambda: listener.of(Connected))
        listener.transport.publish_state(bytes(6000))
        listener.transport.publish_report(ReportKind.TELEMETRY, 1, bytes(6000))
        wait_for(lambda: listener.of(ReportTooLarge))
        (refused,) = listener.of(ReportTooLarge)
        assert (refused.kind, refused.key) == (ReportKind.TELEMETRY, 1)
        assert 4900 < refused.most_bytes < 5000
        with broker.hearing():
            listener.transport.publish_report(ReportKind.TELEMETRY, 2, bytes(refused.most_bytes))
            wait_for(lambda: listener.of(ReportTaken))
        assert [taken.key for taken in listener.of(ReportTaken)] == [2]
        assert listener.of(Disconnected) == []
    finally:
        listener.transport.close(b"bye")
        broker.stop()


@needs_mosquitto
def test_one_thread_alone_uses_the_connection(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TLS connection that one thread reads while another writes breaks: "bad record mac"."""
    writers = set()

    def send(client: paho.Client, data: bytes) -> int:
        writers.add(threading.current_thread().name)
        return paho.Client._sock_send(client, data)

    monkeypatch.setattr(BoundedClient, "_sock_send", send)
    listener = Listener(broker.port)
    listener.transport.start()
    wait_for(lambda: listener.of(Connected))
    with broker.hearing():
        for key in range(20):
            listener.transport.publish_state(b"here")
            listener.transport.publish_report(ReportKind.EVENTS, key, b"this")
        listener.transport.want([f"{number:064x}" for number in range(9)])
        wait_for(lambda: len(listener.of(ReportTaken)) == 20)
    listener.transport.close(b"bye")
    assert writers == {"mqtt"}


@needs_mosquitto
def test_what_nobody_hears_is_not_taken(broker: Mosquitto) -> None:
    listener = Listener(broker.port)
    listener.transport.start()
    wait_for(lambda: listener.of(Connected))
    for key in range(5):
        listener.transport.publish_report(ReportKind.EVENTS, key, b"this")
    wait_for(lambda: len(listener.of(ReportUnheard)) == 5)
    assert "No matching subscribers" in listener.of(ReportUnheard)[0].reason
    assert listener.of(ReportTaken) == []
    with broker.hearing() as heard:
        listener.transport.publish_report(ReportKind.EVENTS, 5, b"that")
        wait_for(lambda: listener.of(ReportTaken))
        wait_for(lambda: heard == [(TOPICS.events(DEVICE), b"that")])
    assert [taken.key for taken in listener.of(ReportTaken)] == [5]
    listener.transport.close(b"bye")


@needs_mosquitto
def test_the_last_will_and_the_farewell_are_retained(broker: Mosquitto) -> None:
    listener = Listener(broker.port)
    listener.transport.start()
    wait_for(lambda: listener.of(Connected))
    heard: list[bytes] = []
    with broker.client() as client:
        client.on_message = lambda _c, _d, message: heard.append(bytes(message.payload))
        client.subscribe(TOPICS.state(DEVICE), qos=1)
        listener.transport.publish_state(b"here")
        wait_for(lambda: heard == [b"here"])
        listener.transport.close(b"bye")
        wait_for(lambda: heard == [b"here", b"bye"])


def test_it_falls_back_to_3_1_1(tmp_path: Path) -> None:
    """A broker that hangs up on MQTT 5, as one that does not know it may."""
    protocols: list[int] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                packet = client.recv(1000)
                level = packet[packet.index(b"MQTT") + 4]
                protocols.append(level)
                if level == 4:
                    client.sendall(b"\x20\x02\x00\x00")
                    while client.recv(1000):
                        continue
                client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    listener = Listener(server.getsockname()[1])
    listener.transport.start()
    wait_for(lambda: listener.of(Connected))
    assert protocols == [5, 4]
    listener.transport.close(b"bye")
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


def test_a_packet_without_end_is_not_gathered() -> None:
    """A hostile broker announces 256 MB, and sends what it can."""
    server = socket.create_server(("127.0.0.1", 0))
    sent = []

    def serve() -> None:
        client, _ = server.accept()
        with client, contextlib.suppress(OSError):
            client.settimeout(10)
            client.recv(1000)
            # CONNACK of MQTT 5, then a PUBLISH with the largest length that the protocol has.
            client.sendall(b"\x20\x03\x00\x00\x00" + b"\x30\xff\xff\xff\x7f")
            while len(sent) < 2000:
                client.sendall(bytes(1 << 16))
                sent.append(1)

    thread = threading.Thread(target=serve)
    thread.start()
    listener = Listener(server.getsockname()[1])
    listener.transport.start()
    wait_for(lambda: listener.of(Disconnected))
    assert "a packet of 268435455 bytes" in listener.of(Disconnected)[0].reason
    thread.join(20)
    listener.transport.close(b"bye")
    server.close()
    # What the kernel buffers on its own, and not 128 MB.
    assert len(sent) < 500


class AgentProcess:
    """`edgekit-agent run`, as a user starts it."""

    def __init__(self, folder: Path, fleet: SignedFleet, broker_port: int) -> None:
        self.folder = folder / "agent"
        for name, repository in (("i.json", fleet.image), ("d.json", fleet.director)):
            (folder / name).write_bytes(repository.first_root)
        self.command("init", "--device", DEVICE, "--fleet", "plant", "--folder", self.folder,
                     "--broker", f"127.0.0.1:{broker_port}", "--http-port", "0",
                     "--image-root", folder / "i.json", "--director-root", folder / "d.json",
                     config=False)  # fmt: skip
        self.start()

    def command(self, name: str, *arguments: object, config: bool = True) -> str:
        given = ["--config", self.folder / "agent.toml"] if config else []
        run = subprocess.run(
            [sys.executable, "-m", "edgekit_agent.cli", name, *map(str, (*given, *arguments))],
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgekit_agent.cli", "run", "--config",
             str(self.folder / "agent.toml")],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(lambda: self.status().get("pid") == self.process.pid)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / "data" / "status.json").read_bytes())
        except OSError:
            return {}
        return found

    def bundle(self) -> dict[str, Any]:
        found: dict[str, Any] = self.status().get("state", {}).get("bundles", {}).get("double", {})
        return found

    def is_active(self, version: str) -> bool:
        bundle = self.bundle()
        return (bundle.get("active"), bundle.get("phase")) == (version, "active")

    def answer(self) -> list[float]:
        client = http.client.HTTPConnection("127.0.0.1", self.status()["port"], timeout=30)
        body = json.dumps(infer_body([1.0, 2.0, 3.0, 4.0]))
        client.request("POST", "/v2/models/double/infer", body)
        document = json.loads(client.getresponse().read())
        client.close()
        data: list[float] = document["outputs"][0]["data"]
        return data


def publish(broker: Mosquitto, fleet: SignedFleet, order: bytes) -> None:
    broker.publish({TOPICS.chunk(name): data for name, data in fleet.chunks.items()})
    broker.publish({TOPICS.metadata: fleet.image_message()})
    broker.publish({TOPICS.order(DEVICE): order})


@needs_mosquitto
def test_the_agent_as_a_process_from_init_to_update_and_back(
    tmp_path: Path, broker: Mosquitto
) -> None:
    fleet = SignedFleet()
    agent = AgentProcess(tmp_path, fleet, broker.port)
    try:
        wait_for(lambda: agent.status().get("connected"))
        rss = agent.status()["supervisor_rss_bytes"]
        maps = Path(f"/proc/{agent.process.pid}/maps").read_text()
        for library in ("numpy", "onnxruntime", "ai_edge_litert"):
            assert library not in maps
        fleet.release("double", "1.0.0", affine_bundle("double", "1.0.0", 2.0, padding=300_000))
        publish(broker, fleet, fleet.order(DEVICE, quick_order("double", "1.0.0")))
        wait_for(lambda: agent.is_active("1.0.0"), say=agent.status)
        assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
        assert "serves 1.0.0 (plain)" in agent.command("status")
        assert rss < 45 << 20
        # Verified signatures, installed, connected: this is what stays resident.
        maps = Path(f"/proc/{agent.process.pid}/maps").read_text()
        assert [name for name in ("numpy", "cryptography") if name in maps] == []
        wait_for(lambda: agent.status()["supervisor_rss_bytes"] < 45 << 20, say=agent.status)
        # The broker goes, and the agent with it; what is installed is served again.
        broker.stop()
        assert agent.stop() == 0
        agent.start()
        wait_for(lambda: agent.status().get("ready"))
        assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
        # The broker comes back without its memory; a new version gets through.
        broker.start()
        fleet.release("double", "2.0.0", affine_bundle("double", "2.0.0", 3.0))
        publish(broker, fleet, fleet.order(DEVICE, quick_order("double", "2.0.0")))
        wait_for(lambda: agent.is_active("2.0.0"), say=agent.status)
        assert agent.answer() == [3.0, 6.0, 9.0, 12.0]
    finally:
        assert agent.stop() == 0


@needs_mosquitto
@pytest.mark.parametrize("phase", ["fetching", "staged", "trying", "active"])
def test_a_kill_in_any_phase_leaves_a_working_model(
    tmp_path: Path, broker: Mosquitto, phase: str
) -> None:
    fleet = SignedFleet()
    agent = AgentProcess(tmp_path, fleet, broker.port)
    try:
        fleet.release("double", "1.0.0", affine_bundle("double", "1.0.0", 2.0))
        publish(broker, fleet, fleet.order(DEVICE, quick_order("double", "1.0.0")))
        wait_for(lambda: agent.is_active("1.0.0"), say=agent.status)
        fleet.release("double", "2.0.0", affine_bundle("double", "2.0.0", 3.0, padding=400_000))
        held_back = {} if phase != "fetching" else dict([fleet.chunks.popitem()])
        order = quick_order("double", "2.0.0")
        if phase == "trying":
            gates = dataclasses.replace(order.gates, min_requests=3)
            order = dataclasses.replace(order, gates=gates)
        publish(broker, fleet, fleet.order(DEVICE, order))
        wait_for(lambda: agent.bundle().get("phase") == phase or agent.is_active("2.0.0"))
        children = _children(agent.process.pid)
        agent.stop(signal.SIGKILL)
        wait_for(lambda: not any(_runs(pid) for pid in children))
        fleet.chunks |= held_back
        agent.start()
        wait_for(lambda: agent.status().get("ready"))
        assert agent.answer() in ([2.0, 4.0, 6.0, 8.0], [3.0, 6.0, 9.0, 12.0])
        broker.publish({TOPICS.chunk(name): data for name, data in held_back.items()})
        wait_for(lambda: agent.answer() and agent.is_active("2.0.0"), say=agent.status)
        assert agent.answer() == [3.0, 6.0, 9.0, 12.0]
    finally:
        assert agent.stop() == 0


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
