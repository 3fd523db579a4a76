from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from edgekit.fleet import order_folders
from edgekit.fleet.folder import Fleet
from edgekit.fleet.order_folders import OrderFolders
from edgekit.fleet.order_store import OrderStore, SignedOrder
from edgekit.fleet.ordering import device_order, order_bundle, order_device
from edgekit.fleet.publisher import packed_order
from edgekit.fleet.release import release_bundle
from edgekit.fleet.repositories import open_director, ordered_devices
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from edgekit_runtime.orders import BundleOrder

ORDER = BundleOrder(bundle="digits", version="1.0.0")


def signed(text: str) -> SignedOrder:
    return SignedOrder(
        targets=f"t {text}".encode(), snapshot=f"s {text}".encode(), timestamp=f"m {text}".encode()
    )


@pytest.fixture
def empty(tmp_path: Path) -> OrderStore:
    return OrderStore(Fleet.create(tmp_path / "plant", "plant-7"))


def test_what_is_put_in_comes_out_and_every_change_has_a_new_revision(empty: OrderStore) -> None:
    assert empty.head() == (0, 0)
    assert empty.get("d1") is None
    first = empty.put({"d2": signed("a"), "d1": signed("b")})
    assert empty.revisions() == first
    assert list(empty.revisions()) == ["d1", "d2"]
    assert empty.get("d1") == (first["d1"], signed("b"))
    second = empty.put({"d2": signed("c")})
    assert second["d2"] > max(first.values())
    assert empty.head() == (second["d2"], 2)
    # A revision is never given twice, or a change would not be seen.
    empty.remove("d2")
    assert empty.put({"d3": signed("d")})["d3"] > second["d2"]
    assert empty.get("d2") is None


def test_what_was_removed_is_in_the_file_no_more(tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "plant", "plant-7")
    store = OrderStore(fleet)
    store.put({"d1": signed("a secret of long ago"), "d2": signed("b")})
    assert b"a secret of long ago" in fleet.orders.read_bytes()
    store.remove("d1")
    store.remove("never-there")
    assert b"a secret of long ago" not in fleet.orders.read_bytes()


@pytest.mark.slow
def test_killed_while_it_is_written_a_batch_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "plant", "plant-7")
    program = """
import sys
from pathlib import Path
from edgekit.fleet.folder import Fleet
from edgekit.fleet.order_store import OrderStore, SignedOrder
store = OrderStore(Fleet.open(Path(sys.argv[1])))
number = int(sys.argv[2])
while True:
    number += 1
    order = SignedOrder(targets=b"%d" % number, snapshot=bytes(40_000), timestamp=b"")
    store.put({f"d{n}": order for n in range(50)})
    print(number, flush=True)
"""
    store, last = OrderStore(fleet), 0
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(fleet.path), str(last)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            told = [int(process.stdout.readline()) for _ in range(3)]
            process.kill()
        kept = {name: store.get(name) for name in store.revisions()}
        assert len(kept) == 50
        (content,) = {order[1].targets for order in kept.values() if order is not None}
        last = int(content)
        assert last >= told[-1]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "plant", "plant-7")
    fleet.orders.write_bytes(b"this is no database, but long enough to look like one" * 40)
    with pytest.raises(VerificationError, match="the signed orders are damaged") as caught:
        ordered_devices(fleet)
    assert caught.value.where == str(fleet.orders)


def test_looking_makes_no_file(tmp_path: Path) -> None:
    """Made by another user who only looks, the one who signs could not write it."""
    fleet = Fleet.create(tmp_path / "plant", "plant-7")
    store = OrderStore(fleet)
    assert (store.head(), store.revisions(), store.get("d1")) == ((0, 0), {}, None)
    store.remove("d1")
    assert list(fleet.orders.parent.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "plant", "plant-7")
    fleet.orders.parent.rmdir()
    with pytest.raises(EnvironmentLackError, match="cannot be read or written") as caught:
        OrderStore(fleet).put({"d1": signed("a")})
    assert caught.value.where == str(fleet.orders)


def test_a_file_of_a_newer_edgekit_is_left_alone(tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "plant", "plant-7")
    with closing(sqlite3.connect(fleet.orders)) as connection:
        connection.execute("PRAGMA user_version=2")
    before = fleet.orders.read_bytes()
    with pytest.raises(UsageError, match="a newer edgekit"):
        OrderStore(fleet).put({"d1": signed("a")})
    assert fleet.orders.read_bytes() == before


def as_folders(fleet: Fleet) -> Path:
    """Lay the orders out as an earlier edgekit did, and drop the file."""
    made = fleet.path / "made"
    director = open_director(fleet)
    for device in ordered_devices(fleet):
        (made / device).mkdir(parents=True)
        for name, data in director.published(device).items():
            if not name.endswith("root.json"):
                (made / device / name).write_bytes(data)
    fleet.orders.unlink()
    return made.rename(fleet.director_metadata.parent / "devices")


