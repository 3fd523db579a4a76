"""Layers and counts: from ONNX and TFLite graphs, as the measured models were counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_benchmarks.features import FEATURES, Counting, count_features, price_layer_ns
from edgekit_benchmarks.layers import Layer, LayerKind, ModelLayers, list_layers
from edgekit_runtime.graph.read import read_graph

CONV = Layer(
    kind=LayerKind.CONVOLUTION,
    macs=64 * 64 * 9 * 100,
    weights=64 * 64 * 9,
    inputs=6400,
    outputs=6400,
    kernel=(3, 3),
    strides=(1, 1),
    in_channels=64,
    out_channels=64,
    plane=(10, 10),
)


def counted(layer: Layer, counting: Counting = Counting.DIRECT) -> dict[str, float]:
    counts = dict(zip(FEATURES, count_features([layer], counting), strict=True))
    return {name: amount for name, amount in counts.items() if amount}


def test_a_window_is_unfolded() -> None:
    assert counted(CONV) == {
        "operators": 1,
        "product_macs": CONV.macs,
        "weight_elements": CONV.weights,
        "unfolded_elements": 100 * 64 * 9,
        "product_input_elements": 6400,
        "product_output_elements": 6400,
    }


def test_winograd_pads_to_whole_tiles() -> None:
    # 10 x 10 outputs are 2 x 2 tiles of 6 x 6, each transformed to 8 x 8 points.
    assert counted(CONV, Counting.WINOGRAD) == {
        "operators": 1,
        "winograd_macs": 4 * 64 * 64 * 64,
        "winograd_elements": 4 * 64 * 128,
        "weight_elements": 64 * 64 * 64,
        "product_input_elements": 6400,
        "product_output_elements": 6400,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"strides": (2, 2)},
        {"kernel": (5, 5)},
        {"plane": ()},
        {"in_channels": 3, "out_channels": 4},
    ],
)
def test_other_windows_have_no_winograd(change: dict[str, object]) -> None:
    from dataclasses import replace

    layer = replace(CONV, **change)  # type: ignore[arg-type]
    assert "winograd_macs" not in counted(layer, Counting.WINOGRAD)


def test_narrow_groups_cost_extra() -> None:
    from dataclasses import replace

    assert counted(replace(CONV, groups=8))["grouped_macs"] == CONV.macs
    assert "grouped_macs" not in counted(replace(CONV, groups=2))


def test_one_row_times_a_matrix_is_the_reading_of_the_matrix() -> None:
    dense = Layer(
        kind=LayerKind.DENSE,
        macs=1000,
        weights=1000,
        inputs=100,
        outputs=10,
        in_channels=100,
        out_channels=10,
    )
    assert counted(dense) == {"operators": 1, "product_macs": 1000, "weight_elements": 1000}


def test_a_layer_too_large_for_a_cache() -> None:
    large = Layer(kind=LayerKind.DEPTHWISE, macs=9, weights=9, inputs=2**18, outputs=10)
    assert counted(large)["far_elements"] == 10


def test_the_prices_of_layers_add_up() -> None:
    layers = [CONV, Layer(kind=LayerKind.MOVE, inputs=7, outputs=7)]
    prices = [float(position + 1) for position in range(len(FEATURES))]
    whole = sum(np.array(count_features(layers, Counting.DIRECT)) * prices)
    parts = [price_layer_ns(layer, Counting.DIRECT, prices) for layer in layers]
    assert sum(parts) == pytest.approx(whole)


def test_an_onnx_graph_is_read_as_an_engine_runs_it(tmp_path: Path) -> None:
    model = read_layers(tmp_path)
    kinds = [layer.kind for layer in model.layers]
    assert kinds == [
        LayerKind.CONVOLUTION,
        LayerKind.DEPTHWISE,
        LayerKind.EXPONENTIAL,
        LayerKind.OTHER,
        LayerKind.MOVE,
        LayerKind.DENSE,
    ]
    assert model.unknown == ()
    conv, depthwise, _, _, move, dense = model.layers
    assert (conv.in_channels, conv.out_channels, conv.plane) == (3, 8, (6, 6))
    assert conv.macs == 8 * 3 * 9 * 36
    assert (depthwise.groups, depthwise.macs) == (8, 8 * 9 * 36)
    assert (move.inputs, move.outputs) == (288, 288)
    assert (dense.macs, dense.weights, dense.in_channels) == (36 * 8 * 4, 32, 8)


def test_a_tflite_graph_is_read_too(shared_data: Path) -> None:
    path = shared_data / "kws-dscnn" / "kws_ref_model.tflite"
    model = list_layers(read_graph(path))
    kinds = [layer.kind for layer in model.layers]
    assert kinds.count(LayerKind.DEPTHWISE) == 4
    assert kinds.count(LayerKind.CONVOLUTION) == 5
    assert kinds.count(LayerKind.DENSE) == 1
    assert sum(layer.macs for layer in model.layers) == 2_656_768


def read_layers(folder: Path) -> ModelLayers:
    """Convolution, activation, depthwise, sigmoid, product, transpose, dense."""
    generator = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name)

    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            node("Relu", ["a"], ["b"]),
            node("Conv", ["b", "d"], ["c"], pads=[1, 1, 1, 1], group=8),
            node("Sigmoid", ["c"], ["s"]),
            node("Mul", ["c", "s"], ["m"]),
            node("Transpose", ["m"], ["t"], perm=[0, 2, 3, 1]),
            node("MatMul", ["t", "k"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 6, 4])],
        [weights("w", 8, 3, 3, 3), weights("d", 8, 1, 3, 3), weights("k", 8, 4)],
    )
    path = folder / "m.onnx"
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return list_layers(read_graph(path))
