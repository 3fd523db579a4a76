"""Predictions: bands around them, no pretence, and no model cheaper for being larger."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgekit_benchmarks.layers import Layer, LayerKind, ModelLayers
from edgekit_benchmarks.predict import predict
from edgekit_benchmarks.profile import Profile, list_profiles, load_profiles
from edgekit_benchmarks.published import read_measurements
from edgekit_runtime.errors import UsageError


def conv(into: int, out: int, side: int, *, kernel: int = 1, stride: int = 1) -> Layer:
    macs = into * out * kernel**2 * side**2
    return Layer(
        kind=LayerKind.CONVOLUTION,
        macs=macs,
        weights=into * out * kernel**2,
        inputs=into * (side * stride) ** 2,
        outputs=out * side**2,
        kernel=(kernel, kernel),
        strides=(stride, stride),
        in_channels=into,
        out_channels=out,
        plane=(side, side),
    )


def depthwise(channels: int, side: int, *, stride: int = 1) -> Layer:
    return Layer(
        kind=LayerKind.DEPTHWISE,
        macs=channels * 9 * side**2,
        weights=channels * 9,
        inputs=channels * (side * stride) ** 2,
        outputs=channels * side**2,
        kernel=(3, 3),
        strides=(stride, stride),
        groups=channels,
        in_channels=channels,
        out_channels=channels,
        plane=(side, side),
    )


def dense(into: int, out: int) -> Layer:
    return Layer(
        kind=LayerKind.DENSE,
        macs=into * out,
        weights=into * out,
        inputs=into,
        outputs=out,
        in_channels=into,
        out_channels=out,
    )


def mobilenet() -> ModelLayers:
    """MobileNet 1.0 at 224x224, which is among the published measurements."""
    layers, side, channels = [conv(3, 32, 112, kernel=3, stride=2)], 112, 32
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    for out, stride in [*blocks, *[(512, 1)] * 5, (1024, 2), (1024, 1)]:
        side //= stride
        layers += [depthwise(channels, side, stride=stride), conv(channels, out, side)]
        channels = out
    pool = Layer(kind=LayerKind.OTHER, inputs=1024 * 49, outputs=1024)
    return ModelLayers(layers=(*layers, pool, dense(1024, 1001)))


MOBILENET = mobilenet()
DIGITS = ModelLayers(layers=(conv(1, 8, 26, kernel=3), conv(8, 16, 12, kernel=3), dense(400, 10)))
BOARDS = st.sampled_from(list_profiles())
RUNTIMES = st.sampled_from(["onnxruntime", "litert", "tflite-runtime", "ncnn"])
DTYPES = st.sampled_from(["float32", "float16", "int8"])
SIZES = st.integers(1, 600)
LAYERS = st.one_of(
    st.builds(conv, SIZES, SIZES, st.integers(1, 200), kernel=st.sampled_from([1, 3, 5])),
    st.builds(depthwise, SIZES, st.integers(1, 200)),
    st.builds(dense, SIZES, SIZES),
    st.builds(
        Layer,
        kind=st.sampled_from(list(LayerKind)),
        inputs=st.integers(0, 10**7),
        outputs=st.integers(0, 10**7),
    ),
)
MODELS = st.builds(ModelLayers, layers=st.lists(LAYERS, max_size=30).map(tuple))


def board(name: str) -> Profile:
    (profile,) = load_profiles(name)
    return profile


@given(MODELS, BOARDS, RUNTIMES, DTYPES, st.integers(1, 4))
def test_the_figure_lies_in_its_band_and_says_what_it_is(
    model: ModelLayers, profile: Profile, runtime: str, dtype: str, threads: int
) -> None:
    threads = min(threads, profile.hardware.cores)
    found = predict(model, profile, runtime=runtime, dtype=dtype, threads=threads)
    assert 0 <= found.low_ms <= found.latency_ms * (1 + 1e-9)
    assert found.latency_ms <= found.high_ms * (1 + 1e-9)
    assert (found.kind == "predicted") == (not found.reasons)
    assert found.provenance
    assert found.sources


@given(MODELS, LAYERS, BOARDS, RUNTIMES, DTYPES)
def test_more_work_never_takes_less_time(
    model: ModelLayers, more: Layer, profile: Profile, runtime: str, dtype: str
) -> None:
    larger = dataclasses.replace(model, layers=(*model.layers, more))
    before, after = (
        predict(found, profile, runtime=runtime, dtype=dtype) for found in (model, larger)
    )
    # Out of the range that one engine was measured in, another's measurements are nearer.
    assume(after.provenance == before.provenance)
    assert after.latency_ms >= before.latency_ms * (1 - 1e-12)


@pytest.mark.parametrize(
    ("name", "runtime", "dtype", "threads"),
    [
        ("raspberrypi4", "litert", "int8", 4),
        ("raspberrypi4", "tflite-runtime", "float32", 4),
        ("rk3588s", "litert", "float32", 8),
        ("odroid-n2-plus", "litert", "int8", 6),
    ],
)
def test_a_measured_combination_is_predicted_near_its_measurement(
    name: str, runtime: str, dtype: str, threads: int
) -> None:
    found = predict(MOBILENET, board(name), runtime=runtime, dtype=dtype, threads=threads)
    newest = max(
        (
            row
            for row in read_measurements()
            if (row.combination.board, row.combination.runtime) == (name, "tflite")
            and (row.combination.dtype, row.model.name) == (dtype, "mobilenet_v1_1.0_224")
        ),
        key=lambda row: [int(part) for part in row.combination.runtime_version.split(".")],
    )
    assert found.kind == "predicted"
    assert found.reasons == ()
    assert found.low_ms < newest.latency_ms < found.high_ms
    assert found.latency_ms == pytest.approx(newest.latency_ms, rel=0.2)
    assert f"of tflite {newest.combination.runtime_version}, {dtype}" in found.provenance
    assert "mean error on a model family left out" in found.provenance
    assert found.sources[0].startswith("https://github.com/mlcommons/")
    assert json.loads(json.dumps(found.to_json()))["kind"] == "predicted"


def test_what_says_little_is_a_weak_prediction() -> None:
    found = predict(MOBILENET, board("pixel3"), runtime="litert", dtype="float32", threads=4)
    assert found.kind == "weakly predicted"
    assert "few kinds of models" in found.reasons[0]


def test_a_microcontroller_is_priced_by_its_products() -> None:
    keyword_spotting = ModelLayers(
        layers=(conv(40, 64, 11), *[depthwise(64, 11), conv(64, 64, 11)] * 4, dense(64, 12))
    )
    found = predict(keyword_spotting, board("nucleo-l4r5zi"), runtime="litert", dtype="int8")
    assert found.kind == "weakly predicted"
    assert 20 < found.latency_ms < 200


def test_layers_say_what_they_contribute() -> None:
    settings = {"runtime": "litert", "dtype": "int8", "threads": 4}
    found = predict(MOBILENET, board("raspberrypi4"), with_layers=True, **settings)  # type: ignore[arg-type]
    assert len(found.layers) == len(MOBILENET.layers)
    assert sum(layer.milliseconds for layer in found.layers) == pytest.approx(found.latency_ms)
    assert predict(MOBILENET, board("raspberrypi4"), **settings).layers == ()  # type: ignore[arg-type]


@given(st.floats(0.5, 0.999), st.floats(0.5, 0.999))
def test_more_confidence_asks_for_more_time(one: float, other: float) -> None:
    found = predict(MOBILENET, board("raspberrypi4"), runtime="ncnn", dtype="float32")
    less, more = sorted([one, other])
    assert found.at_most_ms(less) <= found.at_most_ms(more) * (1 + 1e-12)


def test_confidence_is_of_not_exceeding() -> None:
    found = predict(MOBILENET, board("raspberrypi4"), runtime="ncnn", dtype="float32")
    assert found.at_most_ms(0.5) == pytest.approx(found.latency_ms)
    # A central band of 90 % leaves 5 % above it.
    assert found.at_most_ms(0.95) == pytest.approx(found.high_ms)
    with pytest.raises(UsageError, match="confidence is 1,"):
        found.at_most_ms(1.0)


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
        ("raspberrypi4", "litert", "float32", 1, "no measurement of litert"),
        ("raspberrypi5", "ncnn", "float32", 4, "no measurement of float32"),
        ("jetson-orin-nano", "litert", "int8", 6, "no measurement of litert"),
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


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("raspberrypi3b", "raspberrypi3b-plus"),
        ("raspberrypi-cm3-plus", "raspberrypi3b-plus"),
        ("raspberrypi-cm4", "raspberrypi4"),
        ("raspberrypi-cm5", "raspberrypi5"),
    ],
)
def test_a_board_on_which_nothing_was_measured_is_an_estimate_only(name: str, like: str) -> None:
    for runtime, dtype, threads in (("ncnn", "float32", 1), ("litert", "int8", 4)):
        settings = {"runtime": runtime, "dtype": dtype, "threads": threads}
        found = predict(MOBILENET, board(name), **settings)  # type: ignore[arg-type]
        known = predict(MOBILENET, board(like), **settings)  # type: ignore[arg-type]
        assert found.kind == "estimate only"
        assert "no known measurement on this board" in " ".join(found.reasons)
        # No clock is reckoned with: the likely figure is the other board's.
        assert found.latency_ms == pytest.approx(known.latency_ms)
        assert found.low_ms < known.low_ms / 1.8
        assert found.high_ms > known.high_ms * 1.8
        assert f"on a {board(like).title}" in found.provenance


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
        if (row.combination.board, row.combination.runtime) == ("raspberrypi4", "tflite")
        and row.combination.dtype == "int8"
    )
    assert found.latency_ms < quickest


def test_a_giant_model_is_an_estimate_only() -> None:
    giant = ModelLayers(layers=(conv(512, 512, 600, kernel=3),) * 4)
    found = predict(giant, board("raspberrypi4"), runtime="ncnn", dtype="float32")
    assert any("far larger" in reason for reason in found.reasons)


@pytest.mark.parametrize("kind", [LayerKind.DENSE, LayerKind.PRODUCT, LayerKind.RECURRENT])
def test_dense_attention_and_recurrent_models_are_estimates_only(kind: LayerKind) -> None:
    layer = Layer(kind=kind, macs=10**9, weights=10**6, inputs=10**6, outputs=10**6)
    model = ModelLayers(layers=(*MOBILENET.layers, layer))
    found = predict(model, board("raspberrypi4"), runtime="ncnn", dtype="float32")
    assert any("mostly dense, attention or recurrent" in reason for reason in found.reasons)


def test_many_operators_that_do_little_are_an_estimate_only() -> None:
    calls = (Layer(kind=LayerKind.OTHER, inputs=1, outputs=1),) * 3000
    busy = ModelLayers(layers=(*MOBILENET.layers, *calls))
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
