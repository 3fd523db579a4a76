from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.fleet import order_store
from edgekit.fleet.folder import Fleet
from edgekit.fleet.key_exchange import rotate_key
from edgekit.fleet.key_signing import Signing
from edgekit.fleet.keys import init_keys
from edgekit.fleet.order_store import OrderStore, SignedOrder
from edgekit.fleet.ordering import device_order, order_bundle
from edgekit.fleet.publisher import packed_order
from edgekit.fleet.repositories import ordered_devices
from edgekit.fleet.rollouts.engine import Order
from edgekit.fleet.rollouts.order_book import OrderBook
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.orders import BundleOrder
from tests.edgekit.fleet.rollouts.conftest import release

OLD, NEW = (BundleOrder(bundle="double", version=version) for version in ("1.0.0", "2.0.0"))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    made = Fleet.create(tmp_path / "fleet", "plant-7")
    init_keys(made)
    for version in ("1.0.0", "2.0.0"):
        release(made, version, tmp_path)
    return made


def tell(book: OrderBook, *actions: Order) -> dict[str, bytes]:
    return dict(message for batch in book.carry_out(actions) for message in batch)


def said(book: OrderBook, device: str) -> tuple[int, tuple[BundleOrder, ...]]:
    entry = book.entry(device)
    return entry.version, entry.bundles


def test_an_intent_is_carried_out_once(fleet: Fleet) -> None:
    book = OrderBook(fleet)
    first = Order(device="d1", bundle="double", order=OLD, after=0)
    messages = tell(book, first)
    assert messages == {"edgekit/v1/plant-7/devices/d1/order": packed_order(fleet, "d1")}
    assert said(book, "d1") == (1, (OLD,))
    # Again, and by another process that remembers nothing: the message is there, no new order.
    assert tell(book, first) == tell(OrderBook(fleet), first) == messages
    assert device_order(fleet, "d1").version == 1
    tell(book, Order(device="d1", bundle="double", order=NEW, after=1, expected=OLD))
    assert device_order(fleet, "d1").bundles == (NEW,)
    tell(book, Order(device="d1", bundle="double", order=None, after=2, expected=NEW))
    assert device_order(fleet, "d1").bundles == ()
    assert said(book, "d1") == (3, ())


def test_what_others_order_is_seen_and_stands(fleet: Fleet) -> None:
    book = OrderBook(fleet)
    tell(book, Order(device="d1", bundle="double", order=OLD, after=0))
    order_bundle(fleet, "d1", NEW)
    assert said(book, "d1") == (1, (OLD,))
    book.look()
    assert said(book, "d1") == (2, (NEW,))
    assert tell(book, Order(device="d1", bundle="double", order=OLD, after=1)) == {}
    assert device_order(fleet, "d1").bundles == (NEW,)


def test_a_version_that_is_not_released_is_refused(fleet: Fleet) -> None:
    order = BundleOrder(bundle="double", version="9.0.0")
    with pytest.raises(UsageError, match=r"double 9\.0\.0 is not released"):
        tell(OrderBook(fleet), Order(device="d1", bundle="double", order=order, after=0))


