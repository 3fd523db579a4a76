"""A bad network: messages twice, late, in any order; lines that break; brokers that forget."""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit_agent.config import Limits
from edgekit_agent.transports.arrivals import ChunkCame
from tests.device_agent.test_mqtt import (
    TOPICS,
    AgentProcess,
    Mosquitto,
    needs_mosquitto,
    publish,
    wait_for,
)
from tests.simulators.local_agent import DEVICE
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import affine_bundle
from tests.simulators.update_engine import UpdateEngine


class Disorderly:
    """A transport that gives chunks late, twice, cut off, and when nobody asks any more."""

    def __init__(self, engine: UpdateEngine, seed: int) -> None:
        self._engine = engine
        self._random = random.Random(seed)  # noqa: S311 - it only makes disorder

    def want(self, names: Iterable[str]) -> None:
        messages = []
        for name in names:
            data = self._engine.fleet.chunks[name]
            messages += [ChunkCame(sha256=name, data=data)] * self._random.choice([1, 1, 2, 3])
            if self._random.random() < 0.2:
                messages.append(ChunkCame(sha256=name, data=data[: len(data) // 2]))
        queue = self._engine.messages
        for message in messages:
            queue.insert(self._random.randint(0, len(queue)), message)

    def retry(self, names: Iterable[str]) -> None:
        self.want(names)

    def received(self, name: str) -> None:
        if self._random.random() < 0.1:
            self.want([name])


@pytest.fixture(scope="module")
def fleet() -> SignedFleet:
    fleet = SignedFleet()
    for number in (1, 2):
        files = affine_bundle("m", f"{number}.0.0", 1.0 + number, padding=300_000)
        fleet.release("m", f"{number}.0.0", files)
    return fleet


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_messages_twice_late_and_in_any_order(
    fleet: SignedFleet, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    engine = UpdateEngine(tmp_path_factory.mktemp("disorder"), fleet)
    engine.updates.downloads._transport = Disorderly(engine, seed)  # type: ignore[assignment]
    engine.updates.downloads._limits = Limits(chunk_refusals=1000)
    engine.start()
    for number in (1, 2):
        engine.order(f"{number}.0.0", order_version=number)
        assert engine.serves() == f"{number}.0.0"


class CuttingProxy:
    """Forwards to a port, and cuts every connection after so many bytes from the server."""

    def __init__(self, port: int, *, cut_after: int) -> None:
        self._target = port
        self._cut_after = cut_after
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.cuts = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._server.close()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            while not self._stop.is_set():
                if select.select([self._server], [], [], 0.1)[0]:
                    client, _ = self._server.accept()
                    with client, contextlib.suppress(OSError):
                        server = stack.enter_context(
                            socket.create_connection(("127.0.0.1", self._target), 5)
                        )
                        self._forward(client, server)
                        server.close()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        while not self._stop.is_set():
            for side in select.select([client, server], [], [], 0.1)[0]:
                data = side.recv(4096)
                if not data:
                    return
                if side is server:
                    passed += len(data)
                    if passed > self._cut_after:
                        self.cuts += 1
                        return
                    client.sendall(data)
                else:
                    server.sendall(data)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    running = Mosquitto(tmp_path)
    yield running
    running.stop()


@needs_mosquitto
@pytest.mark.slow
def test_a_line_that_breaks_again_and_again_brings_the_update_piece_by_piece(
    tmp_path: Path, broker: Mosquitto
) -> None:
    fleet = SignedFleet()
    # Random bytes in hex: about 300 kB on the wire, and the line breaks every 120 kB.
    fleet.release("double", "1.0.0", affine_bundle("double", "1.0.0", 2.0, padding=300_000))
    proxy = CuttingProxy(broker.port, cut_after=120_000)
    agent = AgentProcess(tmp_path, fleet, proxy.port)
    try:
        publish(broker, fleet, fleet.order(DEVICE, quick_order("double", "1.0.0")))
        wait_for(lambda: agent.is_active("1.0.0"), seconds=90, say=agent.status)
        assert proxy.cuts >= 2
    finally:
        agent.stop()
        proxy.close()


@needs_mosquitto
def test_a_broker_that_forgot_everything_is_filled_again(tmp_path: Path, broker: Mosquitto) -> None:
    fleet = SignedFleet()
    fleet.release("double", "1.0.0", affine_bundle("double", "1.0.0", 2.0, padding=300_000))
    order = fleet.order(DEVICE, quick_order("double", "1.0.0"))
    agent = AgentProcess(tmp_path, fleet, broker.port)
    try:
        # Everything but most of the chunks, and then the broker loses that too.
        some = dict(sorted(fleet.chunks.items())[::3])
        broker.publish({TOPICS.chunk(name): data for name, data in some.items()})
        broker.publish({TOPICS.metadata: fleet.image_message(), TOPICS.order(DEVICE): order})
        wait_for(lambda: agent.bundle().get("phase") == "fetching", say=agent.status)
        broker.stop()
        wait_for(lambda: not agent.status()["connected"])
        broker.start()
        publish(broker, fleet, order)
        wait_for(lambda: agent.is_active("1.0.0"), seconds=60, say=agent.status)
        # It has forgotten who listens, too, and the control plane comes after the device.
        last = agent.status()["events"][-1]["sequence"]
        with broker.hearing() as heard:

            def told() -> list[int]:
                events = [body for topic, body in heard if topic == TOPICS.events(DEVICE)]
                return sorted(json.loads(body)["sequence"] for body in events)

            wait_for(lambda: told() == list(range(1, last + 1)), seconds=60, say=heard)
    finally:
        agent.stop()
