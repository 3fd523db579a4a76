"""Every network that the tests convert: how to build it, what it takes, how it is exported."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tests.converters.networks.definitions.blocks import settle
from tests.converters.networks.definitions.convolutional import (
    Embedder,
    ShuffleNet,
    SubPixelUpscaler,
)
from tests.converters.networks.definitions.detection import SsdDetector, YoloDetector
from tests.converters.networks.definitions.mobilenet import (
    EfficientNetLite,
    MobileNetV1,
    MobileNetV2,
    MobileNetV3,
)
from tests.converters.networks.definitions.recurrent import Recurrent
from tests.converters.networks.definitions.resnet import BasicBlock, Bottleneck, ResNet
from tests.converters.networks.definitions.transformer import TorchEncoder, VisionTransformer
from tests.converters.networks.definitions.unet import UNet

Exporter = Literal["dynamo", "torchscript"]
# The newest that a released runtime of each exporter's time reads.
OPSETS: dict[Exporter, int] = {"dynamo": 18, "torchscript": 17}


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One network of the catalogue.

    Attributes:
        name: Of the test.
        build: Makes the module; its weights are settled afterwards.
        input: Name of its one input.
        shape: Of one sample.
        outputs: Names of its outputs.
    """

    name: str
    build: Callable[[], nn.Module]
    input: str
    shape: tuple[int, ...]
    outputs: tuple[str, ...] = ("scores",)


def _images(name: str, build: Callable[[], nn.Module], size: int, *outputs: str) -> Network:
    return Network(
        name=name,
        build=build,
        input="image",
        shape=(3, size, size),
        outputs=outputs or ("scores",),
    )


def _sequences(name: str, build: Callable[[], nn.Module], *shape: int) -> Network:
    return Network(name=name, build=build, input="sequence", shape=shape)


NETWORKS: tuple[Network, ...] = (
    _images("mobilenet_v1", lambda: MobileNetV1(width=0.25, classes=20), 64),
    _images("mobilenet_v2", lambda: MobileNetV2(width=0.25, classes=20), 64),
    _images("mobilenet_v3", lambda: MobileNetV3(width=0.25, classes=20), 64),
    _images(
        "mobilenet_v3_written_out",
        lambda: MobileNetV3(width=0.25, classes=20, written_out=True),
        64,
    ),
    _images("efficientnet_lite", lambda: EfficientNetLite(width=0.25, classes=20), 64),
    _images("resnet_basic", lambda: ResNet(BasicBlock, (2, 2, 2, 2), width=16, classes=20), 64),
    _images("resnet_bottleneck", lambda: ResNet(Bottleneck, (1, 2, 2, 1), width=8, classes=20), 64),
    _images("unet_transposed", lambda: UNet(widths=(8, 16, 32)), 32, "mask"),
    _images("unet_nearest", lambda: UNet(widths=(8, 16, 32), resize="nearest"), 32, "mask"),
    _images("unet_bilinear", lambda: UNet(widths=(8, 16, 32), resize="bilinear"), 32, "mask"),
    _images("yolo", lambda: YoloDetector(size=64, width=8), 64, "boxes"),
    _images("ssd", lambda: SsdDetector(size=64, width=8), 64, "boxes", "scores", "labels"),
    _images("shufflenet", ShuffleNet, 32),
    _images("sub_pixel", SubPixelUpscaler, 24, "enlarged"),
    _images("embedder", Embedder, 32, "embedding"),
    _sequences("encoder_gelu", lambda: TorchEncoder(length=12, features=6), 12, 6),
    _sequences(
        "encoder_relu_pre_norm",
        lambda: TorchEncoder(length=12, features=6, activation="relu", norm_first=True),
        12, 6,
    ),
    _images("vit", lambda: VisionTransformer(size=32, patch=8), 32),
    _images("vit_tanh_rms", lambda: VisionTransformer(size=32, patch=8, gelu="tanh", rms=True), 32),
    _sequences("lstm", lambda: Recurrent(nn.LSTM, features=8), 10, 8),
    _sequences(
        "lstm_two_ways", lambda: Recurrent(nn.LSTM, features=8, layers=2, bidirectional=True), 10, 8
    ),
    _sequences(
        "lstm_state", lambda: Recurrent(nn.LSTM, features=8, layers=2, final_state=True), 10, 8
    ),
    _sequences("gru", lambda: Recurrent(nn.GRU, features=8), 10, 8),
    _sequences(
        "gru_two_ways", lambda: Recurrent(nn.GRU, features=8, bidirectional=True), 10, 8
    ),
    _sequences("gru_state", lambda: Recurrent(nn.GRU, features=8, final_state=True), 10, 8),
)  # fmt: skip


def settled(network: Network) -> nn.Module:
    """Build a network with the same weights each time."""
    torch.manual_seed(0)
    return settle(network.build(), [torch.zeros(8, *network.shape)])


def export(
    network: Network, path: Path, exporter: Exporter, *, opset: int = 0, batch: int | None = None
) -> None:
    """Write a settled network as ONNX.

    Args:
        network: Which.
        path: Where to.
        exporter: PyTorch's new one or its old one.
        opset: ONNX's; 0 for the exporter's in `OPSETS`.
        batch: A fixed batch; free where it is None.
    """
    example = torch.randn(batch or 2, *network.shape, generator=torch.manual_seed(3))
    free = batch is None
    common: dict[str, Any] = {
        "input_names": [network.input],
        "output_names": list(network.outputs),
        "opset_version": opset or OPSETS[exporter],
    }
    with _quietly():
        if exporter == "dynamo":
            torch.onnx.export(
                settled(network),
                (example,),
                str(path),
                dynamo=True,
                external_data=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},) if free else None,
                **common,
            )
        else:
            torch.onnx.export(
                settled(network),
                (example,),
                str(path),
                dynamo=False,
                dynamic_axes={name: {0: "batch"} for name in (network.input, *network.outputs)}
                if free
                else None,
                **common,
            )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporters print, log, and warn of what they deprecate in each other."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
