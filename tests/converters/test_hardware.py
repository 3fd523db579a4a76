"""The report says what a figure from this machine means for another one."""

from __future__ import annotations

import pytest

from edgekit_converters.hardware import doubts_of, how_judged, slower_than_float
from edgekit_converters.quantize.scheme import Scheme
from edgekit_runtime.formats import ModelFormat


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "words"),
    [
        ("x86_64", "flags : avx2 fma", "without VNNI, where onnxruntime's 8-bit products can"),
        ("AMD64", "flags : avx2 avx512_vnni", "with VNNI: 8-bit products do not saturate"),
        ("x86_64", "flags : avx_vnni", "with VNNI"),
        ("aarch64", "", "on aarch64: 8-bit products do not saturate here"),
    ],
)
def test_how_accuracy_was_measured(machine: str, cpuinfo: str, words: str) -> None:
    text = how_judged(machine=machine, cpuinfo=cpuinfo)
    assert words in text
    assert ("hold on ARM as well" in text) is (machine != "aarch64")


def test_this_machine_is_described() -> None:
    assert how_judged().startswith("measured in the engines themselves on ")


@pytest.mark.parametrize("scheme", list(Scheme))
def test_files_that_old_engines_compute_wrongly(scheme: Scheme) -> None:
    wrong = scheme in {Scheme.INT8_DYNAMIC, Scheme.INT4_WEIGHTS, Scheme.INT16X8}
    assert bool(doubts_of(scheme, ModelFormat.LITERT)) is wrong
    assert doubts_of(scheme, ModelFormat.ONNX) == ()


@pytest.mark.parametrize(
    ("integers", "floats", "said"),
    [(2.0, 1.0, True), (1.0, 1.0, True), (0.5, 1.0, False), (None, 1.0, False), (2.0, None, False)],
)
def test_what_gains_no_time(integers: float | None, floats: float | None, said: bool) -> None:
    sentences = slower_than_float(Scheme.INT8, integers, floats, "a board", "estimate only")
    assert bool(sentences) is said
    assert not said or "no faster than float on a board" in sentences[0]
