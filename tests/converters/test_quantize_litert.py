"""LiteRT files quantized as they are, by their own tensors and operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.litert import (
    file_statistics,
    quantized_tensors,
    write_litert_file,
)
from edgekit_converters.quantize.plan import QuantizationPlan
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.ranges import DEFAULT_METHOD
from edgekit_runtime.session import open_session


def test_a_file_is_quantized_by_its_own_tensors(
    make_model: Any, weights: Any, tmp_path: Path
) -> None:
    size = 900
    nodes = [
        helper.make_node("Gemm", ["x", "a", "c"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b"], ["y"], name="second"),
    ]
    constants = {
        "a": weights(size, size, seed=1) / 16,
        "c": weights(size, seed=2),
        "b": weights(size, size, seed=3) / 16,
    }
    model = make_model(nodes, {"x": ["n", size]}, ["y"], constants)
    source, target = tmp_path / "float.tflite", tmp_path / "int8.tflite"
    compiled = compile_to_litert(normalise(model, where="test"), where="test")
    source.write_bytes(compiled.content)
    samples = np.random.default_rng(4).normal(size=(64, size)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=samples)
    session = open_session(source)
    calibration = CalibrationSet.load(tmp_path / "samples.npz", session.inputs)
    seen = file_statistics(source, calibration.batches(), where="test")
    ranges = {name: value.range(DEFAULT_METHOD) for name, value in seen.items()}
    plan = QuantizationPlan(scheme=Scheme.INT8, ranges=ranges)
    write_litert_file(source, plan, target, where="test")
    assert target.stat().st_size < 0.3 * source.stat().st_size
    assert quantized_tensors(target)
    expected = session.run({"x": samples[:8]})["y"]
    computed = open_session(target).run({"x": samples[:8]})["y"]
    signal, noise = np.square(expected).mean(), np.square(expected - computed).mean()
    assert 10 * np.log10(signal / noise) > 25
