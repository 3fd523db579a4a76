"""A fleet in a folder: the same names as on a broker, and nothing written twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.fleet.export import export_fleet
from edgekit.fleet.folder import Fleet
from edgekit.fleet.ordering import order_bundle
from edgekit.fleet.publisher import packed_metadata, packed_order
from edgekit.fleet.release import release_bundle
from edgekit_runtime.errors import UsageError
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.protocol import Topics


@pytest.fixture
def ordered(fleet: Fleet, make_bundle) -> Fleet:
    for name, device in (("digits", "d1"), ("birds", "d2")):
        release_bundle(fleet, make_bundle("1.0.0", name=name, model=name.encode() * 30_000))
        order_bundle(fleet, device, BundleOrder(bundle=name, version="1.0.0"))
    return fleet


def held(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_holds_what_a_broker_would(ordered: Fleet, tmp_path: Path) -> None:
    done = export_fleet(ordered, tmp_path / "stick")
    topics = Topics("plant-7")
    expected = {
        topics.metadata: packed_metadata(ordered),
        topics.order("d1"): packed_order(ordered, "d1"),
        topics.order("d2"): packed_order(ordered, "d2"),
    } | {topics.chunk(path.name): path.read_bytes() for path in ordered.chunks.iterdir()}
    assert held(tmp_path / "stick") == expected
    assert (done.orders, done.chunks, done.written) == (2, len(expected) - 3, len(expected) - 3)


def test_only_what_is_missing_or_damaged_is_written(ordered: Fleet, tmp_path: Path) -> None:
    first = export_fleet(ordered, tmp_path)
    before = held(tmp_path)
    chunk = next((tmp_path / Topics("plant-7").chunk("x")).parent.iterdir())
    chunk.write_bytes(bytes(chunk.stat().st_size))
    assert export_fleet(ordered, tmp_path).written == 1
    assert export_fleet(ordered, tmp_path).written == 0
    assert held(tmp_path) == before
    assert first.written == first.chunks


def test_for_one_device_only_its_bundles_go_along(ordered: Fleet, tmp_path: Path) -> None:
    everything = export_fleet(ordered, tmp_path / "all")
    one = export_fleet(ordered, tmp_path / "one", devices=["d1"])
    assert one.orders == 1
    assert 0 < one.chunks < everything.chunks
    assert not (tmp_path / "one" / Topics("plant-7").order("d2")).exists()


def test_a_device_without_an_order_is_named(ordered: Fleet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no order for d9") as caught:
        export_fleet(ordered, tmp_path, devices=["d9", "d1"])
    assert "d1, d2" in str(caught.value.fix)
    assert not (tmp_path / "edgekit").exists()
