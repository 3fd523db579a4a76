"""Products of bytes on x86 without VNNI, which saturate, answer as they do everywhere else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from edgekit_converters.graph import Node
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.affine import WEIGHTS_INT8, weight_affine
from edgekit_converters.quantize.plan import QuantizationPlan
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.to_onnx.products import product_scales
from edgekit_converters.quantize.write_onnx import write_onnx
from tests.converters.quantize.measured import min_max_ranges, run_onnx

MOST = 2**15 - 1
VALGRIND = shutil.which("valgrind")


def added_in_pairs(activations: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """What VPMADDUBSW makes of neighbours: sums of two products in 16 bits, saturated."""
    both = activations[..., 0::2] * weights[..., 0::2] + activations[..., 1::2] * weights[..., 1::2]
    return np.clip(both, -MOST - 1, MOST).sum(axis=-1)


def quantized(weights: NDArray[Any], *, saturates: bool) -> NDArray[Any]:
    node = Node(op="MatMul", name="m", inputs=("x", "w"), outputs=("y",), attributes={})
    scales = product_scales(node, weights, 1, saturates=saturates)
    return weight_affine(scales, WEIGHTS_INT8).integers(weights, 1)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0, 8.0]))
def test_no_two_neighbours_overflow(rows: int, seed: int, tail: float) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.standard_t(tail + 1, size=(2 * rows, 3))).astype(np.float32)
    integers = quantized(weights, saturates=True).T
    for start in (0, 1):
        # Wherever the pairs begin: kernels differ in what they put first.
        tailored = integers[:, start : start + 2 * ((2 * rows - start) // 2)]
        for picked in (tailored > 0, tailored < 0):
            activations = np.where(picked, 255, 0)
            expected = (activations * tailored).sum(axis=1)
            assert (added_in_pairs(activations, tailored) == expected).all()


def test_it_costs_less_than_weights_of_seven_bits() -> None:
    weights = np.random.default_rng(1).normal(size=(256, 64)).astype(np.float32)
    largest = np.abs(weights).max(axis=0)
    steps = [
        product_scales(
            Node(op="MatMul", name="m", inputs=("x", "w"), outputs=("y",), attributes={}),
            weights,
            1,
            saturates=saturates,
        )
        for saturates in (False, True)
    ]
    assert np.allclose(steps[0], largest / 127)
    assert steps[1].mean() < 0.8 * (largest / 64).mean()


def test_depthwise_filters_keep_eight_bits() -> None:
    node = Node(op="Conv", name="c", inputs=("x", "w"), outputs=("y",), attributes={"group": 8})
    filters = np.random.default_rng(2).normal(size=(8, 1, 3, 3)).astype(np.float32)
    scales = product_scales(node, filters, 0, saturates=True)
    assert np.allclose(scales, np.abs(filters).max(axis=(1, 2, 3)) / 127)


@pytest.mark.slow
@pytest.mark.skipif(VALGRIND is None, reason="valgrind, which has no VNNI, is not installed")
def test_a_machine_without_vnni_answers_the_same(make_model: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "d"], ["e"], group=8),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "g"], ["y"]),
    ]
    constants = {
        "a": np.abs(rng.normal(size=(8, 6, 3, 3))).astype(np.float32),
        "d": np.abs(rng.normal(size=(8, 1, 3, 3))).astype(np.float32),
        "g": np.abs(rng.normal(size=(8 * 16, 10))).astype(np.float32),
    }
    model = normalise(make_model(nodes, {"x": [1, 6, 8, 8]}, ["y"], constants), where="test")
    feeds = {"x": rng.uniform(0.9, 1, (1, 6, 8, 8)).astype(np.float32)}
    np.savez(tmp_path / "feeds.npz", **feeds)
    script = (
        "import sys, numpy as np, onnxruntime as ort\n"
        "session = ort.InferenceSession(sys.argv[1])\n"
        "np.save(sys.argv[3], session.run(None, dict(np.load(sys.argv[2])))[0])\n"
    )
    differences = []
    for saturates in (True, False):
        path = tmp_path / "model.onnx"
        plan = QuantizationPlan(
            scheme=Scheme.INT8, ranges=min_max_ranges(model, [feeds]), saturates=saturates
        )
        write_onnx(model, plan, path, where="test")
        subprocess.run(
            [str(VALGRIND), "--tool=none", "-q", sys.executable, "-c", script, str(path),
             str(tmp_path / "feeds.npz"), str(tmp_path / "there.npy")],
            check=True, capture_output=True, env={"PYTHONMALLOC": "malloc"},
        )  # fmt: skip
        here = run_onnx(path, feeds, optimise=False)["y"]
        differences.append(np.abs(here - np.load(tmp_path / "there.npy")).max() / here.max())
    assert differences[0] < 1e-2
    # The test would show it.
    assert differences[1] > 3e-2
