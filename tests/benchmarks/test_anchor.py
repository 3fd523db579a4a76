"""Anchoring: one to three runs on a device correct the profile of its board."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit_benchmarks.anchor import anchor_profile, calibrate_profile, guess_profile
from edgekit_benchmarks.bench import run_bench
from edgekit_benchmarks.layers import Layer, LayerKind, ModelLayers
from edgekit_benchmarks.plan import Plan
from edgekit_benchmarks.predict import predict
from edgekit_benchmarks.pricing import predict_left_out
from edgekit_benchmarks.profile import list_private_profiles, list_profiles, load_profiles
from edgekit_benchmarks.published import Measured, read_measurements
from edgekit_benchmarks.results import Counts, RecordedRun
from edgekit_runtime.errors import UsageError
from runtime.models import linear_model
from simulators.convolving_models import write_convolving

(PI4,) = load_profiles("raspberrypi4")
LAYERS = ModelLayers(
    layers=(
        Layer(
            kind=LayerKind.CONVOLUTION,
            macs=3 * 10**8,
            weights=10**6,
            inputs=10**6,
            outputs=10**6,
            kernel=(1, 1),
            strides=(1, 1),
            in_channels=64,
            out_channels=64,
            plane=(125, 125),
        ),
    )
)


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "private"
    monkeypatch.setenv("EDGEKIT_PROFILES", str(folder))
    return folder


@pytest.fixture(scope="module")
def published() -> list[Measured]:
    rows = read_measurements()
    return [r for r in rows if r.combination.order[:2] == ("raspberrypi4", "tflite")]


def runs(published: list[Measured], names: list[str], factor: float) -> list[RecordedRun]:
    """What a device would have measured that takes so many times as long as the published one."""
    found = []
    for row in published:
        setting = row.combination
        if (setting.runtime_version, setting.dtype) != ("2.7.1", "int8"):
            continue
        if row.model.name in names:
            latency = row.latency_ms * factor
            found.append(
                RecordedRun(
                    model=f"{row.model.name}.tflite",
                    sha256=row.model.name.encode().hex().ljust(64, "0")[:64],
                    runtime="litert",
                    runtime_version="2.3.0",
                    threads=4,
                    reference_kernels=False,
                    provider=None,
                    runs=100,
                    median_ms=latency,
                    median_low_ms=latency,
                    median_high_ms=latency,
                    p99_ms=latency,
                    peak_bytes=None,
                    board="Raspberry Pi 4 Model B Rev 1.4",
                    measured_at="2026-01-02T03:04:05+00:00",
                    counts=Counts(dtype="int8", macs=row.model.macs, features=row.model.features),
                )
            )
    return found


def test_the_board_is_what_the_device_calls_itself(published: list[Measured]) -> None:
    found = runs(published, ["mobilenet_v1_1.0_224"], 1.0)
    profile = guess_profile(found, list_profiles())
    assert profile is not None
    assert profile.name == "raspberrypi4"
    unknown = [replace(run, board="Toaster 3000") for run in found]
    assert guess_profile(unknown, list_profiles()) is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_slower_device_is_predicted_as_slow_as_it_is(
    published: list[Measured], count: int
) -> None:
    names = ["mobilenet_v1_1.0_224", "mobilenet_v2_0.5_160", "efficientnet_lite2"][:count]
    device, (anchor,) = anchor_profile(
        PI4, runs(published, names, 1.7), name="mine", source="results.json"
    )
    assert anchor.models == count
    assert anchor.factor == pytest.approx(1.7, rel=0.1)
    settings = {"runtime": "litert", "dtype": "int8", "threads": 4}
    before = predict(LAYERS, PI4, **settings)  # type: ignore[arg-type]
    after = predict(LAYERS, device, **settings)  # type: ignore[arg-type]
    assert after.kind == "anchored on your device"
    assert after.latency_ms == pytest.approx(before.latency_ms * 1.7, rel=0.1)
    assert after.high_ms / after.low_ms < before.high_ms / before.low_ms
    assert "measurements on your device of litert 2.3.0" in after.provenance
    assert after.sources[0] == "results.json"


def test_a_board_on_which_nothing_was_measured_is_anchored_like_any(
    published: list[Measured],
) -> None:
    (board,) = load_profiles("raspberrypi-cm4")
    found = runs(published, ["mobilenet_v1_1.0_224"], 1.2)
    device, (anchor,) = anchor_profile(board, found, name="mine", source="results.json")
    assert anchor.factor == pytest.approx(1.2, rel=0.1)
    prediction = predict(LAYERS, device, runtime="litert", dtype="int8", threads=4)
    assert prediction.kind == "anchored on your device"
    other = predict(LAYERS, device, runtime="ncnn", dtype="float32", threads=1)
    assert other.kind == "estimate only"
    assert device.taken_from == ""


def test_other_settings_are_predicted_as_before(published: list[Measured]) -> None:
    found = runs(published, ["mobilenet_v1_1.0_224"], 1.7)
    device, _ = anchor_profile(PI4, found, name="mine", source="results.json")
    settings = {"runtime": "ncnn", "dtype": "float32", "threads": 1}
    before = predict(LAYERS, PI4, **settings)  # type: ignore[arg-type]
    after = predict(LAYERS, device, **settings)  # type: ignore[arg-type]
    assert after.latency_ms == before.latency_ms
    assert after.kind == "predicted"


@pytest.mark.slow
def test_anchored_bands_hold(published: list[Measured]) -> None:
    """Every other family lies in the band nine times in ten, whichever model anchors."""
    rows = read_measurements()
    left_out = predict_left_out([r for r in rows if r.combination.runtime == "tflite"])
    checked = 0
    for calibration in PI4.calibrations:
        if calibration.runtime != "tflite":
            continue
        entries = next(
            found
            for combination, found in left_out.items()
            if combination.order
            == (
                "raspberrypi4",
                "tflite",
                calibration.runtime_version,
                calibration.threads,
                calibration.dtype,
            )
        )
        inside = [
            abs(np.log(other.ratio / anchor.ratio)) <= np.log(calibration.anchored_bands[0]) * 1.01
            for anchor in entries
            for other in entries
            if other.model.family != anchor.model.family
        ]
        assert 0.87 <= np.mean(inside) <= 0.95
        checked += 1
    assert checked == 6


def test_a_private_profile_is_written_and_found(tmp_path: Path, private: Path) -> None:
    model = write_convolving(tmp_path / "convolving.onnx")
    report = run_bench([model], Plan(runs=3, min_seconds=0.0))
    results = tmp_path / "results.json"
    results.write_text(json.dumps(report.to_json()))
    path, profile, anchors = calibrate_profile(results, base="raspberrypi4")
    assert path == private / "raspberrypi4-mine.toml"
    assert [p.name for p in list_private_profiles()] == ["raspberrypi4-mine"]
    assert load_profiles("raspberrypi4-mine") == (profile,)
    assert load_profiles(str(path)) == (profile,)
    assert anchors[0].runtime == "onnxruntime"
    # The family is that of the shipped boards alone.
    assert len(load_profiles("raspberrypi")) == 4
    own = run_bench([model], Plan(profiles=("raspberrypi4-mine",), measure_here=False))
    assert own.models[0].predictions[0].kind in {"anchored on your device", "estimate only"}
    elsewhere = tmp_path / "elsewhere" / "p.toml"
    calibrate_profile(results, base="raspberrypi4", name="garage-pi", out=elsewhere)
    assert load_profiles(str(elsewhere))[0].name == "garage-pi"


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    model = linear_model(tmp_path / "linear.onnx")
    document = run_bench([model], Plan(runs=1, min_seconds=0.0)).to_json()
    results = tmp_path / "results.json"
    results.write_text(json.dumps(document))
    for settings, words in (
        ({}, "no profile is known of"),
        ({"base": "raspberrypi"}, "family of 4 boards"),
        # What a call costs is no price: of other models it says nothing.
        ({"base": "raspberrypi4"}, "models as small as these"),
        ({"base": "raspbery"}, "no device profile"),
        ({"base": "raspberrypi4", "name": "raspberrypi5"}, "name of a shipped profile"),
        ({"base": "raspberrypi4", "name": "../x"}, "no name for a profile"),
    ):
        with pytest.raises(UsageError, match=words):
            calibrate_profile(results, **settings)  # type: ignore[arg-type]
    document["models"][0]["counts"] = None  # type: ignore[index]
    results.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="operators could be counted"):
        calibrate_profile(results, base="raspberrypi4")
    document["models"] = []
    results.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="no measurements"):
        calibrate_profile(results, base="raspberrypi4")
