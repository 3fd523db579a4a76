"""Several models, measured here and predicted for boards, each figure with its kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit_benchmarks import bench
from edgekit_benchmarks.bench import BenchReport, bench_models, run_bench
from edgekit_benchmarks.gates import Limits
from edgekit_benchmarks.plan import Plan
from edgekit_benchmarks.results import read_results
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError, UsageError
from runtime.models import linear_model

QUICK = {"runs": 3, "min_seconds": 0.0}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return linear_model(tmp_path / "linear.onnx")


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        pytest.fail("a model was run before everything had been checked")

    monkeypatch.setattr(bench, "measure", fail)


def plan(**settings: object) -> Plan:
    return Plan(**{**QUICK, **settings})  # type: ignore[arg-type]


def test_measures_and_predicts(model: Path) -> None:
    report = bench_models([model], profiles=["raspberrypi"], runs=3, min_seconds=0.0)
    (entry,) = report.models
    assert entry.measurement is not None
    assert entry.measurement.kind == "measured here"
    assert entry.measurement.latency.runs == 3
    assert [p.profile for p in entry.predictions] == [
        "raspberrypi-zero2w",
        "raspberrypi3b-plus",
        "raspberrypi4",
        "raspberrypi5",
    ]
    assert {p.runtime for p in entry.predictions} == {"onnxruntime"}
    assert {p.kind for p in entry.predictions} == {"estimate only"}
    assert any("'x' is taken as 1" in note for note in entry.notes)
    document = json.loads(json.dumps(report.to_json()))
    assert document["format"] == "edgekit-bench"
    assert document["models"][0]["measurements"][0]["kind"] == "measured here"
    assert document["models"][0]["predictions"][0]["kind"] == "estimate only"
    assert document["passed"] is True


def test_predictions_alone_run_nothing(model: Path, no_measuring: None) -> None:
    wanted = plan(profiles=["raspberrypi4", "raspberrypi"], measure_here=False)
    (entry,) = run_bench([model], wanted).models
    assert entry.measurement is None
    names = [p.profile for p in entry.predictions]
    assert len(names) == len(set(names)) == 4


def test_each_thread_count_in_turn(model: Path) -> None:
    steps: list[str] = []
    wanted = plan(threads=(1, 2), profiles=["raspberrypi4"])
    report = run_bench([model, model], wanted, progress=steps.append)
    assert [m.threads for m in report.models[0].measurements] == [1, 2]
    assert [p.threads for p in report.models[0].predictions] == [1, 2]
    assert steps == [
        "[1/2] measuring linear.onnx on 1 thread",
        "[1/2] measuring linear.onnx on 2 threads",
        "[2/2] measuring linear.onnx on 1 thread",
        "[2/2] measuring linear.onnx on 2 threads",
    ]


def test_measurements_alone_predict_nothing(model: Path) -> None:
    (entry,) = run_bench([model], plan()).models
    assert entry.measurement is not None
    assert entry.predictions == ()
    assert entry.footprint is not None
    assert entry.counts is not None
    assert entry.counts.macs == 6


def test_results_are_read_back(model: Path, tmp_path: Path) -> None:
    report = run_bench([model], plan(threads=(1, 2), profiles=["raspberrypi4"]))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(report.to_json()))
    runs = read_results(path)
    assert [run.threads for run in runs] == [1, 2]
    for run, measured in zip(runs, report.models[0].measurements, strict=True):
        assert run.median_ms == measured.latency.median_ms
        assert run.sha256 == measured.sha256
        assert run.counts == report.models[0].counts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "no edgekit-bench"),
        ("{", "JSON"),
        ('{"format": "edgekit-bench", "format_version": 1}', "version"),
        ('{"format": "edgekit-bench", "format_version": 2}', "models: is missing"),
        (
            '{"format": "edgekit-bench", "format_version": 2, "models": [{"measurements": [{}]}]}',
            "models\\[0\\].measurements\\[0\\].latency.median_ms",
        ),
    ],
)
def test_what_are_no_results_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_results(path)


def test_everything_is_checked_before_anything_runs(
    model: Path, tmp_path: Path, no_measuring: None
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model at all")
    with pytest.raises(UnsupportedModelError):
        run_bench([model, broken], plan())
    for settings, words in (
        ({"profiles": ["rasberrypi"]}, "no device profile 'rasberrypi'"),
        ({"profiles": ["raspberrypi4"], "threads": (8,)}, "threads is 8"),
        ({"threads": ()}, "no thread count"),
        ({"measure_here": False}, "nothing to do"),
        ({"baseline": tmp_path / "none.json"}, "no such file"),
        ({"inputs": tmp_path / "none.npz"}, "no such file"),
        ({"limits": Limits(latency_ms=0)}, "max-latency-ms is 0"),
        ({"limits": Limits(confidence=1.0)}, "confidence is 1"),
        ({"most_regression": -0.1}, "regression of less than nothing"),
        ({"runs": 0}, "runs is 0"),
        ({"threads": (1, 0)}, "threads is 0"),
        ({"sustained_seconds": -1.0}, "sustained load for -1"),
    ):
        with pytest.raises(UsageError, match=words):
            run_bench([model], plan(**settings))
    with pytest.raises(UsageError, match="no such file"):
        run_bench([model, tmp_path / "none.onnx"], plan())
    with pytest.raises(UsageError, match="no model"):
        run_bench([], plan())


def test_a_provider_is_checked_before_anything_runs(
    model: Path, tmp_path: Path, no_measuring: None
) -> None:
    with pytest.raises(EnvironmentLackError, match="no execution provider 'tpu'"):
        run_bench([model], plan(provider="tpu"))
    other = tmp_path / "model.tflite"
    other.write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(64))
    with pytest.raises(UsageError, match="no model is ONNX"):
        run_bench([other], plan(provider="cpu"))


def test_dtype_and_engine_follow_the_model(shared_data: Path) -> None:
    folder = shared_data / "kws-dscnn"
    report: BenchReport = run_bench(
        [folder / "kws_ref_model.tflite", folder / "model_kws.onnx"],
        plan(profiles=["raspberrypi4"], measure_here=False, threads=(4,)),
    )
    settings = [(e.predictions[0].runtime, e.predictions[0].dtype) for e in report.models]
    assert settings == [("litert", "int8"), ("onnxruntime", "float32")]


def test_limits_are_judged_on_what_was_measured_and_predicted(model: Path) -> None:
    wanted = plan(
        profiles=["raspberrypi4"],
        limits=Limits(latency_ms=1000, p99_ms=1e-9, size_mb=1, memory_mb=1e-3),
    )
    report = run_bench([model], wanted)
    found = {(v.what, v.on.split(",")[0]): v.passed for v in report.verdicts}
    assert found == {
        ("size", "the file"): True,
        ("latency", "measured here"): True,
        ("p99", "measured here"): False,
        ("memory", "measured here"): False,
        ("latency", "Raspberry Pi 4 Model B"): True,
        ("p99", "Raspberry Pi 4 Model B"): False,
        ("memory", "Raspberry Pi 4 Model B"): False,
    }
    assert not report.passed
    assert any("with 90% confidence is over" in v.reason for v in report.verdicts)


def test_a_baseline_of_the_same_model(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    first = run_bench([model], plan(runs=30))
    document = first.to_json()
    path.write_text(json.dumps(document))
    slower = json.loads(path.read_text())
    latency = slower["models"][0]["measurements"][0]["latency"]
    for name in ("median_ms", "median_low_ms", "median_high_ms"):
        latency[name] /= 1000
    report = run_bench([model], plan(runs=30, baseline=path, most_regression=1000.0))
    (verdict,) = report.verdicts
    assert verdict.passed
    assert "by the 95 % intervals" in verdict.reason
    path.write_text(json.dumps(slower))
    assert not run_bench([model], plan(runs=30, baseline=path)).passed


def test_a_baseline_of_another_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(run_bench([model], plan()).to_json()))
    other = linear_model(tmp_path / "other.onnx")
    with monkeypatch.context() as patch:
        patch.setattr(bench, "measure", None)
        with pytest.raises(UsageError, match=r"no measurement of other.onnx .*it has linear.onnx"):
            run_bench([other], plan(baseline=path))
    with pytest.raises(UsageError, match="on 2 threads"):
        run_bench([model], plan(baseline=path, threads=(2,)))
