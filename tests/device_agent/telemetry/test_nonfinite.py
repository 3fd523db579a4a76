"""Values that are NaN or infinity: counted, judged by gates, and no danger to what serves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundling.statistics import reference_statistics
from edgekit_agent.gates import Verdict, judge
from edgekit_agent.hosted import HostedModel, InsaneAnswerError
from edgekit_agent.live_stats import LiveStats, read_stats
from edgekit_agent.metrics import render_metrics
from edgekit_agent.telemetry.counting import ValueCounter
from edgekit_agent.telemetry.references import Reference
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.orders import BundleOrder, Gates, parse_order
from edgekit_runtime.telemetry import DeviceGauges, FeatureCounts
from tests.simulators.hosted_models import make_slot
from tests.simulators.tiny_bundles import GOLDEN, WIDTH, bundle_files, logarithm_model

NAN, INF = np.float32("nan"), np.float32("inf")


@pytest.fixture
def hosted(tmp_path: Path) -> HostedModel:
    golden = GOLDEN + np.float32(0.5)
    files = bundle_files(
        "double", "1.0.0", [("plain", logarithm_model())], expected=np.log(golden), golden=golden
    )
    many = np.linspace(0.5, 2.0, 40 * WIDTH, dtype=np.float32).reshape(40, WIDTH)
    files["statistics.json"] = reference_statistics({"x": many}, {"y": np.log(many)})
    return HostedModel(make_slot(tmp_path, files))


def ask(model: HostedModel, *values: float) -> None:
    model.infer({"x": np.array([values], np.float32)})


def test_they_are_counted_where_the_answer_is_refused(hosted: HostedModel) -> None:
    ask(hosted, 1.0, 1.0, 1.0, 1.0)
    with pytest.raises(InsaneAnswerError):
        ask(hosted, NAN, -1.0, 1.0, INF)
    stats = hosted.stats
    assert (stats.requests, stats.insane, stats.errors) == (2, 1, 0)
    assert stats.nonfinite == {"input:x": 2, "output:y": 3}
    assert sum(stats.values["input:x"]) == 6
    assert sum(stats.values["output:y"]) == 5
    ask(hosted, 1.0, 1.0, 1.0, 1.0)
    assert hosted.stats.requests == 3
    page = render_metrics([hosted], gauges=DeviceGauges(), status={}).decode()
    (line,) = [line for line in page.splitlines() if 'feature="output:y"' in line]
    assert line.startswith("edgekit_model_nonfinite_values_total{")
    assert line.endswith("} 3")


def test_they_are_in_no_bin_and_largest_in_no_row() -> None:
    counter = ValueCounter(
        {
            "input:x": Reference(bounds=(0.0, 1.0), expected=(0.5, 0.5, 0.0)),
            "largest:y": Reference(bounds=(), expected=(0.5, 0.5)),
        }
    )
    counter.count(
        {"x": np.array([0.5, NAN, -INF, 7.0], np.float32)},
        {"y": np.array([[0.2, 0.8], [NAN, 0.1], [0.9, 0.1]], np.float32)},
    )
    assert counter.counts["input:x"].tolist() == [0, 1, 1]
    assert counter.counts["largest:y"].tolist() == [1, 1]
    assert counter.nonfinite == {"input:x": 2}


def test_counters_add_up_and_travel() -> None:
    first = LiveStats(requests=2, nonfinite={"input:x": 3})
    total = LiveStats()
    total.merge(first)
    total.merge(LiveStats(requests=1, nonfinite={"input:x": 1, "output:y": 2}))
    assert total.nonfinite == {"input:x": 4, "output:y": 2}
    assert total.since(first).nonfinite == {"input:x": 1, "output:y": 2}
    reader = FieldReader(json.loads(json.dumps(total.to_json())))
    assert read_stats(reader) == total
    assert not reader.faults


@pytest.mark.parametrize(
    ("share", "requests", "verdict"),
    [(1.0, 5, Verdict.PASSED), (0.2, 5, Verdict.PASSED), (0.1, 5, Verdict.FAILED)],
)
def test_a_gate_judges_their_share(share: float, requests: int, verdict: Verdict) -> None:
    gates = Gates(min_seconds=0.0, max_nonfinite_share=share)
    features = {"input:x": FeatureCounts(expected=(1.0,), counts=(8,), nonfinite=2)}
    stats = LiveStats(requests=requests)
    for _ in range(requests):
        stats.latency.add(1.0)
    found = judge(stats, gates, seconds=1.0, features=features)
    assert found.verdict is verdict
    if verdict is Verdict.FAILED:
        assert "0.2 of the values of input:x are NaN or infinity" in found.reason


def test_an_order_carries_the_gate() -> None:
    order = BundleOrder(bundle="m", version="1.0.0", gates=Gates(max_nonfinite_share=0.125))
    assert parse_order(order.target_path, json.loads(json.dumps(order.to_custom()))) == order
