"""LiteRT models with float16 weights: half the size, the same answers, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.tflite_builder import Array, TfliteBuilder
from edgekit_converters.parity import relative_error
from edgekit_converters.quantize.litert import write_litert_file
from edgekit_converters.quantize.plan import QuantizationPlan
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.tflite_source import import_tflite
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.graph.read import read_graph
from edgekit_runtime.session import open_session
from tests.converters.quantize.flat_files import run_flat

F = np.float32
CONV = {"padding": 0, "strideH": 1, "strideW": 1}


def w(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(scale=0.3, size=shape).astype(F)


def network(*, old: bool = False, far: bool = False) -> bytes:
    """A convolution, a depthwise and a dense layer, and a product with a table."""
    build = TfliteBuilder()
    image = build.tensor("image", [-1, 8, 8, 3])
    filters, taps = w(16, 3, 3, 3), w(1, 3, 3, 16, seed=2)
    dense, table = w(10, 1024, seed=3), w(1, 8, 8, 16, seed=4)
    if far:
        dense[0, 0] = 1e6
    stored = [build.constant(name, array) for name, array in (
        ("filters", filters), ("taps", taps), ("dense", dense), ("table", table))]  # fmt: skip
    biases = [build.constant(f"bias{n}", w(n, seed=n)) for n in (16, 17, 10)]
    biases[1] = build.constant("taps_bias", w(16, seed=17))
    wide = [-1, 8, 8, 16]
    values = [build.tensor(name, wide) for name in ("conv", "deep", "scaled")]
    scores = build.tensor("scores", [-1, 10])
    build.operator("CONV_2D", [image, stored[0], biases[0]], [values[0]], "Conv2DOptions", **CONV)
    build.operator(
        "DEPTHWISE_CONV_2D", [values[0], stored[1], biases[1]], [values[1]],
        "DepthwiseConv2DOptions", depthMultiplier=1, **CONV,
    )  # fmt: skip
    build.operator("MUL", [values[1], stored[3]], [values[2]], "MulOptions")
    build.operator(
        "FULLY_CONNECTED", [values[2], stored[2], biases[2]], [scores], "FullyConnectedOptions"
    )
    if old:
        for code in build.model.operatorCodes:
            code.builtinCode = 0
    return build.content([image], [scores])


def halve(source: Path, output: Path, *, where: str) -> tuple[str, ...]:
    return write_litert_file(source, QuantizationPlan(scheme=Scheme.FP16), output, where=where)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "float.tflite"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("old", [False, True])
def test_weights_are_half_and_answers_the_same(old: bool, tmp_path: Path) -> None:
    source, half = written(tmp_path, network(old=old)), tmp_path / "half.tflite"
    notes = halve(source, half, where="float.tflite")
    assert half.stat().st_size < 0.6 * source.stat().st_size
    before, after = open_session(source), open_session(half)
    assert [(s.name, s.dtype, s.shape) for s in after.inputs] == [
        (s.name, s.dtype, s.shape) for s in before.inputs
    ]
    assert [s.name for s in after.outputs] == [s.name for s in before.outputs]
    feeds = {"image": w(3, 8, 8, 3, seed=9)}
    expected = before.run(feeds)["scores"]
    assert relative_error(expected, after.run(feeds)["scores"]) < 2e-3
    # LiteRT's own kernels make the floats again, where no delegate does it for them.
    assert relative_error(expected, run_flat(half, feeds, plain=True)["scores"]) < 2e-3
    stored = [t.name for t in read_graph(half).tensors.values() if t.dtype == "float16"]
    assert sorted(stored) == ["dense/half", "filters/half", "table/half", "taps/half"]
    assert notes == ()


def test_a_large_file_keeps_its_weights(tmp_path: Path) -> None:
    build = TfliteBuilder()
    x, y = build.tensor("x", [2, 1024]), build.tensor("y", [2, 1024])
    weights, bias = build.constant("w", w(1024, 1024)), build.constant("b", w(1024))
    build.operator("FULLY_CONNECTED", [x, weights, bias], [y], "FullyConnectedOptions")
    source, half = written(tmp_path, build.content([x], [y])), tmp_path / "half.tflite"
    assert halve(source, half, where="float.tflite") == ()
    again = tmp_path / "again.tflite"
    with pytest.raises(UnsupportedModelError, match="float16 already: w"):
        halve(half, again, where="half.tflite")
    feeds = {"x": w(2, 1024, seed=2)}
    outputs = [open_session(path).run(feeds)["y"] for path in (source, half)]
    assert relative_error(*outputs) < 2e-3


def test_result_can_be_imported(tmp_path: Path) -> None:
    source, half = written(tmp_path, network()), tmp_path / "half.tflite"
    halve(source, half, where="float.tflite")
    model = import_tflite(half)
    kinds = [tensor.data_type for tensor in model.graph.initializer]
    assert kinds.count(10) == 4


def test_weight_beyond_the_range_stays(tmp_path: Path) -> None:
    source, half = written(tmp_path, network(far=True)), tmp_path / "half.tflite"
    notes = halve(source, half, where="float.tflite")
    assert notes[0] == (
        "'dense' stays float32: its largest value, 1e+06, is beyond float16's 65504"
    )
    before, after = open_session(source), open_session(half)
    feeds = {"image": w(3, 8, 8, 3, seed=9)}
    assert relative_error(before.run(feeds)["scores"], after.run(feeds)["scores"]) < 2e-3


def refusal(content: bytes, folder: Path) -> str:
    output = folder / "half.tflite"
    with pytest.raises(UnsupportedModelError) as caught:
        halve(written(folder, content), output, where="float.tflite")
    assert caught.value.where == "float.tflite"
    assert not output.exists()
    return caught.value.what


def test_model_with_nothing_to_store_in_half(tmp_path: Path) -> None:
    build = TfliteBuilder()
    x, y = build.tensor("x", [2, 3]), build.tensor("y", [2, 3])
    build.operator("TANH", [x], [y])
    what = refusal(build.content([x], [y]), tmp_path)
    assert what == (
        "fp16 changed nothing: it has no weights that are worth it, and no operator that can be "
        "quantized"
    )


def test_weights_so_few_that_the_file_would_grow(tmp_path: Path) -> None:
    build = TfliteBuilder()
    x, y = build.tensor("x", [2, 3]), build.tensor("y", [2, 2])
    weights, bias = build.constant("w", w(2, 3)), build.constant("b", w(2))
    build.operator("FULLY_CONNECTED", [x, weights, bias], [y], "FullyConnectedOptions")
    what = refusal(build.content([x], [y]), tmp_path)
    assert what.startswith("fp16 changed nothing")


def test_weights_that_all_stay_are_named(tmp_path: Path) -> None:
    build = TfliteBuilder()
    x, y = build.tensor("x", [2, 30]), build.tensor("y", [2, 20])
    weights, bias = build.constant("w", w(20, 30) * 1e9), build.constant("b", w(20))
    build.operator("FULLY_CONNECTED", [x, weights, bias], [y], "FullyConnectedOptions")
    what = refusal(build.content([x], [y]), tmp_path)
    assert what.startswith("fp16 changed nothing: 'w' stays float32: its largest value")


@pytest.mark.parametrize(("dtype", "word"), [("float16", "float16"), ("int8", "quantized")])
def test_model_that_is_no_float32_one(dtype: str, word: str, tmp_path: Path) -> None:
    build = TfliteBuilder()
    x, y, whole = (build.tensor(name, [4, 64]) for name in ("x", "y", "whole"))
    extra: dict[str, Any] = {"scales": [0.1]} if dtype == "int8" else {}
    stored = build.constant("stored", np.ones((4, 64), dtype), **extra)
    build.operator("DEQUANTIZE", [stored], [whole])
    build.operator("ADD", [x, whole], [y], "AddOptions")
    assert refusal(build.content([x], [y]), tmp_path) == f"the model is {word} already: stored"


def test_damaged_file(tmp_path: Path) -> None:
    assert "damaged" in refusal(network()[:2000], tmp_path)
