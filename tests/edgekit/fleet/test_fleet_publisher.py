from __future__ import annotations

import contextlib
import hashlib
import queue
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from edgekit.cli import edgekit
from edgekit.fleet.broker import RunningBroker, find_mosquitto, start_broker
from edgekit.fleet.connection import BrokerConnection, connected_to
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.keys import director_root, image_root
from edgekit.fleet.order_store import OrderStore
from edgekit.fleet.ordering import order_device
from edgekit.fleet.publisher import (
    packed_metadata,
    packed_order,
    publish,
    publish_chunks,
    publish_order,
)
from edgekit.fleet.release import release_bundle
from edgekit.fleet.repositories import open_images
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.protocol import Topics, unpack_metadata

TOPICS = Topics("plant-7")
needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="needs mosquitto")


@contextmanager
def listening(address: BrokerAddress, *topics: str) -> Iterator[queue.Queue]:
    """A plain MQTT 3.1.1 client, independent of ours: what came, in order."""
    came: queue.Queue = queue.Queue()
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _c, _d, m: came.put((m.topic, bytes(m.payload), m.retain))
    client.on_connect = lambda c, *_: c.subscribe([(topic, 1) for topic in topics])
    client.connect(address.host, address.port)
    client.loop_start()
    try:
        yield came
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.fixture
def released(fleet: Fleet, make_bundle) -> Fleet:
    noise = np.random.default_rng(1).bytes(500_000)
    release_bundle(fleet, make_bundle(model=noise))
    order = BundleOrder(bundle="digits", version="1.0.0")
    order_device(fleet, "dev-1", [order])
    order_device(fleet, "dev-2", [order])
    return fleet


def test_a_late_device_finds_everything_on_the_broker(
    broker: RunningBroker, released: Fleet, updater
) -> None:
    told: list[tuple[int, int]] = []
    done = publish(released, broker.address, progress=lambda *numbers: told.append(numbers))
    assert done.protocol == ("MQTT 5" if broker.name == "mosquitto" else "MQTT 3.1.1")
    assert (done.orders, done.chunks) == (2, len(list(open_images(released).chunk_names())))
    assert told[-1] == (done.chunks, done.chunks)
    assert Fleet.open(released.path).broker == broker.address

    wanted = [TOPICS.metadata, TOPICS.order("dev-2"), f"{TOPICS.base}/repo/chunks/#"]
    messages: dict[str, bytes] = {}
    # A device asks again for what has not come: amqtt loses messages on a busy machine.
    for _ in range(3):
        with listening(broker.address, *wanted) as came, contextlib.suppress(queue.Empty):
            while len(messages) < 2 + done.chunks:
                topic, payload, retained = came.get(timeout=15)
                assert retained
                messages[topic] = payload
    assert len(messages) == 2 + done.chunks
    chunks = {t: p for t, p in messages.items() if t.startswith(f"{TOPICS.base}/repo/chunks/")}
    assert len(chunks) == done.chunks
    assert sum(map(len, chunks.values())) == done.chunk_bytes > 500_000
    assert all(hashlib.sha256(p).hexdigest() == t.rsplit("/", 1)[1] for t, p in chunks.items())
    for topic, root in (
        (TOPICS.metadata, image_root(released)),
        (TOPICS.order("dev-2"), director_root(released)),
    ):
        files = unpack_metadata(messages[topic], where=topic)
        client = updater(files, root, trusted=root.parent.parent.name)
        assert client.get_targetinfo("digits/1.0.0/index.json") is not None


def test_a_device_hears_chunks_before_metadata_before_its_order(
    broker: RunningBroker, released: Fleet
) -> None:
    with listening(broker.address, f"{TOPICS.base}/#") as came:
        # The subscription stands once the first message comes back.
        with connected_to(broker.address) as connection:
            while True:
                connection.publish([(f"{TOPICS.base}/ready", b"?")])
                try:
                    came.get(timeout=0.5)
                    break
                except queue.Empty:
                    continue
        done = publish(released, broker.address)
        kinds = []
        while len(kinds) < done.chunks + 3:
            topic = came.get(timeout=30)[0]
            if not topic.endswith("/ready"):
                kinds.append(topic.removeprefix(f"{TOPICS.base}/"))
    assert all(kind.startswith("repo/chunks/") for kind in kinds[: done.chunks])
    assert kinds[done.chunks :] == ["repo/metadata", "devices/dev-1/order", "devices/dev-2/order"]


def test_publishing_again_mends_what_somebody_changed_on_the_broker(
    broker: RunningBroker, released: Fleet
) -> None:
    publish(released, broker.address)
    name = next(open_images(released).chunk_names())
    with connected_to(broker.address) as connection:
        connection.publish([(TOPICS.chunk(name), b"poison")])
        publish_chunks(released, connection)
    with listening(broker.address, TOPICS.chunk(name)) as came:
        assert hashlib.sha256(came.get(timeout=30)[1]).hexdigest() == name


