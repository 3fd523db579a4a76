"""Both engines compute what the plan says: arithmetic in numpy beside onnxruntime and LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgekit_converters.graph import Node
from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.affine import (
    INT8,
    INT16,
    UINT8,
    WEIGHTS_INT4,
    WEIGHTS_INT8,
    Codes,
    affine_of,
    quantize_blocks,
    weight_affine,
    weight_scales,
)
from edgekit_converters.quantize.plan import QuantizationPlan, Range
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.to_onnx.products import product_scales
from edgekit_converters.quantize.write_litert import write_litert
from edgekit_converters.quantize.write_onnx import write_onnx
from tests.converters.quantize.flat_files import run_flat
from tests.converters.quantize.measured import run_onnx, sqnr_db

Array = NDArray[Any]
F = np.float32
RNG = np.random.default_rng(5)
W1, B1 = RNG.normal(size=(48, 32)).astype(F), RNG.normal(size=48).astype(F)
W2, B2 = RNG.normal(size=(24, 48)).astype(F), RNG.normal(size=24).astype(F)
X = RNG.normal(size=(64, 32)).astype(F)
# Narrower than the data: what is clipped shows whether they are heeded.
RANGES = {
    "x": Range(low=-1.2, high=1.0),
    "h": Range(low=0.0, high=6.0),
    "r": Range(low=0.0, high=6.0),
    "y": Range(low=-25.0, high=40.0),
}
BLOCK = 32


@pytest.fixture
def written(make_model: Any, tmp_path: Path) -> Callable[[Scheme, str], Path]:
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first", transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name="second", transB=1),
    ]
    constants = {"w1": W1, "b1": B1, "w2": W2, "b2": B2}
    model = normalise(make_model(nodes, {"x": ["n", 32]}, ["y"], constants), where="test")

    def write(scheme: Scheme, suffix: str) -> Path:
        ranges = RANGES if scheme.needs_ranges else {}
        plan = QuantizationPlan(scheme=scheme, ranges=ranges)
        path = tmp_path / f"m{suffix}"
        if suffix == ".onnx":
            write_onnx(model, plan, path, where="test")
        else:
            compiled = compile_to_litert(model, where="test")
            write_litert(compiled, plan, path, where="test", normalised=model)
        return path

    return write


def rounded(values: Array, span: Range, codes: Codes) -> Array:
    affine = affine_of(span, codes)
    return (affine.integers(values) - affine.zero_point) * float(affine.scale)


def read_back(weights: Array, scales: NDArray[np.float32], codes: Codes) -> Array:
    return weight_affine(scales, codes).integers(weights, 0) * scales[:, None].astype(float)


def weights_of(weights: Array, scheme: Scheme, suffix: str) -> Array:
    """What the file holds of a matrix, outputs first."""
    if scheme is Scheme.FP16:
        return weights.astype(np.float16).astype(float)
    if scheme is Scheme.INT4_WEIGHTS:
        if suffix == ".tflite":
            scales = weight_scales(weights, 0, WEIGHTS_INT4, search=True)
            return read_back(weights, scales, WEIGHTS_INT4)
        integers, steps = quantize_blocks(weights.T, 0, BLOCK, WEIGHTS_INT4)
        return (integers * np.repeat(steps, BLOCK, axis=0)[: len(integers)].astype(float)).T
    if suffix == ".onnx" and scheme in {Scheme.INT8, Scheme.MIXED, Scheme.INT8_DYNAMIC}:
        gemm = Node(op="Gemm", name="g", inputs=(), outputs=(), attributes={})
        return read_back(weights, product_scales(gemm, weights, 0, saturates=True), WEIGHTS_INT8)
    return read_back(weights, weight_scales(weights, 0, WEIGHTS_INT8), WEIGHTS_INT8)


def dynamic(values: Array, suffix: str) -> Array:
    """Rounded with a range of their own: of the whole, or of each row."""
    parts = [values] if suffix == ".onnx" else list(values[:, None])
    return np.concatenate(
        [
            rounded(part, Range(low=float(part.min()), high=float(part.max())), UINT8)
            for part in parts
        ]
    )


def computed(scheme: Scheme, suffix: str) -> Array:
    """The model's output, by the scheme's rules."""
    narrow = UINT8 if suffix == ".onnx" else INT8
    codes = INT16 if scheme is Scheme.INT16X8 else narrow

    def enter(name: str, values: Array) -> Array:
        if scheme.needs_ranges:
            return rounded(values, RANGES[name], codes)
        return dynamic(values, suffix) if scheme is Scheme.INT8_DYNAMIC else values

    first, second = (weights_of(weights, scheme, suffix) for weights in (W1, W2))
    hidden = np.maximum(enter("x", X.astype(float)) @ first.T + B1, 0)
    outputs = enter("r", hidden) @ second.T + B2
    # LiteRT's product makes integers, onnxruntime's floats.
    made = scheme.needs_ranges and suffix == ".tflite"
    return rounded(outputs, RANGES["y"], codes) if made else outputs


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
@pytest.mark.parametrize(
    ("scheme", "least_db"),
    [
        # Sums are rounded to integers in one step or in two, which halves of steps tell apart.
        (Scheme.INT8, 40), (Scheme.MIXED, 40), (Scheme.INT16X8, 60), (Scheme.INT8_DYNAMIC, 40),
        (Scheme.INT8_WEIGHTS, 100), (Scheme.INT4_WEIGHTS, 100), (Scheme.FP16, 60),
    ],
)  # fmt: skip
def test_both_engines_compute_what_the_plan_says(
    scheme: Scheme, least_db: float, suffix: str, written: Callable[[Scheme, str], Path]
) -> None:
    path = written(scheme, suffix)
    run = run_onnx if suffix == ".onnx" else run_flat
    found = run(path, {"x": X})["y"]
    if suffix == ".onnx" and scheme in {Scheme.INT8_WEIGHTS, Scheme.INT4_WEIGHTS}:
        # onnxruntime multiplies such weights in integers, with activations that it rounds itself.
        assert sqnr_db(computed(scheme, suffix), found) > 40
        found = run_onnx(path, {"x": X}, optimise=False)["y"]
    assert sqnr_db(computed(scheme, suffix), found) > least_db
    plain = np.maximum(X @ W1.T + B1, 0) @ W2.T + B2
    if scheme.needs_ranges:
        assert sqnr_db(plain, found) < 15
    else:
        assert 10 < sqnr_db(plain, found) < 90
