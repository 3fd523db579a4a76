"""A board's profile prices a mix of floats and integers between all of the one and of the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.device import ProfiledDevice, profiled_device
from edgekit_runtime.errors import UsageError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph.read import read_graph

MODEL = Path(__file__).resolve().parents[2] / "examples" / "digits" / "assets" / "digits_v2.onnx"


@pytest.fixture
def board() -> ProfiledDevice:
    return profiled_device("raspberrypi4")


@pytest.mark.parametrize("target", list(ModelFormat))
def test_a_mix_lies_between_all_and_none(target: ModelFormat, board: ProfiledDevice) -> None:
    names = [operator.name for operator in read_graph(MODEL).operators]
    floats = board.latency_ms(MODEL, target, integers=())
    whole = board.latency_ms(MODEL, target, integers=names)
    some = board.latency_ms(MODEL, target, integers=names[:3])
    assert floats > 0
    assert min(floats, whole) < some < max(floats, whole)
    # Only what is quantized is priced as such, whatever else is named.
    assert board.latency_ms(MODEL, target, integers=["nobody"]) == pytest.approx(floats)


def test_all_in_integers_is_what_a_benchmark_predicts(board: ProfiledDevice) -> None:
    from edgekit_benchmarks.layers import list_layers
    from edgekit_benchmarks.predict import predict
    from edgekit_benchmarks.profile import load_profiles

    (profile,) = load_profiles("raspberrypi4")
    graph = read_graph(MODEL)
    expected = predict(list_layers(graph), profile, runtime="litert", dtype="int8")
    names = [operator.name for operator in graph.operators]
    found = board.latency_ms(MODEL, ModelFormat.LITERT, integers=names)
    assert found == pytest.approx(expected.latency_ms)


def test_what_the_figures_are(board: ProfiledDevice) -> None:
    assert board.name == "Raspberry Pi 4 Model B"
    assert board.kind(MODEL, ModelFormat.LITERT) == "estimate only"


def test_a_family_is_no_board() -> None:
    with pytest.raises(UsageError, match="family of") as caught:
        profiled_device("raspberrypi")
    assert "raspberrypi4" in caught.value.fix
    with pytest.raises(UsageError, match="no device profile"):
        profiled_device("raspberrypie4")
