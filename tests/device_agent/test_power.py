"""Power cuts and failing disks, at every single change that an update makes to the disk."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit_runtime.sealing.keys import write_new_key
from tests.simulators.killed_updates import Killer
from tests.simulators.signed_fleet import SignedFleet
from tests.simulators.tiny_bundles import affine_bundle
from tests.simulators.update_engine import (
    BROKEN,
    FULL,
    READ_ONLY,
    FailingDisk,
    PowerCut,
    UpdateEngine,
)

# From the kernel's fs/ext4/ext4.h: end the file system at once, and flush no log.
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2


@pytest.fixture(scope="module")
def fleet() -> SignedFleet:
    fleet = SignedFleet()
    for number in (1, 2):
        files = affine_bundle("m", f"{number}.0.0", 1.0 + number, padding=100_000)
        fleet.release("m", f"{number}.0.0", files)
    return fleet


@pytest.fixture(scope="module")
def before(fleet: SignedFleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device that runs version 1."""
    folder = tmp_path_factory.mktemp("before")
    engine = UpdateEngine(folder, fleet)
    engine.start()
    engine.order("1.0.0", order_version=1)
    assert engine.serves() == "1.0.0"
    return folder


@pytest.fixture(scope="module")
def operations(fleet: SignedFleet, before: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many changes of the disk an update to version 2 takes."""
    folder = copy(before, tmp_path_factory.mktemp("count") / "data")
    disk = FailingDisk(folder)
    with disk.attached():
        update(folder, fleet)
    assert disk.operations > 50
    return disk.operations


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def update(folder: Path, fleet: SignedFleet) -> UpdateEngine:
    engine = UpdateEngine(folder, fleet)
    engine.start()
    engine.order("2.0.0", order_version=2)
    return engine


def cut_off(folder: Path, fleet: SignedFleet, disk: FailingDisk) -> None:
    """Update until the power goes, or to the end."""
    with disk.attached():
        try:
            update(folder, fleet)
        except PowerCut:
            return


def assert_works_at_once_and_completes(folder: Path, fleet: SignedFleet) -> None:
    engine = UpdateEngine(folder, fleet)
    engine.begin()
    assert engine.serves() in ("1.0.0", "2.0.0")
    engine.run()
    engine.order("2.0.0", order_version=2)
    record = engine.updates.records["m"]
    if record.phase.value in ("rejected", "rolled_back"):
        # Three cuts while it was proven or tried look like a version that takes the device down.
        assert "times while this version was being" in record.reason
        assert engine.serves() == "1.0.0"
        engine.order("2.0.0", order_version=3)
    assert engine.serves() == "2.0.0"
    assert engine.updates.records["m"].phase.value == "active"
    assert list((folder / "chunks").iterdir()) == []


# Each part of the update gets its share in the quick run; the slow one takes every change.
STEPS = [5, pytest.param(1, marks=pytest.mark.slow)]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_changes_of_the_disk(
    fleet: SignedFleet, before: Path, operations: int, tmp_path: Path, step: int
) -> None:
    with Killer(tmp_path, fleet) as killer:
        for kill_at in range(0, operations, step):
            folder = copy(before, tmp_path / str(kill_at))
            assert killer.update(folder, kill_at=kill_at)
            assert_works_at_once_and_completes(folder, fleet)
            shutil.rmtree(folder)


@pytest.mark.parametrize("step", STEPS)
def test_a_power_cut_at_changes_of_the_disk(
    fleet: SignedFleet, before: Path, operations: int, tmp_path: Path, step: int
) -> None:
    for cut_at in range(2, operations, step):
        folder = copy(before, tmp_path / str(cut_at))
        cut_off(folder, fleet, FailingDisk(folder, cut_at=cut_at))
        assert_works_at_once_and_completes(folder, fleet)
        shutil.rmtree(folder)


@pytest.mark.parametrize("step", [17, pytest.param(3, marks=pytest.mark.slow)])
def test_a_power_cut_while_what_is_stored_is_encrypted(
    fleet: SignedFleet, operations: int, tmp_path: Path, step: int
) -> None:
    first = tmp_path / "before"
    first.mkdir()
    write_new_key(first / "storage.key", rotate=False)
    engine = UpdateEngine(first, fleet)
    engine.start()
    engine.order("1.0.0", order_version=1)
    for cut_at in range(2, operations, step):
        folder = copy(first, tmp_path / str(cut_at))
        cut_off(folder, fleet, FailingDisk(folder, cut_at=cut_at))
        assert_works_at_once_and_completes(folder, fleet)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "number",
    # CI takes a share of the 500, the same in every run.
    [20, pytest.param(100 if os.environ.get("CI") else 500, marks=pytest.mark.slow)],
)
@pytest.mark.timeout(1200)
def test_kills_and_power_cuts_at_random_instants_and_while_recovering(
    fleet: SignedFleet, before: Path, operations: int, tmp_path: Path, number: int
) -> None:
    rng = random.Random(number)  # noqa: S311 - it only chooses instants
    with Killer(tmp_path, fleet) as killer:
        for turn in range(number):
            folder = copy(before, tmp_path / str(turn))
            # It happens again while the device recovers, up to three times.
            for _ in range(rng.randrange(1, 4)):
                instant = rng.randrange(operations)
                if rng.random() < 0.5:
                    killer.update(folder, kill_at=instant)
                else:
                    cut_off(folder, fleet, FailingDisk(folder, cut_at=instant))
            assert_works_at_once_and_completes(folder, fleet)
            shutil.rmtree(folder)


@pytest.mark.parametrize("code", [FULL, BROKEN, READ_ONLY], ids=["full", "EIO", "read-only"])
def test_one_failing_change_of_the_disk(
    fleet: SignedFleet, before: Path, operations: int, tmp_path: Path, code: int
) -> None:
    for failing in range(code % 3, operations, 6):
        assert_completes_or_is_refused(
            fleet, copy(before, tmp_path / str(failing)), {failing: code}
        )


@pytest.mark.slow
def test_any_one_fsync_that_fails(fleet: SignedFleet, before: Path, tmp_path: Path) -> None:
    folder = copy(before, tmp_path / "whole")
    engine = UpdateEngine(folder, fleet)
    engine.start()
    with FailingDisk(folder).attached() as disk:
        engine.order("2.0.0", order_version=2)
    syncs = [number for number, entry in enumerate(disk.log) if entry.startswith("fsync")]
    assert len(syncs) > 20
    for failing in syncs:
        assert_completes_or_is_refused(
            fleet, copy(before, tmp_path / str(failing)), {failing: BROKEN}
        )


def assert_completes_or_is_refused(fleet: SignedFleet, folder: Path, fail: dict[int, int]) -> None:
    engine = UpdateEngine(folder, fleet)
    engine.start()
    with FailingDisk(folder, fail=fail).attached():
        engine.order("2.0.0", order_version=2)
    record = engine.updates.records["m"]
    # Done, or refused with the reason; in both cases something works.
    assert engine.serves() == ("2.0.0" if record.phase.value == "active" else "1.0.0")
    assert record.phase.value == "active" or "cannot write" in record.reason
    engine.order("2.0.0", order_version=3)
    assert engine.serves() == "2.0.0"
    shutil.rmtree(folder)


@pytest.mark.parametrize("code", [FULL, BROKEN, READ_ONLY], ids=["full", "EIO", "read-only"])
@pytest.mark.parametrize("since", [0, 10, 40])
def test_a_disk_that_fails_from_now_on(
    fleet: SignedFleet, before: Path, operations: int, tmp_path: Path, code: int, since: int
) -> None:
    folder = copy(before, tmp_path / "data")
    engine = UpdateEngine(folder, fleet)
    engine.start()
    fail = dict.fromkeys(range(since, 10 * operations), code)
    with FailingDisk(folder, fail=fail).attached():
        engine.order("2.0.0", order_version=2)
        assert engine.serves() == "1.0.0"
        assert engine.updates.records["m"].phase.value == "rejected"
        assert engine.updates.journal_trouble
    # It serves after a restart too, and the next order finds a disk that works.
    again = UpdateEngine(folder, fleet)
    again.start()
    assert again.serves() in ("1.0.0", "2.0.0")
    again.order("2.0.0", order_version=3)
    assert again.serves() == "2.0.0"


def test_a_rotten_file_is_found_by_its_hash_and_fetched_again(
    fleet: SignedFleet, before: Path, tmp_path: Path
) -> None:
    folder = copy(before, tmp_path / "data")
    engine = update(folder, fleet)
    rng = random.Random(3)  # noqa: S311 - it only chooses a byte
    (active,) = [slot for slot in [engine.updates.records["m"].active] if slot]
    for path in sorted(engine.slots.path("m", active.digest).rglob("*")):
        if not path.is_file():
            continue
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        again = UpdateEngine(folder, fleet)
        again.begin()
        assert again.serves() in ("1.0.0", "2.0.0")
        again.run()
        assert again.serves() == "2.0.0"


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that can be ended as a power cut ends it."""
    image, place = tmp_path / "image", tmp_path / "mounted"
    place.mkdir()
    try:
        with image.open("wb") as file:
            file.truncate(48 << 20)
        run("mkfs.ext4", "-q", "-F", str(image))
        run("mount", "-o", "loop,data=ordered", str(image), str(place))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        pytest.skip(f"no ext4 can be mounted here: {reason.strip()}")
    try:
        yield place
    finally:
        run("umount", "-l", str(place))


def run(program: str, *arguments: str) -> None:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin") or program
    subprocess.run([found, *arguments], check=True, capture_output=True, text=True)


def lose_power(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, _EXT4_IOC_SHUTDOWN, ctypes.c_uint32(_NO_LOG_FLUSH))
    finally:
        os.close(handle)


@pytest.mark.slow
def test_a_real_loss_of_what_was_not_synced(
    fleet: SignedFleet, before: Path, operations: int, tmp_path: Path, ext4: Path
) -> None:
    image = tmp_path / "image"
    for cut_at in range(0, operations, 7):
        folder = ext4 / "data"
        shutil.rmtree(folder, ignore_errors=True)
        copy(before, folder)
        os.sync()
        disk = FailingDisk(folder, cut_at=cut_at, tear=False, on_cut=lambda: lose_power(ext4))
        cut_off(folder, fleet, disk)
        # What the update had open when the power went.
        gc.collect()
        run("umount", str(ext4))
        run("mount", "-o", "loop,data=ordered", str(image), str(ext4))
        assert_works_at_once_and_completes(folder, fleet)
