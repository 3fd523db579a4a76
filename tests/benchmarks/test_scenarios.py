"""MLPerf's scenarios: what LoadGen's log says, and real runs where LoadGen is installed."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from edgekit.cli.bench import bench as bench_command
from edgekit_benchmarks import scenarios
from edgekit_benchmarks.bench import BenchReport, run_bench
from edgekit_benchmarks.loadgen import LoadJob, read_entries
from edgekit_benchmarks.page import render_page
from edgekit_benchmarks.plan import Plan
from edgekit_benchmarks.scenarios import (
    Scenario,
    ScenarioRun,
    ServerLoad,
    check_scenarios,
    read_log,
)
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from runtime.models import linear_model

LOADGEN = pytest.mark.skipif(
    find_spec("mlperf_loadgen") is None, reason="MLPerf's LoadGen (extra loadgen) is not installed"
)

# Keys and values as LoadGen 6.0.17 wrote them.
STREAM = {
    "result_validity": "VALID",
    "result_query_count": 922,
    "result_qps_without_loadgen_overhead": 1845.11,
    "result_mean_latency_ns": 541972,
    "result_50.00_percentile_latency_ns": 501168,
    "result_90.00_percentile_latency_ns": 502179,
    "result_99.00_percentile_latency_ns": 1718994,
    "effective_samples_per_query": 1,
    "loadgen_version": "6.0.17 @ d6147c7eb7",
}
STREAMS = {
    "result_validity": "INVALID",
    "result_invalid_reason": "",
    "early_stopping_result": " * Only processed 124 queries.\n * Need to process at least 662.",
    "result_query_count": 124,
    "result_mean_query_latency_ns": 4000000,
    "result_50.00_percentile_per_query_latency_ns": 4010442,
    "result_99.00_percentile_per_query_latency_ns": 5946479,
    "effective_samples_per_query": 8,
}
SERVER = {
    "result_validity": "INVALID",
    "result_perf_constraints_met": False,
    "result_invalid_reason": "Reduce target QPS to improve latency. ",
    "result_query_count": 498,
    "result_completed_samples_per_sec": 988.541,
    "result_50.00_percentile_latency_ns": 993759,
    "result_99.00_percentile_latency_ns": 5523786,
    "effective_samples_per_query": 1,
}


def job(scenario: str) -> LoadJob:
    server = scenario == "server"
    return LoadJob(
        model=Path("model.onnx"),
        runtime=None,
        threads=2,
        runs=10,
        min_seconds=0.5,
        inputs=None,
        input_shapes={"x": (1, 3)},
        scenario=scenario,
        expected_ms=0.5,
        target_per_s=1000.0 if server else None,
        limit_ms=2.0 if server else None,
    )


def test_each_scenario_has_its_own_figure() -> None:
    stream = read_log(STREAM, job("single-stream"))
    assert stream.figure == "90th percentile 0.5022 ms"
    assert (stream.samples_per_s, stream.loadgen, stream.valid) == (1845.11, "6.0.17", True)
    streams = read_log(STREAMS, job("multi-stream"))
    assert streams.figure == "99th percentile 5.946 ms of 8"
    assert streams.samples_per_s == pytest.approx(2000)
    offline = read_log(STREAM | {"result_samples_per_second": 1983.66}, job("offline"))
    assert offline.figure == "1984 a second"
    server = read_log(SERVER, job("server"))
    assert server.figure == "988.5 a second, 99th percentile NOT within 2 ms"
    assert not server.kept


def test_what_loadgen_does_not_like_is_said_in_one_line() -> None:
    found = read_log(STREAMS, job("multi-stream"))
    assert not found.valid
    assert found.why == "Only processed 124 queries. Need to process at least 662."
    assert read_log(STREAM, job("single-stream")).why == ""


def test_the_last_value_of_a_key_holds() -> None:
    lines = [{"key": "a", "value": 1}, {"key": "b", "value": "x"}, {"key": "a", "value": 2}]
    text = "".join(f":::MLLOG {json.dumps(line)}\n" for line in lines) + "something else\n"
    assert read_entries(text) == {"a": 2, "b": "x"}


def test_a_job_arrives_as_it_was_sent() -> None:
    for scenario in Scenario:
        sent = job(scenario.value)
        assert LoadJob.from_line(sent.to_line()) == sent


def test_the_highest_load_that_keeps_the_limit() -> None:
    tried = []

    def run(load: float) -> ScenarioRun:
        tried.append(load)
        return replace(read_log(SERVER, job("server")), kept=load <= 0.7, target_per_s=load)

    assert scenarios._highest(run, (0.9, 0.8, 0.7, 0.6)).target_per_s == 0.7
    assert tried == [0.9, 0.8, 0.7]
    assert not scenarios._highest(run, (0.9, 0.8)).kept


def test_what_cannot_be_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="above 0"):
        check_scenarios([Scenario.SERVER], ServerLoad(queries_per_s=0.0))
    with pytest.raises(UsageError, match="not its scenario"):
        check_scenarios([Scenario.OFFLINE], ServerLoad(p99_ms=3.0))
    monkeypatch.setattr(scenarios, "find_spec", lambda _name: None)
    with pytest.raises(EnvironmentLackError, match="not installed") as caught:
        check_scenarios([Scenario.OFFLINE], ServerLoad())
    assert caught.value.fix == 'pip install "edgekit[loadgen]"'
    check_scenarios([], ServerLoad())


@pytest.fixture(scope="module")
def report(
    tmp_path_factory: pytest.TempPathFactory,
) -> BenchReport:
    model = linear_model(tmp_path_factory.mktemp("model") / "linear.onnx")
    plan = Plan(
        runs=20,
        min_seconds=0.1,
        scenarios=tuple(Scenario),
        server_load=ServerLoad(queries_per_s=200.0, p99_ms=500.0),
    )
    return run_bench([model], plan)


@LOADGEN
def test_a_model_in_every_scenario(report: BenchReport) -> None:
    runs = report.models[0].scenarios
    assert [found.scenario for found in runs] == list(Scenario)
    single, multi, offline, server = runs
    assert single.queries >= 20
    assert multi.samples_per_query == 8
    assert offline.latency_ms is None
    assert offline.samples_per_s > 0
    assert (server.target_per_s, server.limit_ms) == (200.0, 500.0)
    assert all(found.loadgen and found.median_ms <= found.p99_ms for found in runs)
    assert all(found.valid or found.why for found in runs)
    assert "MLPerf&#x27;s scenarios" in render_page(report, accuracies={})
    schema = json.loads(
        (resources.files("edgekit_benchmarks") / "results_schema.json").read_text(encoding="utf-8")
    )
    # Through the text, so that tuples are lists and enumerations words.
    jsonschema.validate(json.loads(json.dumps(report.to_json())), schema)


@LOADGEN
def test_a_model_that_fails_in_a_scenario_is_told_as_everywhere(tmp_path: Path) -> None:
    model = linear_model(tmp_path / "linear.onnx")
    (entry,) = run_bench([model], Plan(runs=3, min_seconds=0.0)).models
    assert entry.measurement is not None
    model.write_bytes(b"\x08\x07 not a model")
    with pytest.raises(Exception, match="ONNX"):
        scenarios.run_scenario(
            model,
            Scenario.OFFLINE,
            entry.measurement,
            load=ServerLoad(),
            queries=3,
            min_seconds=0.0,
            progress=str,
        )


@LOADGEN
def test_scenarios_on_the_screen(tmp_path: Path) -> None:
    model = linear_model(tmp_path / "linear.onnx")
    options = ["--scenario", "single-stream", "--runs", "5", "--min-seconds", "0.05"]
    done = CliRunner().invoke(bench_command, [str(model), *options])
    assert done.exit_code == 0, done.output
    assert "single-stream" in done.output
    assert "90th percentile" in done.output
