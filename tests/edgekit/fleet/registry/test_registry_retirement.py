from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.cli import edgekit
from edgekit.fleet.broker import find_mosquitto, start_broker
from edgekit.fleet.connection import BrokerConnection
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.ordering import order_device
from edgekit.fleet.publisher import publish
from edgekit.fleet.registry.entries import Stage
from edgekit.fleet.registry.retirement import retire
from edgekit.fleet.release import list_releases, release_bundle
from edgekit.fleet.repositories import open_images
from edgekit_runtime.errors import GateFailedError, UsageError
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.protocol import Topics

NOISE = np.random.default_rng(5).bytes(4 * MAX_CHUNK_WIRE_BYTES)


@pytest.fixture
def two_versions(registry, fleet: Fleet, make_version):
    """Two released versions that share all chunks of the model but the last."""
    for version, model in (("1.0.0", NOISE), ("2.0.0", NOISE[:-1] + b"!")):
        bundle = make_version(version, model=model)
        registry.add(bundle)
        release_bundle(fleet, bundle)
    return registry


def needed(fleet: Fleet) -> set[str]:
    return set(open_images(fleet).chunk_names())


def test_only_chunks_that_no_live_version_needs_go(two_versions, fleet: Fleet) -> None:
    before = needed(fleet)
    done = retire(two_versions, fleet, "digits", "1.0.0")
    after = needed(fleet)
    assert after < before
    assert {path.name for path in fleet.chunks.iterdir()} == after
    assert done.chunks == len(before - after)
    assert done.chunk_bytes > 0
    assert [item.version for item in list_releases(fleet)] == ["2.0.0"]
    assert two_versions.get("digits", "1.0.0").stage is Stage.RETIRED
    with pytest.raises(UsageError, match="not released"):
        order_device(fleet, "d1", [BundleOrder(bundle="digits", version="1.0.0")])
    order_device(fleet, "d1", [BundleOrder(bundle="digits", version="2.0.0")])


def test_a_version_that_a_device_is_told_to_run_stays(two_versions, fleet: Fleet) -> None:
    for number in range(7):
        order_device(fleet, f"d{number}", [BundleOrder(bundle="digits", version="1.0.0")])
    before = needed(fleet)
    with pytest.raises(GateFailedError, match=r"7 devices are ordered .*d0, d1.*, …"):
        retire(two_versions, fleet, "digits", "1.0.0")
    assert needed(fleet) == before
    assert two_versions.get("digits", "1.0.0").stage is Stage.DEVELOPMENT


@pytest.mark.parametrize("cut_at", ["commit", "chunk_names", "mark_retired"])
def test_an_interrupted_retirement_is_completed_by_the_next(
    two_versions, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, cut_at: str
) -> None:
    from edgekit.fleet.image_repository import ImageRepository

    owner = type(two_versions) if cut_at == "mark_retired" else ImageRepository

    def power_cut(*args: object, **options: object) -> object:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(owner, cut_at, power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            retire(two_versions, fleet, "digits", "1.0.0")
    retire(two_versions, fleet, "digits", "1.0.0")
    assert {path.name for path in fleet.chunks.iterdir()} == needed(fleet)
    assert [item.version for item in list_releases(fleet)] == ["2.0.0"]
    assert two_versions.get("digits", "1.0.0").stage is Stage.RETIRED


def retained(fleet: Fleet, broker: BrokerAddress, least: int) -> set[str]:
    heard: set[str] = set()
    connection = BrokerConnection(
        broker,
        topics=(Topics(fleet.id).chunk("+"),),
        on_message=lambda topic, payload: heard.add(topic.rsplit("/", 1)[1]),
    )
    deadline = time.monotonic() + 20
    while len(heard) < least and time.monotonic() < deadline:
        time.sleep(0.02)
    connection.close()
    return heard


def test_retired_chunks_leave_the_broker(two_versions, fleet: Fleet, tmp_path: Path) -> None:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with start_broker(tmp_path / "broker", prefer="mosquitto") as broker:
        publish(fleet, broker.address)
        before = needed(fleet)
        assert retained(fleet, broker.address, len(before)) == before
        done = retire(two_versions, Fleet.open(fleet.path), "digits", "1.0.0")
        assert done.broker == broker.address
        after = needed(fleet)
        assert retained(fleet, broker.address, len(after)) == after


def test_the_command_line_goes_all_the_way(fleet: Fleet, make_version, tmp_path: Path) -> None:
    bundles = [make_version("1.0.0", top1=0.9), make_version("2.0.0", top1=0.95)]

    def run(*arguments: str, code: int = 0) -> str:
        options = ["--fleet", str(fleet.path)]
        done = CliRunner().invoke(edgekit, ["registry", *arguments, *options])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.output

    for bundle in bundles:
        assert "top1" in run("add", str(bundle), "--tag", "team=vision")
        release_bundle(fleet, bundle)
    run("promote", "digits@2.0.0", "production")
    run("tag", "digits@1.0.0", "old", "team=none")
    assert "team=none" in run("show", "digits@1.0.0")
    assert "f1" in run("measure", "digits@2.0.0", "f1=0.93")
    listed = json.loads(run("list", "--where", "stage=production and f1>0.9", "--json"))
    assert [entry["version"] for entry in listed] == ["2.0.0"]
    assert "vision" in run("list")
    assert "+0.05" in run("compare", "digits@1.0.0", "digits@2.0.0")
    assert json.loads(run("history", "digits@1.0.0", "--json")) == []
    copy = tmp_path / "copy.ekb"
    run("get", "digits@1.0.0", "-o", str(copy))
    assert copy.read_bytes() == bundles[0].read_bytes()
    assert "retired" in run("retire", "digits@1.0.0")
    assert json.loads(run("show", "digits@1.0.0", "--json"))["stage"] == "retired"
    run("tag", "digits@1.0.0", "old", "--remove")
    for wrong in ("f1", "f1=good"):
        with pytest.raises(UsageError, match="is no metric"):
            run("measure", "digits@2.0.0", wrong)
