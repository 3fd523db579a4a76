"""Samples for retraining, and what Prometheus is told."""

from __future__ import annotations

import dataclasses
import http.client
import random
import re
from pathlib import Path

import numpy as np
import pytest

from edgekit_agent.hosted import HostedModel
from edgekit_agent.metrics import render_metrics
from edgekit_agent.plans import ModelPlan
from edgekit_agent.samples import SampleKeeper, SampleRing, least_confidence
from edgekit_agent.settings import SampleSettings
from edgekit_runtime.bundle.golden import load_arrays
from edgekit_runtime.telemetry import DeviceGauges
from tests.simulators.hosted_models import make_slot
from tests.simulators.local_agent import RunningAgent, make_config
from tests.simulators.signed_fleet import SignedFleet
from tests.simulators.tiny_bundles import affine_bundle

PLAN = ModelPlan(
    bundle="double", version="1.0.0", digest="", folder="", variant="", runtime="", threads=1
)
SURE, UNSURE = np.array([[0.9, 0.1]], np.float32), np.array([[0.5, 0.5]], np.float32)


def test_the_oldest_make_room(tmp_path: Path) -> None:
    ring = SampleRing(tmp_path / "ring", most_bytes=1000)
    for number in range(10):
        assert ring.add(f"{number}.npz", bytes(300))
    assert [file.name for file in ring.files()] == ["7.npz", "8.npz", "9.npz"]
    assert not ring.add("large.npz", bytes(1001))
    assert len(ring.files()) == 3


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (SURE, 0.9),
        (np.concatenate([SURE, UNSURE]), 0.5),
        (np.array([[3.0, -2.0]]), None),
        (np.array([[1, 0]]), None),
        (np.array([0.5, 0.5]), None),
    ],
)
def test_confidence_is_known_of_probabilities_only(
    output: np.ndarray, expected: float | None
) -> None:
    found = least_confidence({"y": output})
    assert found == (None if expected is None else pytest.approx(expected))


def test_the_unsure_and_a_share_of_all_are_kept(tmp_path: Path) -> None:
    ring = SampleRing(tmp_path / "ring", most_bytes=1 << 20)
    settings = SampleSettings(allow=True, random_share=0.0, low_confidence=0.6)
    keeper = SampleKeeper(ring, settings)
    inputs = {"x": np.arange(4, dtype=np.float32)[None]}
    keeper.offer(PLAN, inputs, {"y": SURE})
    keeper.offer(PLAN, inputs, {"y": UNSURE})
    # The memory of a request is used again.
    inputs["x"][:] = -1
    keeper.close()
    (file,) = ring.files()
    assert file.name.endswith("-double-1.0.0-low-confidence.npz")
    arrays = load_arrays(file.read_bytes(), where="test")
    assert arrays["input:x"].tolist() == [[0, 1, 2, 3]]
    assert arrays["output:y"].tolist() == UNSURE.tolist()
    some = SampleKeeper(
        SampleRing(tmp_path / "some", most_bytes=1 << 20),
        SampleSettings(allow=True, random_share=0.1, low_confidence=0.0),
        chance=random.Random(1),  # noqa: S311 - no secret depends on it
    )
    chosen = sum(bool(some._reason({"y": SURE})) for _ in range(1000))
    some.close()
    assert 60 < chosen < 140


def test_nothing_is_kept_unless_the_owner_allows_it(tmp_path: Path) -> None:
    fleet = SignedFleet()
    config = make_config(tmp_path, fleet)
    allowed = dataclasses.replace(config, samples=SampleSettings(allow=True, random_share=1.0))
    agent = RunningAgent(config=allowed, fleet=fleet)
    folder = config.data / "samples"
    agent.start()
    try:
        agent.install("1.0.0", 2.0)
        agent.answer()
        agent.wait_for(lambda: list(folder.glob("*.npz")))
        agent.stop()
        assert folder.stat().st_mode & 0o077 == 0
        # The owner thinks better of it.
        agent.config = config
        agent.start()
        agent.wait_for(lambda: agent.is_active("double"))
        agent.answer()
    finally:
        agent.stop()
    assert not folder.exists()


def test_the_page_of_metrics(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    for _ in range(3):
        agent.answer()
    client = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=30)
    client.request("GET", "/metrics")
    response = client.getresponse()
    page = response.read().decode()
    client.close()
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    labels = '{model="double",version="1.0.0",variant="plain"}'
    assert f"edgekit_model_requests_total{labels} 3\n" in page
    assert f"edgekit_model_latency_seconds_count{labels} 3\n" in page
    assert 'edgekit_bundle_phase{model="double",phase="' in page
    for line in page.splitlines():
        assert re.fullmatch(
            r'# (HELP|TYPE) .+|[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+', line
        ), line
    names = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
    assert len(set(names)) == len(names)


def test_buckets_of_latency_only_rise_and_end_with_all(tmp_path: Path) -> None:
    model = HostedModel(make_slot(tmp_path, affine_bundle("double", "1.0.0", 2.0)))
    for milliseconds in (0.0001, 0.05, 1.0, 20.0, 1e9):
        model._stats.latency.add(milliseconds)
    page = render_metrics([model], gauges=DeviceGauges(temperature_c=None), status={}).decode()
    counts = [int(n) for n in re.findall(r"latency_seconds_bucket.* (\d+)", page)]
    assert counts == sorted(counts)
    assert counts[-1] == 5
    assert "temperature" not in page
