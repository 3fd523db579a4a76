"""HTTP, a folder, and several transports at once: bounded, resumable, and believed in nothing."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit_agent.config import Stick, load_config
from edgekit_agent.supervisor import Supervisor
from edgekit_agent.transports import web
from edgekit_agent.transports.arrivals import (
    Arrival,
    ChunkCame,
    ChunkLacking,
    Connected,
    Disconnected,
    MetadataCame,
    OrderCame,
    ReportKind,
)
from edgekit_agent.transports.configured import configured_transport
from edgekit_agent.transports.folder import FolderTransport
from edgekit_agent.transports.mqtt import MqttTransport
from edgekit_agent.transports.several import SeveralTransports
from edgekit_agent.transports.web import WebClient, WebTransport
from edgekit_runtime.errors import UsageError
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES, MAX_METADATA_SET_BYTES
from edgekit_runtime.protocol import Topics
from tests.simulators.local_agent import DEVICE, make_config
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import affine_bundle
from tests.simulators.web_server import WebServer

TOPICS = Topics("plant")
ORDER = TOPICS.order("d1")
A, B, C = (letter * 64 for letter in "abc")


class Arrivals:
    """What a transport posted."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Arrival] = queue.SimpleQueue()

    def next(self) -> Arrival:
        return self.queue.get(timeout=20)

    def until(self, wanted: Arrival) -> list[Arrival]:
        seen = []
        while not seen or seen[-1] != wanted:
            seen.append(self.next())
        return seen


@pytest.fixture
def arrivals() -> Arrivals:
    return Arrivals()


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer({}) as running:
        yield running


@pytest.fixture
def start() -> Iterator[Callable[[object], None]]:
    started: list[WebTransport | FolderTransport] = []

    def begin(transport: WebTransport | FolderTransport) -> None:
        started.append(transport)
        transport.start()

    yield begin
    for transport in started:
        transport.close(b"")


def over_web(server: WebServer, arrivals: Arrivals, *, poll_seconds: float = 0.05) -> WebTransport:
    return WebTransport(
        server.url,
        tls=None,
        topics=TOPICS,
        device="d1",
        poll_seconds=poll_seconds,
        post=arrivals.queue.put,
    )


def from_folder(folder: Path, arrivals: Arrivals) -> FolderTransport:
    return FolderTransport(
        folder, topics=TOPICS, device="d1", poll_seconds=0.05, post=arrivals.queue.put
    )


