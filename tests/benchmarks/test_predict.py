"""Predictions: bands around them, no pretence, and no model cheaper for being larger."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_benchmarks.fit import read_measurements
from edgekit_benchmarks.predict import predict
from edgekit_benchmarks.profile import Profile, list_profiles, load_profiles
from edgekit_runtime.errors import UsageError
from edgekit_runtime.graph.workload import Workload

# MobileNetV2 1.0 at 224x224, which is among the published measurements.
MOBILENET = Workload(
    conv_other_macs=10_838_016,
    pointwise_macs=268_234_752,
    depthwise_macs=20_716_416,
    fc_macs=1_281_000,
    weight_elements=3_470_760,
    conv_activation_elements=13_900_000,
    elementwise_elements=390_000,
    traffic_elements=1_100_000,
    op_count=65,
    layer_count=66,
)
DIGITS = Workload(
    conv3x3_stride1_macs=150_000,
    fc_macs=20_000,
    weight_elements=25_000,
    conv_activation_elements=4_000,
    elementwise_elements=1_000,
    op_count=8,
    layer_count=8,
)
COUNTED = [field.name for field in dataclasses.fields(Workload) if field.type == "int"]
BOARDS = st.sampled_from(list_profiles())
RUNTIMES = st.sampled_from(["onnxruntime", "litert", "tflite-runtime", "ncnn"])
DTYPES = st.sampled_from(["float32", "float16", "int8"])
WORKLOADS = st.builds(
    Workload, **dict.fromkeys(COUNTED, st.one_of(st.integers(0, 10**5), st.integers(0, 10**10)))
)


def board(name: str) -> Profile:
    (profile,) = load_profiles(name)
    return profile


@given(WORKLOADS, BOARDS, RUNTIMES, DTYPES, st.integers(1, 4))
def test_the_figure_lies_in_its_band_and_says_what_it_is(
    workload: Workload, profile: Profile, runtime: str, dtype: str, threads: int
) -> None:
    found = predict(workload, profile, runtime=runtime, dtype=dtype, threads=threads)
    assert 0 <= found.low_ms <= found.latency_ms * (1 + 1e-9)
    assert found.latency_ms <= found.high_ms * (1 + 1e-9)
    assert found.kind == ("estimate only" if found.reasons else "predicted")
    assert found.provenance
    assert found.sources


@given(WORKLOADS, BOARDS, RUNTIMES, DTYPES, st.sampled_from(COUNTED), st.integers(1, 10**9))
def test_more_work_never_takes_less_time(
    workload: Workload, profile: Profile, runtime: str, dtype: str, column: str, more: int
) -> None:
    larger = dataclasses.replace(workload, **{column: getattr(workload, column) + more})
    before, after = (
        predict(w, profile, runtime=runtime, dtype=dtype, threads=4) for w in (workload, larger)
    )
    assert after.latency_ms >= before.latency_ms * (1 - 1e-12)


def test_a_measured_combination_is_predicted_near_its_measurement() -> None:
    (measured,) = [
        row.latency_ms
        for row in read_measurements()
        if (row.board, row.runtime, row.dtype) == ("raspberrypi4", "tflite", "int8")
        and row.model == "mobilenet_v2_1.0_224"
    ]
    found = predict(MOBILENET, board("raspberrypi4"), runtime="litert", dtype="int8", threads=4)
    assert found.kind == "predicted"
    assert found.reasons == ()
    assert found.low_ms < measured < found.high_ms
    assert found.latency_ms == pytest.approx(measured, rel=0.2)
    assert "45 published latencies of tflite 2.7.1, int8, 4 threads" in found.provenance
    assert "left out 8%" in found.provenance
    assert found.sources[0].startswith("https://github.com/mlcommons/")
    assert json.loads(json.dumps(found.to_json()))["kind"] == "predicted"


def test_a_newer_runtime_may_be_quicker_than_the_one_that_was_measured() -> None:
    profile = board("raspberrypi4")
    settings = {"dtype": "int8", "threads": 4}
    old = predict(MOBILENET, profile, runtime="tflite", **settings)  # type: ignore[arg-type]
    new = predict(MOBILENET, profile, runtime="litert", **settings)  # type: ignore[arg-type]
    assert new.low_ms == pytest.approx(old.low_ms / 1.5)
    assert new.high_ms == old.high_ms


@pytest.mark.parametrize(
    ("name", "runtime", "dtype", "threads", "reason"),
    [
        ("raspberrypi5", "litert", "int8", 4, "no measurement of litert"),
        ("raspberrypi4", "onnxruntime", "int8", 4, "no measurement of onnxruntime"),
        ("raspberrypi4", "litert", "int8", 1, "1 thread of this runtime"),
        ("raspberrypi5", "ncnn", "float32", 4, "no measurement of float32"),
        ("raspberrypi4", "ncnn", "float32", 3, "with 3 threads"),
    ],
)
def test_a_setting_that_was_not_measured_is_an_estimate_only(
    name: str, runtime: str, dtype: str, threads: int, reason: str
) -> None:
    found = predict(MOBILENET, board(name), runtime=runtime, dtype=dtype, threads=threads)
    assert found.kind == "estimate only"
    assert any(reason in text for text in found.reasons)
    measured = board(name).calibrations
    assert found.high_ms / found.low_ms > min(c.band for c in measured) ** 2


def test_between_one_thread_and_four_lie_two() -> None:
    one, two, four = (
        predict(MOBILENET, board("raspberrypi4"), runtime="ncnn", dtype="float32", threads=threads)
        for threads in (1, 2, 4)
    )
    assert four.latency_ms < two.latency_ms < one.latency_ms
    assert (one.kind, two.kind, four.kind) == ("predicted", "estimate only", "predicted")


def test_a_tiny_model_is_an_estimate_that_fixed_costs_decide() -> None:
    found = predict(DIGITS, board("raspberrypi4"), runtime="litert", dtype="int8", threads=4)
    assert found.kind == "estimate only"
    assert any("far smaller than any calibrated model" in reason for reason in found.reasons)
    assert found.high_ms / found.low_ms > 10
    # It cannot take longer than the quickest model that was measured, which does far more.
    quickest = min(
        row.latency_ms
        for row in read_measurements()
        if (row.board, row.runtime, row.dtype) == ("raspberrypi4", "tflite", "int8")
    )
    assert found.high_ms < quickest


def test_a_giant_model_is_an_estimate_only() -> None:
    giant = dataclasses.replace(MOBILENET, conv3x3_stride1_macs=10**12)
    found = predict(giant, board("raspberrypi4"), runtime="ncnn", dtype="float32")
    assert any("far larger" in reason for reason in found.reasons)


@pytest.mark.parametrize("column", ["fc_macs", "matmul_macs", "recurrent_macs"])
def test_dense_attention_and_recurrent_models_are_estimates_only(column: str) -> None:
    dense = dataclasses.replace(MOBILENET, **{column: 10**9})
    found = predict(dense, board("raspberrypi4"), runtime="ncnn", dtype="float32")
    assert any("mostly dense, attention or recurrent" in reason for reason in found.reasons)


def test_many_operators_that_do_little_are_an_estimate_only() -> None:
    busy = dataclasses.replace(MOBILENET, layer_count=2000, op_count=2000)
    found = predict(busy, board("raspberrypi4"), runtime="ncnn", dtype="float32")
    assert any("operators smaller than" in reason for reason in found.reasons)


def test_what_could_not_be_counted_is_said() -> None:
    partly = dataclasses.replace(MOBILENET, unknown=("Loop 'l': shapes not known",))
    found = predict(partly, board("raspberrypi4"), runtime="ncnn", dtype="float32")
    assert "1 operators could not be counted" in found.reasons


def test_every_wrong_setting_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        predict(MOBILENET, board("raspberrypi4"), runtime="torch", dtype="int3", threads=5)
    for text in ("runtime is 'torch'", "dtype is 'int3'", "threads is 5", "has 4 cores"):
        assert text in caught.value.what


def test_a_board_without_measurements_gives_no_figure() -> None:
    bare = dataclasses.replace(board("raspberrypi4"), calibrations=())
    with pytest.raises(UsageError, match="nothing was measured on Raspberry Pi 4"):
        predict(MOBILENET, bare, runtime="litert", dtype="int8")
