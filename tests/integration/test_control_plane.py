"""The whole control plane with simulated devices: a canary that degrades is stopped and said."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgekit.fleet.broker import find_mosquitto, start_broker
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.keys import init_keys
from edgekit.fleet.ordering import device_order, order_bundle
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit_runtime.bundle.archive import entry_of, write_bundle
from edgekit_runtime.bundle.manifest import (
    Binding,
    GoldenOutputs,
    Manifest,
    Requirements,
    TensorContract,
    Variant,
)
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.orders import BundleOrder, Gates

DEVICES = 20
PLAN = {
    "id": "second",
    "order": {"bundle": "digits", "version": "2.0.0", "gates": {"min_seconds": 1}},
    "stages": [
        {"name": "canary", "count": 3, "criteria": {"min_seconds": 5, "min_requests": 200}},
        {"name": "all", "percent": 100},
    ],
}


def make_bundle(folder: Path, version: str) -> Path:
    files = {"model.onnx": version.encode() * 9000, "golden.npz": b"in", "expected.npz": b"out"}
    variant = Variant(
        id="onnx-float",
        format=ModelFormat.ONNX,
        precision="float32",
        file="model.onnx",
        inputs={"image": Binding(tensor="x")},
        outputs={"scores": Binding(tensor="y")},
        requires=Requirements(runtimes=("onnxruntime",)),
        golden=GoldenOutputs(file="expected.npz", atol=0.01, rtol=0.0),
    )
    manifest = Manifest(
        name="digits",
        version=version,
        task="classification",
        created="2026-11-24T00:00:00Z",
        inputs=(TensorContract(name="image", dtype="float32", shape=(None, 8)),),
        outputs=(TensorContract(name="scores", dtype="float32", shape=(None, 2)),),
        variants=(variant,),
        golden_inputs="golden.npz",
        golden_samples=1,
        files={path: entry_of(data) for path, data in files.items()},
    )
    path = folder / f"digits-{version}.ekb"
    write_bundle(path, manifest, files)
    return path


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Callable[[], str]]:
    """An `edgekit` command, ended by Ctrl-C; gives what it has printed so far."""
    log = folder / f"{arguments[1]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit", *arguments], stdout=output, stderr=output
        )
        try:
            yield log.read_text
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def wait_for(get: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 150
    while not (found := get()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_a_canary_that_degrades_is_stopped_and_the_page_says_why(tmp_path: Path) -> None:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    fleet = Fleet.create(tmp_path / "fleet", "plant-7")
    init_keys(fleet)
    names = [f"sim-{number:05d}" for number in range(DEVICES)]
    first = BundleOrder(bundle="digits", version="1.0.0", gates=Gates(min_seconds=1.0))
    for version in ("1.0.0", "2.0.0"):
        release_bundle(fleet, make_bundle(tmp_path, version))
    for name in names:
        order_bundle(fleet, name, first)
    where = ("--fleet", str(fleet.path))
    crowd = ("--attach", str(fleet.path), "--devices", str(DEVICES), "--degrade", "1")
    pace = ("--telemetry-seconds", "5", "--fetch-seconds", "1", "--requests-per-second", "20")
    with start_broker(tmp_path / "broker", prefer="mosquitto") as broker:
        publish(fleet, BrokerAddress(broker.host, broker.port))
        with (
            running(tmp_path, "fleet", "serve", "--port", "0", *where) as served,
            running(tmp_path, "fleet", "simulate", *crowd, *pace),
        ):
            text = wait_for(lambda: "ekt_" in served() and served(), "it serves")
            url = re.findall(r"http://\S+:\d+", text)[0]
            token = re.findall(r"ekt_\S+", text)[0]
            with httpx.Client(
                base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30
            ) as client:
                _watch_it_fail(client, fleet, names)
    versions = Counter(device_order(fleet, name).bundles[0].version for name in names)
    assert versions == {"1.0.0": DEVICES}


def _watch_it_fail(client: httpx.Client, fleet: Fleet, names: list[str]) -> None:
    def serving() -> dict[str, int]:
        found = client.get("/api/v1/status").json()["versions"]
        return {v["version"]: v["devices"] for v in found if v["phase"] == "active"}

    wait_for(lambda: serving() == {"1.0.0": DEVICES}, "the first version serves everywhere")
    before = {name: device_order(fleet, name).version for name in names}
    client.post("/api/v1/rollouts", json={"plan": PLAN}).raise_for_status()

    def ended() -> Any:
        found = client.get("/api/v1/rollouts/second").json()
        return found if found["phase"] == "rolled_back" else None

    rollout = wait_for(ended, "the rollout is rolled back")
    told = [name for name in names if device_order(fleet, name).version != before[name]]
    assert len(told) == 3
    assert rollout["statuses"] == {"restored": 3}
    assert rollout["reason"].startswith("stage canary: ")
    page = client.get("/rollouts/second").text
    assert "rolled back" in page
    assert "requests failed" in page or "has drifted" in page
    log = client.get("/api/v1/audit", params={"subject": "rollout second"}).json()
    assert json.dumps(log).count("engine") >= 2
    wait_for(lambda: serving() == {"1.0.0": DEVICES}, "the first version is back everywhere")