def write(folder: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_metadata_order_and_chunks_come_over_http(
    server: WebServer, arrivals: Arrivals, start
) -> None:
    server.content |= {TOPICS.metadata: b"set", ORDER: b"order", TOPICS.chunk(A): b"chunk"}
    transport = over_web(server, arrivals)
    start(transport)
    assert [arrivals.next() for _ in range(3)] == [
        Connected(),
        MetadataCame(data=b"set"),
        OrderCame(data=b"order"),
    ]
    transport.want([A, B])
    assert arrivals.next() == ChunkCame(sha256=A, data=b"chunk")
    assert arrivals.next() == ChunkLacking(sha256=B)
    transport.received(A)
    server.content[TOPICS.chunk(B)] = b"late"
    transport.retry([A, B])
    assert arrivals.next() == ChunkCame(sha256=B, data=b"late")
    server.content[ORDER] = b"another order"
    assert arrivals.next() == OrderCame(data=b"another order")
    names = [name for name, status in server.requests if status == 200]
    assert names.count(TOPICS.metadata) == 1


def test_a_server_that_goes_and_comes_back_is_told_and_used_again(
    server: WebServer, arrivals: Arrivals, start
) -> None:
    server.content |= {TOPICS.metadata: b"set"}
    transport = over_web(server, arrivals)
    start(transport)
    arrivals.until(MetadataCame(data=b"set"))

    def fail(request, _data: bytes) -> None:
        request.send_response(503)
        request.send_header("Content-Length", "0")
        request.end_headers()

    server.misbehave = fail
    transport.want([A])
    lost = arrivals.next()
    assert isinstance(lost, Disconnected)
    assert "503" in lost.reason
    server.content[TOPICS.chunk(A)] = b"chunk"
    server.misbehave = None
    # Everything comes anew after a break, and what was wanted meanwhile.
    assert arrivals.until(ChunkCame(sha256=A, data=b"chunk"))[:2] == [
        Connected(),
        MetadataCame(data=b"set"),
    ]


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_endless_data_is_cut_off(server: WebServer, announced: bool) -> None:
    sent = []

    def flood(request, _data: bytes) -> None:
        request.send_response(200)
        if announced:
            request.send_header("Content-Length", str(10**12))
        else:
            request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        piece = b"%x\r\n%b\r\n" % (4096, bytes(4096))
        try:
            for _ in range(100_000):
                request.wfile.write(piece)
                sent.append(len(piece))
        except OSError:
            request.close_connection = True

    server.misbehave = flood
    client = WebClient(server.url)
    with pytest.raises(web.TooLargeError):
        client.get("x", most=MAX_CHUNK_WIRE_BYTES)
    server.misbehave = None
    server.content["x"] = b"fine"
    assert client.get("x", most=4) == (200, b"fine")
    client.close()
    # What the kernel buffers on a loopback connection, not what was offered.
    assert sum(sent) < 64 << 20


def test_slow_data_is_given_up(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def trickle(request, _data: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        try:
            while True:
                request.wfile.write(b".")
                request.wfile.flush()
                time.sleep(0.02)
        except OSError:
            request.close_connection = True

    server.misbehave = trickle
    monkeypatch.setattr(web, "_ANSWER_SECONDS", 0.2)
    with pytest.raises(TimeoutError, match="took longer"):
        WebClient(server.url).get("x", most=1000)


def test_a_redirection_is_not_followed(server: WebServer, arrivals: Arrivals, start) -> None:
    def away(request, _data: bytes) -> None:
        request.send_response(302)
        request.send_header("Location", "http://127.0.0.1:9/elsewhere")
        request.send_header("Content-Length", "0")
        request.end_headers()

    server.misbehave = away
    transport = over_web(server, arrivals)
    start(transport)
    lost = arrivals.next()
    assert isinstance(lost, Disconnected)
    assert "302" in lost.reason


@pytest.mark.parametrize("url", ["ftp://x/y", "mirror.example.org", "http://", "http://x/?q"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="no base URL"):
        WebClient(url)


def test_a_stick_is_read_when_it_comes_and_left_when_it_goes(
    tmp_path: Path, arrivals: Arrivals, start
) -> None:
    mount = tmp_path / "mount"
    transport = from_folder(mount, arrivals)
    start(transport)
    assert isinstance(arrivals.next(), Disconnected)
    transport.want([A, B])
    write(tmp_path / "elsewhere", {ORDER: b"order", TOPICS.chunk(A): b"chunk"})
    (tmp_path / "elsewhere").rename(mount)
    seen = arrivals.until(ChunkLacking(sha256=B))
    assert seen == [
        Connected(),
        OrderCame(data=b"order"),
        ChunkCame(sha256=A, data=b"chunk"),
        ChunkLacking(sha256=B),
    ]
    transport.received(A)
    mount.rename(tmp_path / "gone")
    assert isinstance(arrivals.next(), Disconnected)
    (tmp_path / "gone").rename(mount)
    assert arrivals.until(ChunkLacking(sha256=B))[:2] == [Connected(), OrderCame(data=b"order")]


def test_a_hostile_stick_gives_only_ordinary_bounded_files(
    tmp_path: Path, arrivals: Arrivals, start
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    stick = tmp_path / "stick"
    write(stick, {TOPICS.metadata: bytes(MAX_METADATA_SET_BYTES + 1)})
    (stick / ORDER).parent.mkdir(parents=True)
    (stick / ORDER).symlink_to(secret)
    chunks = (stick / TOPICS.chunk(A)).parent
    chunks.mkdir(parents=True)
    os.mkfifo(chunks / A)
    (chunks / B).mkdir()
    (chunks / C).write_bytes(bytes(MAX_CHUNK_WIRE_BYTES + 1))
    transport = from_folder(stick, arrivals)
    start(transport)
    assert arrivals.next() == Connected()
    transport.want([A, B, C])
    assert [arrivals.next() for _ in range(3)] == [ChunkLacking(sha256=n) for n in (A, B, C)]


class Recorder:
    """A transport that does nothing but remember."""

    def __init__(self, post: Callable[[Arrival], None]) -> None:
        self.post = post
        self.wanted: list[str] = []
        self.retried: list[str] = []
        self.told: list[bytes] = []

    def start(self) -> None:
        self.told.append(b"start")

    def want(self, names: Iterable[str]) -> None:
        self.wanted = list(names)

    def received(self, name: str) -> None:
        self.wanted.remove(name)

    def retry(self, names: Iterable[str]) -> None:
        self.retried += names

    def publish_state(self, message: bytes) -> None:
        self.told.append(message)

    def publish_report(self, kind: ReportKind, key: int, message: bytes) -> None:
        self.told.append(message)

    def close(self, last_state: bytes) -> None:
        self.told.append(last_state)


class Trio:
    """Three recorders behind one transport."""

    def __init__(self) -> None:
        self.arrived: list[Arrival] = []
        self.parts: list[Recorder] = []

        def make(post: Callable[[Arrival], None]) -> Recorder:
            self.parts.append(Recorder(post))
            return self.parts[-1]

        names = ("stick", "mirror", "broker")
        self.whole = SeveralTransports([(name, make) for name in names], post=self.arrived.append)
        self.stick, self.mirror, self.broker = self.parts

    def connect(self, *parts: Recorder) -> None:
        for part in parts:
            part.post(Connected())


@pytest.fixture
def trio() -> Trio:
    return Trio()


def wants(trio: Trio) -> list[list[str]]:
    return [part.wanted for part in trio.parts]


def test_chunks_are_asked_for_at_the_nearest_place_that_has_them(trio: Trio) -> None:
    trio.whole.want([A, B, C])
    assert wants(trio) == [[], [], [A, B, C]]
    trio.connect(trio.broker, trio.mirror, trio.stick)
    assert wants(trio) == [[A, B, C], [], []]
    trio.stick.post(ChunkLacking(sha256=B))
    assert wants(trio) == [[A, C], [B], []]
    trio.mirror.post(ChunkLacking(sha256=B))
    assert wants(trio) == [[A, C], [], [B]]
    # Late words from where it is not asked for any more change nothing.
    trio.stick.post(ChunkLacking(sha256=B))
    assert wants(trio) == [[A, C], [], [B]]
    trio.whole.received(A)
    assert wants(trio) == [[C], [], [B]]


def test_what_breaks_off_is_asked_for_elsewhere_and_taken_back(trio: Trio) -> None:
    trio.connect(trio.mirror, trio.broker)
    trio.whole.want([A, B])
    trio.mirror.post(ChunkLacking(sha256=B))
    trio.mirror.post(Disconnected(reason="gone"))
    assert wants(trio) == [[], [], [B, A]] or wants(trio) == [[], [], [A, B]]
    assert not any(isinstance(arrival, Disconnected) for arrival in trio.arrived)
    trio.connect(trio.mirror)
    assert wants(trio) == [[], [A], [B]]
    trio.mirror.post(Disconnected(reason="gone"))
    trio.broker.post(Disconnected(reason="gone too"))
    assert trio.arrived[-1] == Disconnected(reason="gone too")


def test_what_does_not_come_or_is_wrong_is_asked_for_at_the_next_place(trio: Trio) -> None:
    trio.connect(trio.mirror, trio.broker)
    trio.whole.want([A])
    trio.whole.retry([A, B])
    assert wants(trio) == [[], [], [A]]
    trio.whole.retry([A])
    assert wants(trio) == [[], [A], []]
    alone = Trio()
    alone.connect(alone.broker)
    alone.whole.want([A])
    alone.whole.retry([A])
    assert (wants(alone)[2], alone.broker.retried) == ([A], [A])


def test_sets_name_where_they_come_from_and_words_go_to_all(trio: Trio) -> None:
    trio.connect(trio.stick)
    trio.stick.post(OrderCame(data=b"o"))
    trio.broker.post(MetadataCame(data=b"m"))
    trio.mirror.post(ChunkCame(sha256=A, data=b"c"))
    assert trio.arrived == [
        Connected(source="stick"),
        OrderCame(data=b"o", source="stick"),
        MetadataCame(data=b"m", source="broker"),
        ChunkCame(sha256=A, data=b"c"),
    ]
    trio.whole.start()
    trio.whole.publish_state(b"state")
    trio.whole.publish_report(ReportKind.EVENTS, 1, b"event")
    trio.whole.close(b"bye")
    assert [part.told for part in trio.parts] == [[b"start", b"state", b"event", b"bye"]] * 3


def test_want_may_be_called_while_arrivals_come(trio: Trio) -> None:
    trio.connect(*trio.parts)

    def lose() -> None:
        for _ in range(200):
            trio.stick.post(Disconnected(reason="gone"))
            trio.stick.post(Connected())

    thread = threading.Thread(target=lose)
    thread.start()
    for _ in range(200):
        trio.whole.want([A, B])
        trio.whole.want([])
    thread.join()
    trio.whole.want([A])
    assert wants(trio) == [[A], [], []]


CONFIG = """
device = "d1"
fleet = "plant"
image_root = "image-root.json"
director_root = "director-root.json"
"""
STICK = '[stick]\nfolder = "usb"\n'
MIRROR = '[mirror]\nurl = "https://mirror.example.org/edge"\npoll_seconds = 60\n'
BROKER = '[broker]\nhost = "127.0.0.1"\n'


def test_the_configuration_says_which_transports_there_are(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"

    def configured(*tables: str) -> object:
        path.write_text(CONFIG + "".join(tables))
        return configured_transport(load_config(path), b"", lambda _: None)

    assert isinstance(configured(STICK), FolderTransport)
    assert isinstance(configured(MIRROR), WebTransport)
    assert isinstance(configured(BROKER), MqttTransport)
    several = configured(BROKER, MIRROR, STICK)
    assert isinstance(several, SeveralTransports)
    kinds = [type(one) for one in several._transports]
    assert kinds == [FolderTransport, WebTransport, MqttTransport]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ("", "broker: is missing"),
        ('[mirror]\nurl = "ftp://x"\n', "mirror.url"),
        ('[stick]\npath = "usb"\n', "stick.folder: is missing"),
    ],
)
def test_a_wrong_configuration_of_transports_is_refused(
    tmp_path: Path, tables: str, words: str
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(CONFIG + tables)
    with pytest.raises(UsageError, match=words):
        load_config(path)


def test_a_device_that_never_comes_online_is_updated_from_a_stick(tmp_path: Path) -> None:
    fleet = SignedFleet()
    fleet.release("double", "1.0.0", affine_bundle("double", "1.0.0", 2.0))
    order = fleet.order(DEVICE, quick_order("double", "1.0.0"))
    topics = Topics("plant")
    config = replace(
        make_config(tmp_path, fleet),
        fleet="plant",
        broker_host="",
        stick=Stick(folder=tmp_path / "usb", poll_seconds=0.1),
    )
    supervisor = Supervisor(config, transport=configured_transport)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        content = {topics.chunk(name): data for name, data in fleet.chunks.items()}
        content |= {topics.metadata: fleet.image_message(), topics.order(DEVICE): order}
        write(tmp_path / "made", content)
        (tmp_path / "made").rename(tmp_path / "usb")
        deadline = time.monotonic() + 60
        while phase(config.status_file) != "active":
            assert time.monotonic() < deadline, config.status_file.read_text()
            time.sleep(0.05)
    finally:
        supervisor.stop()
        thread.join(30)
    assert not thread.is_alive()


def phase(status: Path) -> str:
    document = json.loads(status.read_text()) if status.exists() else {}
    bundle = document.get("state", document).get("bundles", {}).get("double", {})
    return str(bundle.get("phase"))