@pytest.mark.parametrize("seen_before", [False, True])
def test_an_order_that_somebody_has_changed_is_not_built_upon_and_stops_no_other(
    fleet: Fleet, seen_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    book = OrderBook(fleet)
    tell(book, Order(device="d1", bundle="double", order=OLD, after=0))
    if seen_before:
        assert book.entry("d1").version == 1
    store = OrderStore(fleet)
    kept = store.get("d1")
    assert kept is not None
    forged = kept[1].targets.replace(b'"1.0.0"', b'"2.0.0"')
    assert forged != kept[1].targets
    store.put({"d1": replace(kept[1], targets=forged)})
    book.look()
    with pytest.raises(VerificationError, match="not signed by a key that the root trusts"):
        book.entry("d1")
    back = Order(device="d1", bundle="double", order=NEW, after=1, expected=OLD)
    messages = tell(book, back, Order(device="d2", bundle="double", order=OLD, after=0))
    assert list(messages) == ["edgekit/v1/plant-7/devices/d2/order"]
    assert [book.seen(name).version for name in ("d1", "d2")] == [0, 1]
    assert caplog.text.count("the device is told nothing until this is mended") == 1
    # Mended, it goes on.
    store.put({"d1": kept[1]})
    assert list(tell(book, back)) == ["edgekit/v1/plant-7/devices/d1/order"]
    assert book.seen("d1").bundles == (NEW,)


def test_many_are_told_at_once_and_one_device_one_after_the_other(fleet: Fleet) -> None:
    book = OrderBook(fleet)
    devices = [f"d{number}" for number in range(150)]
    actions = [Order(device=name, bundle="double", order=OLD, after=0) for name in devices]
    # The second intent for a device is built upon what the first has made.
    actions.insert(1, Order(device="d0", bundle="double", order=NEW, after=1, expected=OLD))
    messages = tell(book, *actions)
    assert set(messages) == {f"edgekit/v1/plant-7/devices/{name}/order" for name in devices}
    assert device_order(fleet, "d0").bundles == (NEW,)
    assert said(book, "d0") == (2, (NEW,))
    for name in devices[1:]:
        assert messages[f"edgekit/v1/plant-7/devices/{name}/order"] == packed_order(fleet, name)
        assert device_order(fleet, name).bundles == (OLD,)


def test_what_others_sign_while_an_order_is_on_its_way_is_sent_last(fleet: Fleet) -> None:
    """The broker keeps what was sent last: an older order would stay there for good."""
    book, broker = OrderBook(fleet), {}
    actions = [Order(device=name, bundle="double", order=OLD, after=0) for name in ("d1", "d2")]
    batches = book.carry_out(actions)
    late = next(batches)
    # The other signs and sends between our signing and our sending.
    order_bundle(fleet, "d1", NEW)
    for messages in (late, *batches):
        broker |= dict(messages)
    assert broker == {
        f"edgekit/v1/plant-7/devices/{name}/order": packed_order(fleet, name)
        for name in ("d1", "d2")
    }
    assert said(book, "d1") == (2, (NEW,))


def test_of_a_device_that_is_deleted_meanwhile_nothing_stays_on_the_broker(fleet: Fleet) -> None:
    book = OrderBook(fleet)
    batches = book.carry_out([Order(device="d1", bundle="double", order=OLD, after=0)])
    ((topic, _),) = next(batches)
    OrderStore(fleet).remove("d1")
    assert list(batches) == [[(topic, b"")]]


def test_a_device_that_is_deleted_while_orders_are_sent_again_stops_nothing(fleet: Fleet) -> None:
    book = OrderBook(fleet)
    ((topic, _),) = tell(book, Order(device="d1", bundle="double", order=OLD, after=0)).items()
    OrderStore(fleet).remove("d1")
    # As of the last look it is still there.
    assert book.entry("d1").version == 1
    assert book.message("d1") == (topic, b"")


def test_a_device_that_is_deleted_is_not_told_again(fleet: Fleet) -> None:
    book = OrderBook(fleet)
    tell(book, Order(device="d1", bundle="double", order=OLD, after=0))
    OrderStore(fleet).remove("d1")
    assert tell(book, Order(device="d1", bundle="double", order=NEW, after=1, expected=OLD)) == {}
    assert ordered_devices(fleet) == ()


def test_keys_that_are_exchanged_during_a_turn_stop_nothing(fleet: Fleet) -> None:
    book = OrderBook(fleet)
    book.look()
    order_bundle(fleet, "d1", OLD)
    book.look()
    rotate_key(fleet, "director-online", Signing())
    # Only now is the device looked at, and what it is told is signed with the new key.
    assert said(book, "d1") == (1, (OLD,))
    assert book.message("d1")[1] == packed_order(fleet, "d1")


@pytest.mark.parametrize("told_before", [False, True])
def test_a_batch_that_was_cut_off_is_kept_whole_or_not_at_all(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, told_before: bool
) -> None:
    """The power goes between two devices of a batch: nobody was told, nobody has a new order."""
    before = 1 if told_before else 0
    devices = ("d1", "d2", "d3")
    if told_before:
        first = [Order(device=name, bundle="double", order=OLD, after=0) for name in devices]
        tell(OrderBook(fleet), *first)
    expected = OLD if told_before else None
    actions = [
        Order(device=name, bundle="double", order=NEW, after=before, expected=expected)
        for name in devices
    ]
    keep, left = order_store._put, iter(range(2))

    def cut_off(connection: sqlite3.Connection, device: str, order: SignedOrder) -> int:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return keep(connection, device, order)

    with monkeypatch.context() as patch:
        patch.setattr(order_store, "_put", cut_off)
        with pytest.raises(KeyboardInterrupt):
            tell(OrderBook(fleet), *actions)
    assert [device_order(fleet, name).version for name in devices] == [before] * 3
    tell(OrderBook(fleet), *actions)
    for name in devices:
        assert device_order(fleet, name).version == before + 1
        assert device_order(fleet, name).bundles == (NEW,)
    # What was published is told anew by a new order: a device takes it as the wish to try again.
    order_bundle(fleet, "d1", NEW)
    assert device_order(fleet, "d1").version == before + 2
