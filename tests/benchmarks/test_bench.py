"""Several models, measured here and predicted for boards, each figure with its kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit_benchmarks import bench
from edgekit_benchmarks.bench import BenchReport, bench_models
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from runtime.models import linear_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return linear_model(tmp_path / "linear.onnx")


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        pytest.fail("a model was run before everything had been checked")

    monkeypatch.setattr(bench, "measure", fail)


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
    assert document["models"][0]["measurement"]["kind"] == "measured here"
    assert document["models"][0]["predictions"][0]["kind"] == "estimate only"


def test_predictions_alone_run_nothing(model: Path, no_measuring: None) -> None:
    report = bench_models([model], profiles=["raspberrypi4", "raspberrypi"], measure_here=False)
    (entry,) = report.models
    assert entry.measurement is None
    names = [p.profile for p in entry.predictions]
    assert len(names) == len(set(names)) == 4
    assert json.loads(json.dumps(report.to_json()))["models"][0]["measurement"] is None


def test_measurements_alone_predict_nothing(model: Path) -> None:
    (entry,) = bench_models([model], runs=1, min_seconds=0.0).models
    assert entry.measurement is not None
    assert entry.predictions == ()


def test_everything_is_checked_before_anything_runs(
    model: Path, tmp_path: Path, no_measuring: None
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model at all")
    with pytest.raises(UnsupportedModelError):
        bench_models([model, broken])
    with pytest.raises(UsageError, match="no such file"):
        bench_models([model, tmp_path / "none.onnx"])
    with pytest.raises(UsageError, match="no device profile 'rasberrypi'"):
        bench_models([model], profiles=["rasberrypi"])
    with pytest.raises(UsageError, match="threads is 8"):
        bench_models([model], profiles=["raspberrypi4"], threads=8)
    with pytest.raises(UsageError, match="no model"):
        bench_models([])
    with pytest.raises(UsageError, match="nothing to do"):
        bench_models([model], measure_here=False)


def test_dtype_and_engine_follow_the_model(shared_data: Path) -> None:
    folder = shared_data / "kws-dscnn"
    report: BenchReport = bench_models(
        [folder / "kws_ref_model.tflite", folder / "model_kws.onnx"],
        profiles=["raspberrypi4"],
        measure_here=False,
        threads=4,
    )
    settings = [(e.predictions[0].runtime, e.predictions[0].dtype) for e in report.models]
    assert settings == [("litert", "int8"), ("onnxruntime", "float32")]
