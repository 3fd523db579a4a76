"""Whole networks from PyTorch, through both of its exporters, against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgekit_runtime.session import open_session

pytest.importorskip("torch", reason="PyTorch is not installed")

from tests.converters.networks.agreement import assert_agrees, convert
from tests.converters.networks.catalogue import (
    NETWORKS,
    Exporter,
    Network,
    export,
)

BY_NAME = {network.name: network for network in NETWORKS}
CONVOLUTION = {"CONV_2D", "DEPTHWISE_CONV_2D"}
HEAD = {"MEAN", "RESHAPE", "FULLY_CONNECTED"}
# What a network may consist of, and how many transposes: one at the border for an image, one more
# for an image that comes out. Stride 2 with PyTorch's padding on both sides is no padding that
# LiteRT has, hence PAD.
EXPECTED: dict[str, tuple[set[str], int]] = {
    "mobilenet_v1": ({*CONVOLUTION, *HEAD, "PAD"}, 1),
    "mobilenet_v2": ({*CONVOLUTION, *HEAD, "PAD", "ADD"}, 1),
    "mobilenet_v3": ({*CONVOLUTION, *HEAD, "PAD", "ADD", "MUL", "HARD_SWISH"}, 1),
    "mobilenet_v3_written_out": (
        {*CONVOLUTION, *HEAD, "PAD", "ADD", "MUL", "HARD_SWISH"}, 1,
    ),
    "efficientnet_lite": ({*CONVOLUTION, *HEAD, "PAD", "ADD"}, 1),
    "resnet_basic": ({*CONVOLUTION, *HEAD, "PAD", "ADD", "MAX_POOL_2D"}, 1),
    "resnet_bottleneck": ({*CONVOLUTION, *HEAD, "PAD", "ADD", "MAX_POOL_2D"}, 1),
    # Its transposed convolutions are as wide as their steps: plain ones, and blocks of pixels.
    "unet_transposed": ({"CONV_2D", "DEPTH_TO_SPACE", "MAX_POOL_2D", "CONCATENATION"}, 2),
    "unet_nearest": ({"CONV_2D", "MAX_POOL_2D", "CONCATENATION", "RESIZE_NEAREST_NEIGHBOR"}, 2),
    "unet_bilinear": ({"CONV_2D", "MAX_POOL_2D", "CONCATENATION", "RESIZE_BILINEAR"}, 2),
    "shufflenet": (
        {*CONVOLUTION, *HEAD, "PAD", "CONCATENATION", "GATHER", "SLICE", "SPLIT"}, 1,
    ),
    "embedder": (
        {"CONV_2D", *HEAD, "PAD", "PRELU", "ELU", "SQUARE", "SUM", "SQRT", "MAXIMUM", "DIV"}, 1,
    ),
}  # fmt: skip
# Of the others, how many transposes: attention moves queries, keys and values apart, and back.
TRANSPOSES = {
    "yolo": 3, "sub_pixel": 2, "encoder_gelu": 8, "encoder_relu_pre_norm": 8, "vit": 5,
    "vit_tanh_rms": 5, "lstm": 1, "lstm_state": 1, "gru": 1, "gru_state": 1,
}  # fmt: skip
EXPORTERS: tuple[Exporter, ...] = ("torchscript", "dynamo")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


def exported(network: Network, folder: Path, exporter: Exporter) -> Path:
    path = folder / f"{network.name}_{exporter}.onnx"
    if not path.exists():
        export(network, path, exporter)
    return path


def cases() -> list[object]:
    """Every network through both exporters; the new one takes seconds for each."""
    return [
        pytest.param(
            network, exporter, id=f"{network.name}-{exporter}",
            marks=[pytest.mark.slow] if exporter == "dynamo" else [],
        )
        for network in NETWORKS
        for exporter in EXPORTERS
    ]  # fmt: skip


@pytest.mark.parametrize(("network", "exporter"), cases())
def test_networks_agree_with_onnxruntime(
    network: Network, exporter: Exporter, folder: Path
) -> None:
    source = exported(network, folder, exporter)
    target, operators = convert(source)
    assert_agrees(source, target)
    if network.name in EXPECTED:
        allowed, transposes = EXPECTED[network.name]
        assert set(operators) - {"TRANSPOSE"} <= allowed
        assert operators["TRANSPOSE"] == transposes
    if network.name in TRANSPOSES:
        assert operators["TRANSPOSE"] == TRANSPOSES[network.name]


@pytest.mark.parametrize("opset", [9, 11, 13, 15, 20])
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3", "lstm", "embedder"])
def test_every_opset_is_read(name: str, opset: int, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    export(BY_NAME[name], source, "torchscript", opset=opset)
    target, _ = convert(source)
    assert_agrees(source, target)


@pytest.mark.parametrize("name", ["mobilenet_v2", "ssd", "vit", "gru_two_ways"])
def test_a_fixed_batch_is_kept(name: str, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    export(BY_NAME[name], source, "torchscript", batch=2)
    target, _ = convert(source)
    assert_agrees(source, target)
    assert open_session(target).inputs[0].shape[0] == 2


@pytest.mark.parametrize("name", ["mobilenet_v2", "unet_bilinear", "encoder_gelu", "lstm"])
def test_a_free_batch_is_written_into_the_signature(name: str, folder: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    target, _ = convert(exported(BY_NAME[name], folder, "torchscript"))
    interpreter = Interpreter(model_path=str(target))
    (detail,) = interpreter.get_input_details()
    assert list(detail["shape_signature"]) == [-1, *BY_NAME[name].shape]
    for detail in interpreter.get_output_details():
        assert detail["shape_signature"][0] == -1


def test_layers_keep_their_names(folder: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    source = exported(BY_NAME["mobilenet_v2"], folder, "torchscript")
    target, _ = convert(source)
    known = {tensor["name"] for tensor in Interpreter(str(target)).get_tensor_details()}
    layers = [
        node for node in onnx.load(str(source)).graph.node if node.op_type in {"Conv", "Gemm"}
    ]
    # The weights; and what a layer with its fused activation computes, where the activation does.
    assert {layer.input[1] for layer in layers} <= known
    assert "/features/features.1/layers/layers.0/layers.0.2/Clip_output_0" in known