@pytest.fixture
def ordered(fleet: Fleet, make_bundle) -> Fleet:
    release_bundle(fleet, make_bundle())
    order_device(fleet, "d1", [])
    order_bundle(fleet, "d1", ORDER)
    order_bundle(fleet, "d2", ORDER)
    return fleet


def test_folders_of_an_earlier_edgekit_are_taken_in(ordered: Fleet) -> None:
    messages = {device: packed_order(ordered, device) for device in ordered_devices(ordered)}
    folders = as_folders(ordered)
    # Older versions lie about, one order was signed and not published, one never was.
    newest = (folders / "d1" / "2.targets.json").read_bytes()
    (folders / "d1" / "3.targets.json").write_bytes(newest)
    (folders / "d1" / "1.snapshot.json").write_bytes(b"{}")
    (folders / "d9").mkdir()
    (folders / "d9" / "1.targets.json").write_bytes(newest)
    assert ordered_devices(ordered) == ("d1", "d2")
    assert {name: packed_order(ordered, name) for name in messages} == messages
    assert not folders.exists()
    assert order_bundle(ordered, "d1", ORDER) == 3


def test_folders_that_a_crash_has_left_change_nothing(ordered: Fleet) -> None:
    kept = ordered.orders.read_bytes()
    folders = as_folders(ordered)
    ordered.orders.write_bytes(kept)
    assert order_bundle(ordered, "d1", ORDER) == 3
    assert not folders.exists()
    assert device_order(ordered, "d1").version == 3


def test_a_crash_while_folders_are_deleted_costs_nothing(
    ordered: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = {device: packed_order(ordered, device) for device in ordered_devices(ordered)}
    folders = as_folders(ordered)

    def cut_off(path: Path, **_: object) -> None:
        if path.is_dir():
            (path / "d1" / "2.snapshot.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(order_folders.shutil, "rmtree", cut_off)
        with pytest.raises(KeyboardInterrupt):
            ordered_devices(ordered)
    assert {name: packed_order(ordered, name) for name in messages} == messages
    assert [path.name for path in folders.parent.iterdir() if path.is_dir()] == ["metadata"]


def test_folders_go_while_no_other_process_can_read_them(
    ordered: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has waited for the first transaction would find them half deleted."""
    as_folders(ordered)
    remove, tried = OrderFolders.remove, []

    def remove_beside(folders: OrderFolders) -> None:
        with closing(sqlite3.connect(ordered.orders, timeout=0.0)) as connection:
            # What the other would see by now.
            tried.append(connection.execute("SELECT count(*) FROM orders").fetchone()[0])
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                connection.execute("BEGIN IMMEDIATE")
        remove(folders)

    monkeypatch.setattr(OrderFolders, "remove", remove_beside)
    assert ordered_devices(ordered) == ("d1", "d2")
    assert tried == [2]


def test_what_an_earlier_edgekit_still_orders_is_taken_in(ordered: Fleet) -> None:
    """An earlier one that has not been stopped goes on writing folders."""
    older = ordered.orders.read_bytes()
    order_bundle(ordered, "d1", ORDER)
    newest = packed_order(ordered, "d1")
    as_folders(ordered)
    ordered.orders.write_bytes(older)
    assert device_order(ordered, "d1").version == 3
    assert packed_order(ordered, "d1") == newest


@pytest.mark.parametrize("content", [None, b"no json", b"[]", b'{"signed": {"meta": {}}}'])
def test_a_damaged_folder_is_named_and_stays(ordered: Fleet, content: bytes | None) -> None:
    folders = as_folders(ordered)
    path = folders / "d1" / "2.snapshot.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(VerificationError, match="an earlier edgekit") as caught:
        ordered_devices(ordered)
    assert re.search(r"d1/2\.(snapshot|targets)\.json$", str(caught.value.where))
    assert (folders / "d2").is_dir()
    (folders / "d1").rename(ordered.path / "aside")
    assert ordered_devices(ordered) == ("d2",)


def test_files_of_two_orders_are_not_mixed(ordered: Fleet) -> None:
    """Each is signed; together they are what nobody has ordered."""
    store = OrderStore(ordered)
    old = store.get("d1")
    order_bundle(ordered, "d1", ORDER)
    new = store.get("d1")
    assert old is not None
    assert new is not None
    mixed = SignedOrder(
        targets=old[1].targets, snapshot=new[1].snapshot, timestamp=new[1].timestamp
    )
    store.put({"d1": mixed})
    with pytest.raises(VerificationError, match="do not belong together"):
        device_order(ordered, "d1")
