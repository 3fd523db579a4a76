"""Errors weigh what the next layer's weights make of them, channel by channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgekit_converters.graph import read_graph
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.affine import UINT8, affine_of
from edgekit_converters.ranges import DEFAULT_METHOD, RangeMethod, collect_ranges
from edgekit_converters.ranges.importance import Importances, channel_importances
from edgekit_converters.ranges.probe import watchable

node = helper.make_node
F = np.float32


def importances(model: Any) -> Importances:
    graph = read_graph(normalise(model, where="test"))
    return channel_importances(graph, watchable(graph))


def energies(*sizes: float) -> NDArray[np.float64]:
    found = np.square(np.array(sizes, np.float64))
    return found / found.mean()


def test_each_layer_tells_what_its_weights_make_of_a_channel(make_model: Any) -> None:
    rng = np.random.default_rng(1)
    pointwise = rng.normal(size=(6, 4, 1, 1)).astype(F)
    deep = rng.normal(size=(6, 1, 3, 3)).astype(F)
    dense = rng.normal(size=(10, 6 * 4)).astype(F)
    model = make_model(
        [
            node("Conv", ["x", "pointwise"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("Conv", ["r", "deep"], ["d"], group=6),
            node("Flatten", ["d"], ["f"]),
            node("Gemm", ["f", "dense"], ["y"], transB=1),
        ],
        {"x": ["n", 4, 4, 4]},
        ["y"],
        {"pointwise": pointwise, "deep": deep, "dense": dense},
    )
    found = importances(model)
    assert found["x"] == pytest.approx(energies(*np.sqrt(np.square(pointwise).sum((0, 2, 3)))))
    assert found["r"] == pytest.approx(energies(*np.sqrt(np.square(deep).sum((1, 2, 3)))))
    flat = np.square(dense).sum(0).reshape(6, 4).sum(1)
    assert found["d"] == pytest.approx(energies(*np.sqrt(flat)))
    assert "y" not in found


def test_tokens_keep_their_channels_through_a_reshape(make_model: Any) -> None:
    right = np.random.default_rng(2).normal(size=(12, 5)).astype(F)
    model = make_model(
        [
            node("Tanh", ["x"], ["t"]),
            node("Reshape", ["t", "shape"], ["f"]),
            node("MatMul", ["f", "right"], ["y"]),
        ],
        {"x": [2, 3, 4]},
        ["y"],
        {"right": right, "shape": np.array([2, 12])},
    )
    expected = np.square(right).sum(1).reshape(3, 4).sum(0)
    assert importances(model)["t"] == pytest.approx(energies(*np.sqrt(expected)))


def test_what_an_unknown_reader_reads_weighs_the_same(make_model: Any) -> None:
    model = make_model(
        [node("Conv", ["x", "w"], ["a"]), node("Exp", ["x"], ["b"])],
        {"x": ["n", 2, 4, 4]},
        ["a", "b"],
        {"w": np.array([1, 9], F).reshape(1, 2, 1, 1)},
    )
    assert importances(model) == {}


def test_outliers_of_a_channel_that_hardly_counts_are_clipped(make_model: Any) -> None:
    """As in keyword spotters: a loud channel with small weights beside a quiet one with large."""
    weights = np.array([[0.1, 10.0]], F).reshape(1, 2, 1, 1)
    model = normalise(
        make_model([node("Conv", ["x", "w"], ["y"])], {"x": ["n", 2, 8, 8]}, ["y"], {"w": weights}),
        where="test",
    )
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 1, (64, 2, 8, 8)).astype(F)
    x[:, 0] *= rng.choice([1, 30], (64, 8, 8), p=[0.99, 0.01])
    seen = collect_ranges(model, [{"x": x}])["x"]
    assert DEFAULT_METHOD is RangeMethod.MSE

    def error(high: float) -> float:
        affine = affine_of(type(seen.average)(low=0.0, high=high), UINT8)
        back = affine.integers(x) * float(affine.scale)
        return float(np.square(((back - x) * weights[0]).sum(axis=1)).mean())

    chosen = seen.range(RangeMethod.MSE).high
    best = min(np.linspace(0.5, 30, 100), key=error)
    assert error(chosen) < 1.1 * error(best)
    assert error(chosen) < 0.2 * error(30.0)
