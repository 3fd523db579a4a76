"""MobileNet V1, V2 and V3, and EfficientNet-lite.

Howard et al. 2017 (arXiv 1704.04861), Sandler et al. 2018 (1801.04381), Howard et al. 2019
(1905.02244), and the TPU repository's description of EfficientNet-lite.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from tests.converters.networks.definitions.blocks import conv_norm, round_channels


class MobileNetV1(nn.Module):
    """Depthwise convolutions, each followed by a pointwise one."""

    LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
              *(((512, 1),) * 5), (1024, 2), (1024, 1))  # fmt: skip

    def __init__(self, *, width: float = 1.0, classes: int = 1000) -> None:
        super().__init__()
        channels = round_channels(32 * width)
        blocks = [conv_norm(3, channels, 3, stride=2, activation=nn.ReLU())]
        for outputs, stride in self.LAYERS:
            wide = round_channels(outputs * width)
            blocks += [
                conv_norm(
                    channels, channels, 3, stride=stride, groups=channels, activation=nn.ReLU()
                ),
                conv_norm(channels, wide, activation=nn.ReLU()),
            ]
            channels = wide
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(image)), 1))


class InvertedResidual(nn.Module):
    """Expand, filter by channel, project; the narrow ends are joined."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        hidden: int,
        activation: Callable[[], nn.Module],
        squeeze: nn.Module | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(conv_norm(inputs, hidden, activation=activation()))
        layers.append(
            conv_norm(hidden, hidden, kernel, stride=stride, groups=hidden, activation=activation())
        )
        if squeeze is not None:
            layers.append(squeeze)
        layers.append(conv_norm(hidden, outputs))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV2(nn.Module):
    """Inverted residuals with linear bottlenecks: expansion, channels, repeats, stride."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
              (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip

    def __init__(self, *, width: float = 1.0, classes: int = 1000) -> None:
        super().__init__()
        channels = round_channels(32 * width)
        blocks: list[nn.Module] = [conv_norm(3, channels, 3, stride=2, activation=nn.ReLU6())]
        for expansion, outputs, repeats, stride in self.STAGES:
            wide = round_channels(outputs * width)
            for repeat in range(repeats):
                blocks.append(
                    InvertedResidual(
                        channels,
                        wide,
                        stride=1 if repeat else stride,
                        hidden=channels * expansion,
                        activation=nn.ReLU6,
                    )
                )
                channels = wide
        last = round_channels(1280 * max(1.0, width)) if width >= 1 else 128
        blocks.append(conv_norm(channels, last, activation=nn.ReLU6()))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(last, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image).mean([2, 3]))


class WrittenOutSwish(nn.Module):
    """The h-swish of code written before frameworks had it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * functional.relu6(x + 3.0) / 6.0


class WrittenOutSigmoid(nn.Module):
    """The h-sigmoid of code written before frameworks had it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu6(x + 3.0) / 6.0


class SqueezeExcite(nn.Module):
    """Weigh each channel by what all channels hold on average."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        hidden = round_channels(channels / 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.expand(torch.relu(self.reduce(self.pool(x)))))


class MobileNetV3(nn.Module):
    """The small variant: kernel, hidden, outputs, squeeze, h-swish, stride."""

    STAGES = ((3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2),
              (3, 88, 24, False, False, 1), (5, 96, 40, True, True, 2),
              (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
              (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1),
              (5, 288, 96, True, True, 2), (5, 576, 96, True, True, 1),
              (5, 576, 96, True, True, 1))  # fmt: skip

    def __init__(
        self, *, width: float = 1.0, classes: int = 1000, written_out: bool = False
    ) -> None:
        super().__init__()
        swish = WrittenOutSwish if written_out else nn.Hardswish
        sigmoid = WrittenOutSigmoid if written_out else nn.Hardsigmoid
        channels = round_channels(16 * width)
        blocks: list[nn.Module] = [conv_norm(3, channels, 3, stride=2, activation=swish())]
        for kernel, hidden, outputs, squeeze, swishes, stride in self.STAGES:
            wide, inner = round_channels(outputs * width), round_channels(hidden * width)
            blocks.append(
                InvertedResidual(
                    channels,
                    wide,
                    kernel=kernel,
                    stride=stride,
                    hidden=inner,
                    activation=swish if swishes else nn.ReLU,
                    squeeze=SqueezeExcite(inner, sigmoid()) if squeeze else None,
                )
            )
            channels = wide
        last, head = round_channels(576 * width), round_channels(1024 * width)
        blocks.append(conv_norm(channels, last, activation=swish()))
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(last, head), swish(), nn.Dropout(0.2), nn.Linear(head, classes)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(image)), 1))


class EfficientNetLite(nn.Module):
    """Lite0: EfficientNet with Relu6 and without squeeze-and-excitation.

    Kernel, expansion, channels, repeats, stride.
    """

    STAGES = ((3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (5, 6, 40, 2, 2), (3, 6, 80, 3, 2),
              (5, 6, 112, 3, 1), (5, 6, 192, 4, 2), (3, 6, 320, 1, 1))  # fmt: skip

    def __init__(self, *, width: float = 1.0, depth: float = 1.0, classes: int = 1000) -> None:
        super().__init__()
        channels = round_channels(32 * width)
        blocks: list[nn.Module] = [conv_norm(3, channels, 3, stride=2, activation=nn.ReLU6())]
        for kernel, expansion, outputs, repeats, stride in self.STAGES:
            wide = round_channels(outputs * width)
            for repeat in range(math.ceil(repeats * depth)):
                blocks.append(
                    InvertedResidual(
                        channels,
                        wide,
                        kernel=kernel,
                        stride=1 if repeat else stride,
                        hidden=channels * expansion,
                        activation=nn.ReLU6,
                    )
                )
                channels = wide
        last = round_channels(1280 * width)
        blocks.append(conv_norm(channels, last, activation=nn.ReLU6()))
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(image)), 1))
