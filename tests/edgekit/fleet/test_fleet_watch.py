from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from edgekit.fleet.broker import RunningBroker, start_broker
from edgekit.fleet.folder import Fleet
from edgekit.fleet.ordering import DeviceOrder, order_device
from edgekit.fleet.release import release_bundle
from edgekit.fleet.status import fleet_status, is_fulfilled
from edgekit.fleet.watch import FleetWatcher, merge_state
from edgekit_runtime.errors import EnvironmentLackError, GateFailedError
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import BundleState, DeviceEvent, DeviceState, Phase

TOPICS = Topics("plant-7")
ONLINE = DeviceState(
    device="dev-1",
    online=True,
    agent="0.1.0",
    hardware={"architecture": "aarch64"},
    order_version=3,
    bundles={"digits": BundleState(phase=Phase.ACTIVE, active="1.0.0")},
)
WILL = DeviceState(device="dev-1", online=False)
Say = Callable[..., None]


def event(sequence: int, kind: str = "update.active", *, device: str = "dev-1") -> DeviceEvent:
    return DeviceEvent(device=device, sequence=sequence, time=0.0, kind=kind)


@pytest.fixture
def device(broker: RunningBroker) -> Iterator[Client]:
    """A device's connection, with a last will."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.will_set(TOPICS.state("dev-1"), WILL.to_json(), qos=1, retain=True)
    client.connect(broker.host, broker.port)
    client.loop_start()
    yield client
    client.loop_stop()


@pytest.fixture
def say(device: Client) -> Say:
    def publish(topic: str, payload: bytes, *, retain: bool = False) -> None:
        device.publish(topic, payload, qos=1, retain=retain).wait_for_publish(30)

    return publish


def test_the_last_will_keeps_what_was_known(
    broker: RunningBroker, device: Client, say: Say
) -> None:
    with FleetWatcher("plant-7", broker.address) as watcher:
        say(TOPICS.state("dev-1"), ONLINE.to_json(), retain=True)
        assert watcher.wait_for("dev-1", lambda s: s.online, timeout_s=30) == ONLINE
        # The line breaks without a goodbye: the broker speaks for the device.
        device.loop_stop()
        device.socket().close()
        state = watcher.wait_for("dev-1", lambda s: not s.online, timeout_s=30)
    assert state.bundles == ONLINE.bundles
    assert state.hardware == ONLINE.hardware


def test_a_late_watcher_hears_the_retained_states(broker: RunningBroker, say: Say) -> None:
    say(TOPICS.state("dev-1"), ONLINE.to_json(), retain=True)
    with FleetWatcher("plant-7", broker.address) as watcher:
        assert watcher.wait_until_heard(["dev-1"], timeout_s=30)
        assert watcher.states == {"dev-1": ONLINE}
        assert not watcher.wait_until_heard(["dev-1", "dev-2"], timeout_s=0.05)


def test_events_come_in_order_and_once(broker: RunningBroker, say: Say) -> None:
    with FleetWatcher("plant-7", broker.address) as watcher:
        for number in (1, 2, 2, 3):
            say(TOPICS.events("dev-1"), event(number).to_json())
        watcher.wait_for_event(lambda e: e.sequence == 3, timeout_s=30)
        mark = watcher.event_count
        assert [e.sequence for e in watcher.events()] == [1, 2, 3]
        assert watcher.events(since=mark) == ()
        say(TOPICS.events("dev-1"), event(4, "security.refused").to_json())
        assert watcher.wait_for_events(since=mark, timeout_s=30)[0].kind == "security.refused"
        assert [e.sequence for e in watcher.events(since=2)] == [3, 4]


def test_a_device_cannot_speak_for_another(broker: RunningBroker, say: Say) -> None:
    with FleetWatcher("plant-7", broker.address) as watcher:
        say(TOPICS.state("dev-2"), ONLINE.to_json())
        say(TOPICS.events("dev-2"), event(1).to_json())
        say(TOPICS.state("dev-1"), b"junk")
        say(TOPICS.events("dev-3"), event(1, device="dev-3").to_json())
        watcher.wait_for_event(lambda e: e.device == "dev-3", timeout_s=30)
        # States and events come by two subscriptions of one connection, in the order sent.
        assert len(watcher.faults) == 3
        assert watcher.states == {}
        assert watcher.event_count == 1


def test_what_does_not_come_says_what_came_instead(broker: RunningBroker, say: Say) -> None:
    with FleetWatcher("plant-7", broker.address) as watcher:
        with pytest.raises(GateFailedError, match="has said nothing"):
            watcher.wait_for("dev-1", lambda _: True, timeout_s=0.05)
        say(TOPICS.state("dev-1"), ONLINE.to_json())
        watcher.wait_for("dev-1", lambda _: True, timeout_s=30)
        with pytest.raises(GateFailedError, match=r"online, order 3, digits: active, active 1\.0"):
            watcher.wait_for("dev-1", lambda s: s.order_version == 4, timeout_s=0.05)
        with pytest.raises(GateFailedError, match="what came: nothing"):
            watcher.wait_for_event(lambda _: True, timeout_s=0.05)
        assert watcher.wait_for_events(since=0, timeout_s=0.05) == ()


def test_it_listens_again_after_the_broker_was_away(tmp_path) -> None:
    with start_broker(tmp_path / "broker", prefer="amqtt") as first:
        port = first.port
        watcher = FleetWatcher("plant-7", first.address)
    try:
        with start_broker(tmp_path / "broker", port=port, prefer="amqtt"):
            client = Client(CallbackAPIVersion.VERSION2)
            client.connect("127.0.0.1", port)
            client.loop_start()
            info = client.publish(TOPICS.state("dev-1"), ONLINE.to_json(), qos=1, retain=True)
            info.wait_for_publish(30)
            assert watcher.wait_for("dev-1", lambda s: s.online, timeout_s=60) == ONLINE
            client.disconnect()
            client.loop_stop()
    finally:
        watcher.close()


def test_no_broker_is_an_error(tmp_path) -> None:
    with start_broker(tmp_path / "broker", prefer="amqtt") as stopped:
        address = stopped.address
    with pytest.raises(EnvironmentLackError, match="no broker answers"):
        FleetWatcher("plant-7", address)


def test_a_last_will_before_anything_else_is_all_that_is_known() -> None:
    assert merge_state(None, WILL) == WILL
    assert merge_state(ONLINE, ONLINE) == ONLINE
    parting = DeviceState(device="dev-1", online=False, bundles={"a": BundleState()})
    assert merge_state(ONLINE, parting) == parting


def test_status_puts_orders_and_reports_together(fleet: Fleet, make_bundle) -> None:
    release_bundle(fleet, make_bundle())
    for _ in range(3):
        order_device(fleet, "dev-1", [BundleOrder(bundle="digits", version="1.0.0")])
    stranger = DeviceState(device="stray", online=True)
    status = fleet_status(fleet, {"dev-1": ONLINE, "stray": stranger})
    assert [item.device for item in status.devices] == ["dev-1", "stray"]
    ordered, stray = status.devices
    assert ordered.fulfilled
    assert ordered.order is not None
    assert ordered.order.version == 3
    assert (stray.order, stray.fulfilled) == (None, False)
    assert [item.version for item in status.releases] == ["1.0.0"]
    assert not fleet_status(fleet, {}).devices[0].fulfilled


@pytest.mark.parametrize(
    ("version", "bundle", "order_version"),
    [("1.1.0", "digits", 3), ("1.0.0", "faces", 3), ("1.0.0", "digits", 4)],
)
def test_an_order_is_fulfilled_only_when_all_of_it_runs(
    version: str, bundle: str, order_version: int
) -> None:
    order = DeviceOrder(
        device="dev-1",
        version=order_version,
        bundles=(BundleOrder(bundle=bundle, version=version),),
    )
    assert not is_fulfilled(order, ONLINE)
