"""Journal, slots and chunks: what is on the disk, and what becomes of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_agent.chunks import ChunkStore
from edgekit_agent.fetching import Fetcher
from edgekit_agent.hardware import Hardware
from edgekit_agent.journal import Journal, delete_strays, load_journal, parse_journal, save_journal
from edgekit_agent.needs import Missing, Ready
from edgekit_agent.slots import SlotStore
from edgekit_agent.state import BundleRecord, Slot, Target
from edgekit_runtime.errors import (
    EnvironmentLackError,
    InvalidBundleError,
    UnsupportedModelError,
    VerificationError,
)
from edgekit_runtime.orders import BundleOrder, parse_index_pieces
from edgekit_runtime.reports import Phase
from tests.simulators.signed_fleet import SignedFleet
from tests.simulators.tiny_bundles import GOLDEN, affine_bundle, affine_model, bundle_files

HARDWARE = Hardware(
    architecture="x86_64", ram_bytes=1 << 30, runtimes={"onnxruntime": "1.32.0"}, python="3.11"
)


class Device:
    """Stores in a folder, and a fleet to fetch from."""

    def __init__(self, folder: Path, store_bytes: int = 64 << 20) -> None:
        self.fleet = SignedFleet()
        self.chunks = ChunkStore(folder / "chunks")
        self.slots = SlotStore(folder / "slots")
        self.fetcher = Fetcher(
            chunks=self.chunks, slots=self.slots, hardware=HARDWARE, store_bytes=store_bytes
        )
        self.fetched: list[str] = []

    def target(self, version: str, files: dict[str, bytes], bundle: str = "m") -> Target:
        digest = self.fleet.release(bundle, version, files)
        order = BundleOrder(bundle=bundle, version=version)
        released = self.fleet.released[order.target_path]
        return Target(
            order=order,
            digest=digest,
            length=released.length,
            pieces=tuple(parse_index_pieces("p", released.custom, length=released.length)),
            order_version=1,
        )

    def get(self, target: Target, failed: tuple[str, ...] = ()) -> str:
        reuse = True
        while isinstance(result := self.fetcher.install(target, failed, reuse=reuse), Missing):
            reuse = result.reuse
            for name, size in result.chunks.items():
                self.fetched.append(name)
                self.chunks.accept(name, size, self.fleet.chunks[name])
        return result.variant


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_target_is_fetched_step_by_step_and_installed(device: Device) -> None:
    files = affine_bundle("m", "1.0.0", 2.0, padding=150_000)
    target = device.target("1.0.0", files)
    assert device.get(target) == "plain"
    assert set(device.fetched) == set(device.fleet.chunks)
    place = device.slots.path("m", target.digest)
    assert {path: (place / path).read_bytes() for path in files} == files
    assert device.slots.check("m", Slot(target=target, variant="plain")) == ""


def test_only_the_chosen_variant_is_fetched(device: Device) -> None:
    models = [("first", affine_model(2.0)), ("second", affine_model(2.0, 1e-9))]
    target = device.target("1.0.0", bundle_files("m", "1.0.0", models, expected=GOLDEN * 2))
    assert device.get(target) == "first"
    place = device.slots.path("m", target.digest)
    assert not (place / "models/second").exists()
    assert device.get(target, failed=("first",)) == "second"
    assert (place / "models/second").exists()
    with pytest.raises(UnsupportedModelError, match="no variant is left"):
        device.get(target, failed=("first", "second"))


def test_files_of_an_installed_version_are_not_fetched_again(device: Device) -> None:
    first = device.target("1.0.0", affine_bundle("m", "1.0.0", 2.0, padding=150_000))
    device.get(first)
    device.chunks.keep_only(())
    device.fetched.clear()
    second = device.target("2.0.0", affine_bundle("m", "2.0.0", 3.0, padding=150_000))
    device.get(second)
    sent = sum(len(device.fleet.chunks[name]) for name in device.fetched)
    assert sent < 20_000


def test_a_torn_chunk_is_fetched_again(device: Device, tmp_path: Path) -> None:
    target = device.target("1.0.0", affine_bundle("m", "1.0.0", 2.0, padding=150_000))
    device.get(target)
    device.slots.keep_only({})
    largest = max(device.fleet.chunks, key=lambda name: len(device.fleet.chunks[name]))
    torn = tmp_path / "chunks" / largest
    torn.write_bytes(bytes(torn.stat().st_size))
    device.fetched.clear()
    assert device.get(target) == "plain"
    assert device.fetched == [largest]


def test_an_index_with_another_hash_is_refused(device: Device) -> None:
    target = device.target("1.0.0", affine_bundle("m", "1.0.0", 2.0))
    with pytest.raises(VerificationError, match="index does not match"):
        device.get(replace(target, digest="0" * 64))


def test_index_and_manifest_must_be_of_the_ordered_bundle(device: Device) -> None:
    other = device.target("1.0.0", affine_bundle("other", "1.0.0", 2.0))
    with pytest.raises(InvalidBundleError, match=r"manifest of other 1\.0\.0"):
        device.get(other)
    extra = device.target("2.0.0", {**affine_bundle("m", "2.0.0", 2.0), "extra": b"x"})
    with pytest.raises(InvalidBundleError, match="different files"):
        device.get(extra)


def test_an_update_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    device = Device(tmp_path, store_bytes=10_000)
    target = device.target("1.0.0", affine_bundle("m", "1.0.0", 2.0, padding=150_000))
    with pytest.raises(EnvironmentLackError, match="exceed the limit"):
        device.get(target)


def test_wrong_chunks_are_not_kept(device: Device) -> None:
    name = hashlib.sha256(b"right").hexdigest()
    for data in (b"wrong", b"right!", b""):
        with pytest.raises(VerificationError):
            device.chunks.accept(name, 5, data)
        assert not device.chunks.has(name, 5)
    device.chunks.accept(name, 5, b"right")
    assert device.chunks.read(name) == b"right"


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "slot.json", "manifest.json"])
def test_damage_is_found(device: Device, damage: str) -> None:
    target = device.target("1.0.0", affine_bundle("m", "1.0.0", 2.0))
    device.get(target)
    slot = Slot(target=target, variant="plain")
    place = device.slots.path("m", target.digest)
    model = place / "models/plain"
    match damage:
        case "flip":
            model.write_bytes(bytes([model.read_bytes()[0] ^ 1]) + model.read_bytes()[1:])
        case "cut":
            model.write_bytes(model.read_bytes()[:-1])
        case "delete":
            model.unlink()
        case name:
            (place / name).write_bytes(b"{}")
    assert device.slots.check("m", slot)


def test_collecting_keeps_what_records_need(device: Device) -> None:
    targets = [
        device.target(f"{number}.0.0", affine_bundle("m", f"{number}.0.0", 2.0 + number))
        for number in range(4)
    ]
    for target in targets:
        device.get(target)
    record = BundleRecord(
        bundle="m",
        phase=Phase.FETCHING,
        active=Slot(target=targets[1], variant="plain"),
        previous=Slot(target=targets[0], variant="plain"),
        candidate=targets[3],
    )
    device.slots.keep_only({"m": record.digests})
    kept = [device.slots.path("m", target.digest).exists() for target in targets]
    assert kept == [True, True, False, True]


def test_recovery_takes_the_version_proven_last_and_whole(device: Device) -> None:
    targets = [
        device.target(f"{number}.0.0", affine_bundle("m", f"{number}.0.0", 2.0 + number))
        for number in range(4)
    ]
    slots = [Slot(target=target, variant="plain") for target in targets]
    for target in targets:
        device.get(target)
    # The last was never proven, the one before is damaged.
    for sequence, slot in enumerate(slots[:3]):
        device.slots.mark_proven("m", slot, sequence=sequence)
    (device.slots.path("m", targets[2].digest) / "models/plain").write_bytes(b"x")
    record = device.slots.recover()["m"]
    assert (record.active, record.previous, record.phase) == (slots[1], slots[0], Phase.ACTIVE)


def test_a_journal_comes_back_as_it_was(device: Device, tmp_path: Path) -> None:
    target = device.target("1.0.0", affine_bundle("m", "1.0.0", 2.0))
    journal = Journal(
        order_version=3,
        event_sequence=14,
        time_floor=1.5e9,
        bundles={
            "m": BundleRecord(
                bundle="m",
                phase=Phase.TRYING,
                active=Slot(target=target, variant="plain"),
                candidate=target,
                variant="plain",
                failed=(("first", "slow"),),
                boots=1,
                crashes=1,
            )
        },
    )
    path = tmp_path / "journal.json"
    assert load_journal(path) == Journal()
    save_journal(path, journal)
    assert load_journal(path) == journal


def test_half_written_files_are_cleared_away(device: Device, tmp_path: Path) -> None:
    target = device.target("1.0.0", affine_bundle("m", "1.0.0", 2.0))
    place = device.slots.path("m", target.digest)
    (place / "models").mkdir(parents=True)
    strays = [place / "models" / ".plain.x1", tmp_path / ".journal.json.x2"]
    for stray in strays:
        stray.write_bytes(b"half")
    device.get(target)
    delete_strays(tmp_path / "journal.json")
    assert [stray for stray in strays if stray.exists()] == []


@given(st.binary(max_size=100))
def test_any_bytes_are_no_journal(data: bytes) -> None:
    with pytest.raises(VerificationError):
        parse_journal(data, where="t")


@given(st.data())
def test_a_damaged_journal_is_refused_or_makes_sense(data: st.DataObject) -> None:
    document = json.loads(Journal(bundles={"m": BundleRecord(bundle="m")}).to_json())
    record = document["bundles"]["m"]
    field = data.draw(st.sampled_from(sorted(record)))
    record[field] = data.draw(
        st.one_of(st.none(), st.integers(), st.text(max_size=9), st.lists(st.integers()))
    )
    try:
        journal = parse_journal(json.dumps(document).encode(), where="t")
    except VerificationError:
        return
    restored = journal.bundles["m"]
    assert (restored.candidate is None) == (restored.phase is not Phase.FETCHING)


def test_plan_says_ready_when_nothing_is_missing(device: Device) -> None:
    target = device.target("1.0.0", affine_bundle("m", "1.0.0", 2.0))
    plan = device.fetcher.plan(target, ())
    assert isinstance(plan, Missing)
    assert set(plan.chunks) == {name for name, _ in target.pieces}
    device.get(target)
    assert device.fetcher.plan(target, ()) == Ready(variant="plain")
