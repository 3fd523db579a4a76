"""Encryption at rest on a device: what is on the disk, and what becomes of it without its key."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from edgekit_agent.chunks import ChunkStore
from edgekit_agent.cli import cli
from edgekit_agent.config import load_config
from edgekit_agent.conversion import convert_storage
from edgekit_agent.hosted import HostedModel
from edgekit_agent.local import load_model
from edgekit_agent.provision import check_agent
from edgekit_agent.samples import SampleRing
from edgekit_agent.settings import samples_folder
from edgekit_agent.slots import SlotStore
from edgekit_agent.state import Slot
from edgekit_agent.telemetry.store import TelemetryStore
from edgekit_agent.trial import run_trial
from edgekit_runtime.bundle.manifest import parse_manifest
from edgekit_runtime.errors import UnsupportedModelError, UsageError, VerificationError
from edgekit_runtime.orders import Budget
from edgekit_runtime.sealing.keys import KeySource, StorageLockedError, write_new_key
from edgekit_runtime.sealing.vault import Encryption, Vault
from edgekit_runtime.session import open_session
from edgekit_runtime.telemetry import DeviceGauges, Window
from tests.device_agent.test_storage import Device
from tests.simulators.hosted_models import make_slot
from tests.simulators.local_agent import RunningAgent, make_config
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import GOLDEN, affine_bundle, affine_model, bundle_files

SECRET = b"a pattern that nobody may find on the disk"


def encrypted(folder: Path, *, enabled: bool = True) -> Encryption:
    path = folder / "storage.key"
    if not path.exists():
        write_new_key(path, rotate=False)
    return Encryption(key=KeySource("file", str(path)), enabled=enabled)


def device_in(folder: Path, encryption: Encryption) -> Device:
    device = Device(folder)
    vault = Vault(folder, encryption)
    device.chunks = ChunkStore(folder / "chunks", vault)
    device.slots = SlotStore(folder / "slots", vault)
    device.fetcher._chunks, device.fetcher._slots = device.chunks, device.slots
    return device


def found_below(folder: Path, pattern: bytes) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if pattern in path.read_bytes()]


# --- slots and chunks


def test_nothing_of_a_bundle_is_readable_on_the_disk(tmp_path: Path) -> None:
    device = device_in(tmp_path, encrypted(tmp_path))
    files = affine_bundle("m", "1.0.0", 2.0, padding=150_000)
    target = device.target("1.0.0", files)
    assert device.get(target) == "plain"
    for name, content in files.items():
        assert not found_below(tmp_path, content[:48]), name
    assert device.slots.check("m", Slot(target=target, variant="plain")) == ""
    assert device.slots.manifest("m", target.digest).version == "1.0.0"
    for name, wire in device.fleet.chunks.items():
        assert device.chunks.has(name, len(wire))
        assert device.chunks.read(name) == wire
        assert wire not in (tmp_path / "chunks" / name).read_bytes()


def test_chunks_and_files_of_encrypted_versions_are_reused(tmp_path: Path) -> None:
    device = device_in(tmp_path, encrypted(tmp_path))
    device.get(device.target("1.0.0", affine_bundle("m", "1.0.0", 2.0, padding=150_000)))
    device.chunks.keep_only(())
    device.fetched.clear()
    device.get(device.target("2.0.0", affine_bundle("m", "2.0.0", 3.0, padding=150_000)))
    assert sum(len(device.fleet.chunks[name]) for name in device.fetched) < 20_000


def test_a_rotten_encrypted_file_is_found_and_fetched_again(tmp_path: Path) -> None:
    device = device_in(tmp_path, encrypted(tmp_path))
    target = device.target("1.0.0", affine_bundle("m", "1.0.0", 2.0, padding=150_000))
    device.get(target)
    slot = Slot(target=target, variant="plain")
    model = max(device.slots.path("m", target.digest).rglob("*"), key=lambda p: p.stat().st_size)
    rotten = bytearray(model.read_bytes())
    rotten[70_000] ^= 1
    model.write_bytes(rotten)
    assert "damaged" in device.slots.check("m", slot)
    device.get(target)
    assert device.slots.check("m", slot) == ""


def test_a_torn_encrypted_chunk_is_fetched_again(tmp_path: Path) -> None:
    device = device_in(tmp_path, encrypted(tmp_path))
    target = device.target("1.0.0", affine_bundle("m", "1.0.0", 2.0, padding=150_000))
    device.get(target)
    device.slots.keep_only({})
    largest = max(device.fleet.chunks, key=lambda name: len(device.fleet.chunks[name]))
    torn = tmp_path / "chunks" / largest
    torn.write_bytes(torn.read_bytes()[:-20] + bytes(20))
    device.fetched.clear()
    assert device.get(target) == "plain"
    assert device.fetched == [largest]


def test_without_the_key_nothing_is_written_and_nothing_given_up(tmp_path: Path) -> None:
    encryption = encrypted(tmp_path)
    device = device_in(tmp_path, encryption)
    target = device.target("1.0.0", affine_bundle("m", "1.0.0", 2.0))
    device.get(target)
    assert encryption.key
    encryption.key.find().rename(tmp_path / "away")
    locked = device_in(tmp_path, encryption)
    slot = Slot(target=target, variant="plain")
    with pytest.raises(StorageLockedError, match="storage key cannot be read"):
        locked.slots.check("m", slot)
    name, wire = next(iter(device.fleet.chunks.items()))
    with pytest.raises(StorageLockedError):
        locked.chunks.accept(name, len(wire), wire)
    # The journal may be lost as well: what was proven is believed until the key is back.
    device.slots.mark_proven("m", slot, sequence=1)
    assert locked.slots.recover()["m"].active == slot
    (tmp_path / "away").rename(encryption.key.find())
    assert locked.slots.check("m", slot) == ""


def test_slots_change_form_file_by_file_and_back(tmp_path: Path) -> None:
    device = Device(tmp_path)
    files = affine_bundle("m", "1.0.0", 2.0, padding=150_000)
    target = device.target("1.0.0", files)
    device.get(target)
    place = device.slots.path("m", target.digest)
    for enabled in (True, False):
        vault = Vault(tmp_path, encrypted(tmp_path, enabled=enabled))
        slots, chunks = SlotStore(tmp_path / "slots", vault), ChunkStore(tmp_path / "chunks", vault)
        ring = SampleRing(samples_folder(tmp_path), most_bytes=1 << 20, vault=vault)
        done = convert_storage(slots=slots, chunks=chunks, samples=ring)
        assert (done.files, done.trouble) == (len(files), "")
        assert convert_storage(slots=slots, chunks=chunks, samples=ring).files == 0
        assert slots.check("m", Slot(target=target, variant="plain")) == ""
        plain = {name: (place / name).read_bytes() == data for name, data in files.items()}
        assert set(plain.values()) == {not enabled}
        # Chunks are not worth it: they come again.
        assert not list((tmp_path / "chunks").iterdir())


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_an_engine_opens_an_encrypted_model_and_keeps_it(tmp_path: Path, engine: str) -> None:
    vault = Vault(tmp_path, encrypted(tmp_path))
    path = tmp_path / "model"
    if engine == "litert":
        pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
        from tests.runtime.graph.tflite_files import conv_model, pack

        content = pack(conv_model())
    else:
        content = affine_model(2.0)
    path.write_bytes(b"".join(vault.encode(path, [content])))
    with vault.plain_file(path) as model:
        session = open_session(model, runtime=engine)
    # The file is gone, and the engine goes on with what it has read or mapped.
    inputs = {
        spec.name: np.ones([size or 1 for size in spec.shape], dtype=spec.dtype)
        for spec in session.inputs
    }
    plain = tmp_path / "plain"
    plain.write_bytes(content)
    expected = open_session(plain, runtime=engine).run(inputs)
    for name, array in session.run(inputs).items():
        assert np.array_equal(array, expected[name])


def test_a_large_encrypted_model_is_proven_in_a_trial(tmp_path: Path) -> None:
    # Larger than what a trial may write: a model in memory is a file as well.
    noise = np.random.default_rng(0).normal(size=(5_000_000,)).astype(np.float32)
    model = onnx.load_from_string(affine_model(2.0))
    model.graph.initializer.append(numpy_helper.from_array(noise, "noise"))
    model.graph.node.append(helper.make_node("Size", ["noise"], ["unused"]))
    files = bundle_files("m", "1.0.0", [("plain", model.SerializeToString())], expected=GOLDEN * 2)
    plan = make_slot(tmp_path, files)
    vault = Vault(tmp_path, encrypted(tmp_path))
    for name in files:
        vault.convert(Path(plan.folder) / name)
    encryption = encrypted(tmp_path).to_text()
    plan = replace(plan, data=str(tmp_path), encryption=encryption)
    outcome = run_trial(plan, Budget(trial_seconds=60), stop=threading.Event())
    assert (outcome.passed, outcome.reason) == (True, "")


def test_what_an_engine_refuses_is_named_by_its_place_in_the_slot(tmp_path: Path) -> None:
    files = affine_bundle("m", "1.0.0", 2.0)
    plan = make_slot(tmp_path, files)
    vault = Vault(tmp_path, encrypted(tmp_path))
    manifest = parse_manifest(files["manifest.json"], where="m")
    model = Path(plan.folder) / manifest.variant("plain").file
    model.write_bytes(b"".join(vault.encode(model, [files[manifest.variant("plain").file][:40]])))
    encryption = encrypted(tmp_path).to_text()
    with pytest.raises(UnsupportedModelError) as caught:
        HostedModel(replace(plan, data=str(tmp_path), encryption=encryption))
    assert caught.value.where == str(model)


def test_a_conversion_that_is_cut_off_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(tmp_path)
    files = affine_bundle("m", "1.0.0", 2.0, padding=150_000)
    target = device.target("1.0.0", files)
    device.get(target)
    vault = Vault(tmp_path, encrypted(tmp_path))
    slots = SlotStore(tmp_path / "slots", vault)
    convert, left = vault.convert, [2]

    def power_cut(path: Path) -> bool:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return convert(path)

    monkeypatch.setattr(vault, "convert", power_cut)
    with pytest.raises(KeyboardInterrupt):
        slots.convert()
    monkeypatch.undo()
    slot = Slot(target=target, variant="plain")
    assert slots.check("m", slot) == ""
    assert slots.convert() == (len(files) - 2, "")
    assert slots.check("m", slot) == ""


def test_a_new_key_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    encryption = encrypted(tmp_path)
    device = device_in(tmp_path, encryption)
    files = affine_bundle("m", "1.0.0", 2.0)
    target = device.target("1.0.0", files)
    device.get(target)
    assert encryption.key
    write_new_key(encryption.key.find(), rotate=True)
    slots = SlotStore(tmp_path / "slots", Vault(tmp_path, encryption))
    assert slots.convert() == (len(files), "")
    lines = encryption.key.find().read_text().splitlines()
    encryption.key.find().write_text("\n".join(lines[:-1]))
    alone = SlotStore(tmp_path / "slots", Vault(tmp_path, encryption))
    assert alone.check("m", Slot(target=target, variant="plain")) == ""


# --- measurements and samples


def window(start: float) -> Window:
    return Window(start=start, end=start + 1, device=DeviceGauges())


def store(
    folder: Path, encryption: Encryption | None = None, most_bytes: int = 1 << 20
) -> TelemetryStore:
    vault = Vault(folder, encryption)
    return TelemetryStore(folder / "telemetry.db", device="d1", most_bytes=most_bytes, vault=vault)


def stored_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("telemetry.db*")))


def messages(kept: TelemetryStore) -> list[bytes]:
    found = []
    while (batch := kept.next_batch()) is not None:
        found.append(batch.message)
        kept.acknowledge(batch.number)
    return found


def test_bodies_of_the_queue_are_hidden_and_come_out_as_they_were(tmp_path: Path) -> None:
    kept = store(tmp_path, encrypted(tmp_path))
    kept.add(window(5.0), window(6.0))
    kept.add_event(7, json.dumps({"detail": SECRET.decode()}).encode())
    assert SECRET not in stored_bytes(tmp_path)
    assert b'"device"' not in stored_bytes(tmp_path)
    plain = store(tmp_path / "plain")
    plain.add(window(5.0), window(6.0))
    assert kept.events(without=(), most=9) == [
        (7, json.dumps({"detail": SECRET.decode()}).encode())
    ]
    records = [json.loads(messages(each)[0])["records"] for each in (kept, plain)]
    assert records[0] == records[1]
    kept.close()
    plain.close()


def test_the_queue_changes_form_and_leaves_nothing_of_the_other(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.add(window(5.0))
    kept.add_event(7, SECRET)
    assert SECRET in stored_bytes(tmp_path)
    kept.close()
    for enabled in (True, False, True):
        kept = store(tmp_path, encrypted(tmp_path, enabled=enabled))
        kept.convert()
        assert (SECRET in stored_bytes(tmp_path)) is not enabled
        assert kept.events(without=(), most=9) == [(7, SECRET)]
        kept.close()


def test_older_windows_are_merged_while_they_are_encrypted(tmp_path: Path) -> None:
    kept = store(tmp_path, encrypted(tmp_path), most_bytes=1 << 14)
    for number in range(120):
        kept.add(window(60.0 * number))
    assert 0 < kept.waiting < 120
    counted = [json.loads(message) for message in messages(kept)]
    assert (
        sum(record["window"].get("windows", 1) for m in counted for record in m["records"])
        + (kept.dropped)
        == 120
    )
    kept.close()


def test_a_body_in_another_ones_place_is_dropped_and_counted(tmp_path: Path) -> None:
    kept = store(tmp_path, encrypted(tmp_path))
    kept.add(window(5.0), window(6.0))
    kept.close()
    database = sqlite3.connect(tmp_path / "telemetry.db")
    with database:
        database.execute(
            "UPDATE rows SET body = (SELECT body FROM rows WHERE sequence = 1) WHERE sequence = 2"
        )
    database.close()
    kept = store(tmp_path, encrypted(tmp_path))
    assert [len(json.loads(message)["records"]) for message in messages(kept)] == [1]
    assert kept.dropped == 1
    kept.close()


def test_a_queue_of_a_lost_key_is_dropped_and_counted(tmp_path: Path) -> None:
    encryption = encrypted(tmp_path)
    kept = store(tmp_path, encryption)
    kept.add(window(5.0))
    kept.add_event(7, SECRET)
    kept.close()
    assert encryption.key
    encryption.key.find().unlink()
    kept = store(tmp_path, encrypted(tmp_path))
    assert messages(kept) == []
    assert kept.events(without=(), most=9) == []
    assert kept.dropped == 2
    assert kept.last_event == 7
    kept.close()


def test_many_messages_of_a_lost_key_are_dropped_at_once(tmp_path: Path) -> None:
    encryption = encrypted(tmp_path)
    kept = store(tmp_path, encryption)
    kept.add(*(window(60.0 * place) for place in range(sys.getrecursionlimit())))
    kept.close()
    assert encryption.key
    encryption.key.find().unlink()
    kept = store(tmp_path, encrypted(tmp_path))
    # A broker that takes only the smallest messages: each is of one window.
    kept.make_smaller(0, 1)
    assert kept.next_batch() is None
    assert kept.dropped == sys.getrecursionlimit()
    kept.close()


def test_while_the_key_is_missing_events_are_said_and_nothing_is_written(tmp_path: Path) -> None:
    encryption = encrypted(tmp_path)
    kept = store(tmp_path, encryption)
    kept.add(window(5.0))
    kept.add_event(7, b"before")
    kept.close()
    assert encryption.key
    encryption.key.find().rename(tmp_path / "away")
    kept = store(tmp_path, encryption)
    for action in (lambda: kept.add(window(6.0)), lambda: kept.add_event(8, SECRET)):
        with pytest.raises(StorageLockedError):
            action()
    with pytest.raises(StorageLockedError):
        kept.next_batch()
    assert kept.events(without=(), most=9) == [(8, SECRET)]
    assert kept.dropped == 1
    assert SECRET not in stored_bytes(tmp_path)
    (tmp_path / "away").rename(encryption.key.find())
    assert kept.events(without=(), most=9) == [(7, b"before"), (8, SECRET)]
    kept.convert()
    kept.close()
    kept = store(tmp_path, encryption)
    assert kept.events(without=(), most=9) == [(7, b"before"), (8, SECRET)]
    kept.forget_event(8)
    assert kept.events(without=(), most=9) == [(7, b"before")]
    assert len(messages(kept)) == 1
    kept.close()


def test_samples_are_kept_encrypted_and_leave_as_they_were(tmp_path: Path) -> None:
    vault = Vault(tmp_path, encrypted(tmp_path))
    ring = SampleRing(samples_folder(tmp_path), most_bytes=1 << 16, vault=vault)
    assert ring.add("1.npz", SECRET)
    assert not found_below(tmp_path, SECRET)
    (file,) = ring.files()
    assert ring.read(file) == SECRET
    file.rename(file.with_name("2.npz"))
    with pytest.raises(VerificationError, match="something else's"):
        ring.read(file.with_name("2.npz"))
    # What cannot be read any more is no use to anybody.
    outdated = Vault(tmp_path, encrypted(tmp_path, enabled=False))
    assert SampleRing(samples_folder(tmp_path), most_bytes=1, vault=outdated).convert() == 0
    assert ring.files() == []


# --- the agent


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RunningAgent]:
    fleet = SignedFleet()
    config = replace(make_config(tmp_path, fleet), encryption=encrypted(tmp_path))
    running = RunningAgent(config=config, fleet=fleet)
    running.start()
    yield running
    running.stop()


def restart(agent: RunningAgent, encryption: Encryption) -> None:
    agent.stop()
    agent.config = replace(agent.config, encryption=encryption)
    agent.start()


def model_is_plain(agent: RunningAgent) -> bool:
    content = affine_bundle("double", "1.0.0", 2.0)["manifest.json"]
    return bool(found_below(agent.config.data / "slots", content))


def test_an_encrypted_agent_installs_proves_serves_and_changes_back(
    agent: RunningAgent, tmp_path: Path
) -> None:
    agent.install("1.0.0", 2.0)
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
    assert not model_is_plain(agent)
    with load_model("double", config=write_config(agent)) as model:
        x = np.array([[1, 2, 3, 4]], dtype=np.float32)
        assert model.infer({"x": x})["y"].tolist() == [[2.0, 4.0, 6.0, 8.0]]
    restart(agent, encrypted(tmp_path, enabled=False))
    agent.wait_for(lambda: "storage.converted" in agent.kinds())
    assert model_is_plain(agent)
    agent.wait_for(lambda: agent.served_versions() == ["1.0.0"])
    restart(agent, encrypted(tmp_path))
    agent.wait_for(lambda: agent.kinds().count("storage.converted") == 2)
    assert not model_is_plain(agent)
    agent.install("1.1.0", 3.0)
    assert agent.answer() == [3.0, 6.0, 9.0, 12.0]


def write_config(agent: RunningAgent) -> Path:
    assert agent.config.encryption.key
    path = agent.config.data.parent / "agent.toml"
    path.write_text(
        'device = "device-1"\nfleet = "test"\nimage_root = "a"\ndirector_root = "b"\n'
        '[broker]\nhost = "h"\n[encryption]\n'
        f'key_file = "{agent.config.encryption.key.name}"\n'
    )
    return path


def without_key(agent: RunningAgent) -> tuple[Path, Path]:
    """Serve a model and lose the key; where it was, and where it is now."""
    agent.install("1.0.0", 2.0)
    assert agent.config.encryption.key
    key = agent.config.encryption.key.find()
    return key, key.rename(key.with_name("away"))


def test_a_missing_key_is_told_and_everything_goes_on_when_it_is_back(agent: RunningAgent) -> None:
    key, away = without_key(agent)
    restart(agent, agent.config.encryption)
    agent.wait_for(lambda: "storage.locked" in agent.kinds())
    agent.wait_for(lambda: "storage key cannot be read" in agent.bundle().get("reason", ""))
    # An order that comes meanwhile waits, and is not refused.
    agent.release("double", "1.1.0", affine_bundle("double", "1.1.0", 3.0))
    agent.order(quick_order("double", "1.1.0"))
    agent.wait_for_phase("fetching")
    agent.wait_for(lambda: "update.waiting" in agent.kinds())
    status = json.loads(agent.config.status_file.read_bytes())
    assert "storage key cannot be read" in status["storage"]
    away.rename(key)
    agent.wait_for(lambda: "storage.unlocked" in agent.kinds())
    agent.wait_for(lambda: agent.bundle().get("active") == "1.1.0" and agent.is_active("double"))
    assert agent.answer() == [3.0, 6.0, 9.0, 12.0]
    assert "update.rejected" not in agent.kinds()


def test_a_key_that_goes_away_while_it_runs_is_no_models_fault(agent: RunningAgent) -> None:
    key, away = without_key(agent)
    assert agent.server_pid
    os.kill(agent.server_pid, signal.SIGKILL)
    agent.wait_for(lambda: "storage.locked" in agent.kinds())
    # Meanwhile the server is started again and again, and cannot load anything.
    time.sleep(2)
    assert agent.bundle()["active"] == "1.0.0"
    away.rename(key)
    agent.wait_for(lambda: agent.served_versions() == ["1.0.0"])
    # Once for the kill.
    assert agent.kinds().count("server.crashed") <= 1
    assert "update.rolled_back" not in agent.kinds()


def test_a_wrong_key_is_told_and_the_models_are_fetched_anew(agent: RunningAgent) -> None:
    key, _ = without_key(agent)
    write_new_key(key, rotate=False)
    restart(agent, agent.config.encryption)
    agent.wait_for(lambda: agent.served_versions() == ["1.0.0"] and agent.is_active("double"))
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
    told = " ".join(event["detail"] for event in agent.events)
    assert "encrypted with the key" in told


# --- the command line


def test_the_configuration_names_one_place_of_the_key(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"

    def load(section: str) -> Encryption:
        path.write_text(
            'device = "d"\nfleet = "f"\nimage_root = "a"\ndirector_root = "b"\n'
            f'[broker]\nhost = "h"\n{section}'
        )
        return load_config(path).encryption

    assert load("") == Encryption()
    file = KeySource("file", str(tmp_path / "storage.key"))
    assert load('[encryption]\nkey_file = "storage.key"\n') == Encryption(key=file, enabled=True)
    assert load('[encryption]\nenabled = false\nkey_credential = "k"\n') == Encryption(
        key=KeySource("credential", "k"), enabled=False
    )
    assert load('[encryption]\nkey_variable = "KEY"\n').key == KeySource("variable", "KEY")
    for wrong, fault in (
        ("[encryption]\n", "needs exactly one of key_file, key_credential, key_variable"),
        ('[encryption]\nkey_file = "a"\nkey_variable = "b"\n', "needs exactly one"),
        ('[encryption]\nkey_credential = "../k"\n', "key_credential"),
        ('[encryption]\nkey = "a"\n', "key: is not known"),
    ):
        with pytest.raises(UsageError, match=fault):
            load(wrong)


def test_check_says_what_is_encrypted_and_what_cannot_be_opened(
    agent: RunningAgent, tmp_path: Path
) -> None:
    agent.install("1.0.0", 2.0)
    agent.stop()
    config = write_config(agent)

    def finding() -> tuple[bool, str]:
        (found,) = [each for each in check_agent(config) if each.name == "encryption"]
        return found.ok, found.detail

    count = len(affine_bundle("double", "1.0.0", 2.0))
    assert finding() == (True, f"on; {count} files are encrypted with the first of 1 keys")
    runner = CliRunner()
    made = runner.invoke(cli, ["storage-key", str(tmp_path / "storage.key"), "--rotate"])
    assert made.exit_code == 0
    assert "2 keys" in made.output
    ok, detail = finding()
    assert ok
    assert f"{count} are not yet: the agent rewrites them" in detail
    key = tmp_path / "storage.key"
    key.write_text("0" * 64)
    ok, detail = finding()
    assert not ok
    assert "encrypted with the key" in detail
    key.chmod(0o644)
    ok, detail = finding()
    assert (ok, "others may read" in detail) == (False, True)
    config.write_text(config.read_text().partition("[encryption]")[0])
    ok, detail = finding()
    assert (ok, "no key is configured" in detail) == (False, True)
