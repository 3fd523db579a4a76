"""What is installed is not sent again: chunks and deltas out of other versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit_agent.chunks import ChunkStore
from edgekit_agent.fetching import Fetcher
from edgekit_agent.installation import InstallerProcess
from edgekit_agent.needs import Missing, Ready
from edgekit_agent.slots import SlotStore
from edgekit_agent.sources import InstalledFiles, find_recipe
from edgekit_agent.state import Slot, Target
from edgekit_runtime.bundle.archive import entry_of
from edgekit_runtime.bundle.index import parse_index
from edgekit_runtime.bundle.manifest import MANIFEST_NAME, RESERVED_NAMES, parse_manifest
from edgekit_runtime.errors import (
    EnvironmentLackError,
    InvalidBundleError,
    VerificationError,
)
from tests.device_agent.test_storage import HARDWARE, Device
from tests.simulators.layered_models import (
    float_weights,
    int8_weights,
    onnx_file,
    retrain,
    step_one_in_twenty,
)
from tests.simulators.tiny_bundles import GOLDEN, bundle_files


def bundle(version: str, model: bytes) -> dict[str, bytes]:
    return bundle_files("m", version, [("plain", model)], expected=GOLDEN)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def sent(device: Device) -> int:
    return sum(len(device.fleet.chunks[name]) for name in device.fetched)


def update(device: Device, version: str, model: bytes) -> tuple[Target, int]:
    """Install a version on what is there; the bytes that travelled."""
    target = device.target(version, bundle(version, model))
    device.chunks.keep_only(())
    device.fetched.clear()
    device.get(target)
    held = device.slots.path("m", target.digest) / "models/plain"
    assert held.read_bytes() == model
    assert device.slots.check("m", Slot(target=target, variant="plain")) == ""
    return target, sent(device)


def test_last_layer_changed_travels_alone(device: Device) -> None:
    weights = float_weights()
    update(device, "1.0.0", onnx_file(weights))
    _, moved = update(device, "1.1.0", onnx_file(retrain(weights, "head", "head_bias")))
    assert moved <= 0.10 * len(onnx_file(weights))


def test_small_steps_of_int8_weights_travel_as_deltas(device: Device) -> None:
    weights = int8_weights()
    update(device, "1.0.0", onnx_file(weights))
    _, moved = update(device, "1.1.0", onnx_file(step_one_in_twenty(weights)))
    assert moved <= 0.05 * len(onnx_file(weights))


def test_chunks_come_from_any_installed_version(device: Device) -> None:
    weights = float_weights(small=True)
    update(device, "1.0.0", onnx_file(weights))
    update(device, "2.0.0", onnx_file(float_weights(seed=5, small=True)))
    # Back to the tensors of the first, with other ones around them.
    third = {"more": np.ones(3000, np.float32)} | weights
    _, moved = update(device, "3.0.0", onnx_file(third))
    assert moved < 60_000


def test_chunks_come_from_another_bundle(device: Device) -> None:
    weights = float_weights(small=True)
    update(device, "1.0.0", onnx_file(weights))
    files = bundle_files("other", "1.0.0", [("plain", onnx_file(weights))], expected=GOLDEN)
    target = device.target("1.0.0", files, bundle="other")
    device.chunks.keep_only(())
    device.fetched.clear()
    device.get(target)
    assert sent(device) < 20_000


def test_a_damaged_base_is_found_by_its_hash_and_whole_chunks_come(device: Device) -> None:
    weights = int8_weights(small=True)
    first, whole = update(device, "1.0.0", onnx_file(weights))
    model = device.slots.path("m", first.digest) / "models/plain"
    data = bytearray(model.read_bytes())
    data[50_000] ^= 1
    model.write_bytes(data)
    _, moved = update(device, "1.1.0", onnx_file(step_one_in_twenty(weights)))
    assert moved > 0.9 * whole


def test_a_base_that_changes_after_it_was_proven_costs_only_time(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = int8_weights(small=True)
    first, _ = update(device, "1.0.0", onnx_file(weights))
    model = device.slots.path("m", first.digest) / "models/plain"
    monkeypatch.setattr(InstalledFiles, "_is_proven", lambda _self, path: path.exists())
    data = bytearray(model.read_bytes())
    data[50_000] ^= 1
    model.write_bytes(data)
    update(device, "1.1.0", onnx_file(step_one_in_twenty(weights)))
    model.write_bytes(data[:1000])
    update(device, "1.2.0", onnx_file(step_one_in_twenty(weights, seed=3)))


def test_a_slot_whose_index_is_damaged_gives_nothing(device: Device) -> None:
    weights = float_weights(small=True)
    first, whole = update(device, "1.0.0", onnx_file(weights))
    (device.slots.path("m", first.digest) / "index.json").write_bytes(b"{}")
    _, moved = update(device, "1.1.0", onnx_file(retrain(weights, "head")))
    assert moved > 0.9 * whole
    assert device.slots.check("m", Slot(target=first, variant="plain")) == ""


def test_the_recipe_prefers_what_is_fetched_already(device: Device) -> None:
    weights = int8_weights(small=True)
    update(device, "1.0.0", onnx_file(weights))
    target, _ = update(device, "1.1.0", onnx_file(step_one_in_twenty(weights)))
    data = (device.slots.path("m", target.digest) / "index.json").read_bytes()
    entry = parse_index(data, where="test").file("models/plain")
    device.slots.keep_only({"m": []})
    for chunk in entry.chunks[:-1]:
        device.chunks.accept(chunk.sha256, chunk.wire_bytes, device.fleet.chunks[chunk.sha256])
    recipe = find_recipe(entry, chunks=device.chunks, installed=InstalledFiles(slots=device.slots))
    assert set(recipe.missing) == {entry.chunks[-1].sha256}
    assert not recipe.reuses


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES - {MANIFEST_NAME}))
def test_a_bundle_cannot_take_the_place_of_the_agents_own_files(device: Device, name: str) -> None:
    files = bundle("1.0.0", b"model")
    manifest = parse_manifest(files[MANIFEST_NAME], where="test")
    files[name] = b"{}"
    manifest.files[name] = entry_of(b"{}")
    files[MANIFEST_NAME] = manifest.to_json()
    with pytest.raises(InvalidBundleError, match="the name of a file of our own"):
        device.get(device.target("1.0.0", files))


def test_the_installing_process_says_what_the_fetcher_says(device: Device, tmp_path: Path) -> None:
    installer = InstallerProcess(
        tmp_path,
        hardware=HARDWARE,
        store_bytes=64 << 20,
    )
    target = device.target("1.0.0", bundle("1.0.0", b"model"))
    first = installer.install(target, ())
    assert first == device.fetcher.plan(target, ())
    device.get(target)
    assert installer.install(target, ()) == Ready(variant="plain")
    with pytest.raises(VerificationError, match="no variant is left"):
        installer.install(target, ("plain",))


def test_what_the_device_lacks_stays_told_apart_across_the_process(
    device: Device, tmp_path: Path
) -> None:
    target = device.target("1.0.0", bundle("1.0.0", np.random.default_rng(0).bytes(90_000)))
    for name, data in device.fleet.chunks.items():
        if len(data) < 20_000:
            device.chunks.accept(name, len(data), data)
    installer = InstallerProcess(tmp_path, hardware=HARDWARE, store_bytes=70_000)
    with pytest.raises(EnvironmentLackError, match="exceed the limit") as caught:
        installer.install(target, ())
    assert caught.value.fix is not None
    small = Fetcher(
        chunks=ChunkStore(tmp_path / "chunks"),
        slots=SlotStore(tmp_path / "slots"),
        hardware=HARDWARE,
        store_bytes=1 << 20,
    )
    assert isinstance(small.install(target, ()), Missing)
