from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.fleet.broker import RunningBroker, find_mosquitto, start_broker
from edgekit.fleet.connection import connected_to
from edgekit.fleet.telemetry.listener import FleetListener
from edgekit_runtime.protocol import Topics

TOPICS = Topics("plant-7")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with start_broker(tmp_path / "broker", prefer="mosquitto") as running:
        yield running


def say(broker: RunningBroker, *payloads: bytes) -> None:
    with connected_to(broker.address) as connection:
        client = connection._client
        for payload in payloads:
            client.publish(TOPICS.telemetry("d1"), payload, qos=1).wait_for_publish(10)


def hear(listener: FleetListener, count: int, *, done: bool) -> list[bytes]:
    heard: list[bytes] = []
    deadline = time.monotonic() + 10
    while len(heard) < count and time.monotonic() < deadline:
        for message in listener.take(timeout_s=0.2):
            heard.append(message.payload)
            if done:
                message.done()
    return heard


def listen(broker: RunningBroker, name: str = "control") -> FleetListener:
    return FleetListener("plant-7", broker.address, name=name)


def test_what_came_while_nobody_listened_is_delivered(broker: RunningBroker) -> None:
    with listen(broker):
        pass
    say(broker, b"1", b"2")
    with listen(broker) as listener:
        assert hear(listener, 2, done=True) == [b"1", b"2"]
        assert listener.take(timeout_s=0.2) == []


def test_what_was_not_acknowledged_comes_again(broker: RunningBroker) -> None:
    with listen(broker) as listener:
        say(broker, b"1", b"2")
        assert hear(listener, 2, done=False) == [b"1", b"2"]
    with listen(broker) as listener:
        assert hear(listener, 2, done=True) == [b"1", b"2"]
    with listen(broker) as listener:
        assert listener.take(timeout_s=0.3) == []


def test_one_that_is_forgotten_begins_anew(broker: RunningBroker) -> None:
    with listen(broker) as listener:
        listener.forget()
    say(broker, b"1")
    with listen(broker) as listener:
        assert listener.take(timeout_s=0.3) == []
        say(broker, b"2")
        assert hear(listener, 1, done=True) == [b"2"]


def test_states_can_be_asked_for_again(broker: RunningBroker) -> None:
    with connected_to(broker.address) as connection:
        connection.publish([(TOPICS.state(f"d{n}"), b"{}") for n in range(3)])
    with listen(broker) as listener:
        assert len(hear(listener, 3, done=True)) == 3
        listener.ask_states(["d1", "d2"])
        assert hear(listener, 2, done=True) == [b"{}", b"{}"]