@needs_mosquitto
def test_mosquitto_remembers_over_a_restart(tmp_path: Path, released: Fleet) -> None:
    with start_broker(tmp_path / "broker", prefer="mosquitto") as first:
        publish(released, first.address)
    with (
        start_broker(tmp_path / "broker", prefer="mosquitto") as second,
        listening(second.address, TOPICS.metadata) as came,
    ):
        assert came.get(timeout=30)[1] == packed_metadata(released)


@needs_mosquitto
def test_a_message_over_the_brokers_limit_is_not_sent(
    tmp_path: Path, released: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mosquitto hangs up on such a message; sent again and again it would be a poison loop."""
    monkeypatch.setattr(
        "edgekit.fleet.broker._MOSQUITTO_CONFIG",
        "listener {port} 127.0.0.1\nallow_anonymous true\nmax_packet_size 20000\n# {folder}\n",
    )
    with start_broker(tmp_path / "broker", prefer="mosquitto") as running:
        with pytest.raises(EnvironmentLackError, match="at most 20000 bytes") as caught:
            publish(released, running.address)
        assert "max_packet_size" in str(caught.value.fix)
        with connected_to(running.address) as connection:
            topic = TOPICS.order("dev-1")
            # The whole packet counts: header, topic, packet id and properties too.
            room = 20_000 - len(topic) - 8
            refusals = []
            for size in range(room - 8, room + 8):
                try:
                    connection.publish([(topic, b"x" * size)])
                except EnvironmentLackError as error:
                    refusals.append(error.what)
    # We refuse what is too large; the broker, which hangs up, never gets to see it.
    assert 7 <= len(refusals) <= 9
    assert all("at most 20000" in text for text in refusals)


@needs_mosquitto
def test_a_broker_that_goes_away_while_publishing_is_an_error(
    tmp_path: Path, released: Fleet
) -> None:
    with (
        start_broker(tmp_path / "broker", prefer="mosquitto") as running,
        connected_to(running.address) as connection,
    ):
        running.stop()
        with pytest.raises(EnvironmentLackError, match="did not take a message"):
            publish_chunks(released, connection)


@needs_mosquitto
def test_what_the_brokers_access_list_forbids_is_an_error(
    tmp_path: Path, released: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read #\n")
    rules.chmod(0o600)
    monkeypatch.setattr(
        "edgekit.fleet.broker._MOSQUITTO_CONFIG",
        "listener {port} 127.0.0.1\nallow_anonymous true\n# {folder}\n" + f"acl_file {rules}\n",
    )
    with (
        start_broker(tmp_path / "broker", prefer="mosquitto") as running,
        pytest.raises(EnvironmentLackError, match="Not authorized"),
    ):
        publish(released, running.address)


def test_no_broker_there_is_an_error_that_names_the_place(released: Fleet) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = BrokerAddress("127.0.0.1", closed.getsockname()[1])
        with pytest.raises(EnvironmentLackError, match="no broker answers") as caught:
            publish(released, address)
    assert caught.value.where == str(address)
    assert Fleet.open(released.path).broker is None


def test_what_answers_and_is_no_broker_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.fleet.connection._ANSWER_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = BrokerAddress("127.0.0.1", silent.getsockname()[1])
        with pytest.raises(EnvironmentLackError, match="does not let us in"):
            BrokerConnection(address)


def test_a_device_without_an_order_cannot_be_sent_one(
    broker: RunningBroker, released: Fleet
) -> None:
    with (
        connected_to(broker.address) as connection,
        pytest.raises(UsageError, match="nothing has been ordered"),
    ):
        publish_order(released, connection, "dev-9")


@needs_mosquitto
def test_a_damaged_order_keeps_no_other_device_from_being_told(
    broker: RunningBroker, released: Fleet
) -> None:
    store = OrderStore(released)
    kept = store.get("dev-1")
    assert kept is not None
    store.put({"dev-1": replace(kept[1], targets=b"{}")})
    done = publish(released, broker.address)
    assert (done.orders, done.damaged) == (1, ("dev-1",))
    told = CliRunner().invoke(edgekit, ["fleet", "publish", "--fleet", str(released.path)])
    assert isinstance(told.exception, VerificationError)
    assert told.exception.what == "damaged, and not published, are the orders of dev-1"
    assert "1 order" in told.output
    with listening(broker.address, f"{TOPICS.base}/devices/+/order") as came:
        assert came.get(timeout=30) == (
            TOPICS.order("dev-2"),
            packed_order(released, "dev-2"),
            True,
        )


def test_a_metadata_set_that_no_device_accepts_is_not_sent(
    released: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert packed_order(released, "dev-1")
    monkeypatch.setattr("edgekit_runtime.protocol.MAX_METADATA_SET_BYTES", 100)
    with pytest.raises(VerificationError, match="larger than 100 bytes"):
        packed_order(released, "dev-1")
