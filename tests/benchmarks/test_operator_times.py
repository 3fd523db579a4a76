"""Where the time goes: onnxruntime's trace, and its times beside the measured ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.networks import NETWORKS
from edgekit_benchmarks.bench import Plan, run_bench
from edgekit_benchmarks.measure import measure_operators
from edgekit_benchmarks.operators import read_profile
from edgekit_runtime.errors import UnsupportedModelError

EVENTS = [
    {"cat": "Session", "name": "model_loading", "dur": 9000},
    *(
        {"cat": "Node", "name": "a_kernel_time", "dur": duration, "args": {"op_name": "Conv"}}
        for duration in (9000, 100, 200)
    ),
    {"cat": "Node", "name": "a_fence_before", "dur": 5, "args": {"op_name": "Conv"}},
    {"cat": "Node", "name": "b_kernel_time", "dur": 50, "args": {"op_name": "Relu"}},
]


def test_the_median_of_each_operator() -> None:
    a, b = read_profile(EVENTS)
    assert (a.name, a.type, a.milliseconds) == ("a", "Conv", 0.2)
    assert (b.name, b.type, b.milliseconds) == ("b", "Relu", 0.05)


def test_a_models_operators_add_up_to_what_was_measured(tmp_path: Path) -> None:
    model = NETWORKS["swish_net"](tmp_path / "net.onnx")
    (entry,) = run_bench([model], Plan(runs=3, min_seconds=0.0, operators=True)).models
    assert len(entry.operators) >= 5
    assert {found.type for found in entry.operators} >= {"Conv"}
    total = sum(found.milliseconds for found in entry.operators)
    assert entry.measurement is not None
    assert total == pytest.approx(entry.measurement.latency.median_ms)


def test_a_model_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x08\x07 not a model")
    with pytest.raises(UnsupportedModelError):
        measure_operators(path, threads=1)
