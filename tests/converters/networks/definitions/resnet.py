"""ResNet with basic and with bottleneck blocks: He et al. 2015 (arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tests.converters.networks.definitions.blocks import conv_norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv_norm(inputs, width, 3, stride=stride, activation=nn.ReLU()),
            conv_norm(width, width, 3),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            self.shortcut = conv_norm(inputs, width, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layers(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 beside a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.layers = nn.Sequential(
            conv_norm(inputs, width, activation=nn.ReLU()),
            conv_norm(width, width, 3, stride=stride, activation=nn.ReLU()),
            conv_norm(width, outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = conv_norm(inputs, outputs, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layers(x) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-18 is four times two basic blocks, ResNet-50 is 3, 4, 6, 3 bottlenecks."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        repeats: Sequence[int],
        *,
        width: int = 64,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_norm(3, width, 7, stride=2, activation=nn.ReLU()),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels = width
        blocks: list[nn.Module] = []
        for stage, count in enumerate(repeats):
            for number in range(count):
                stride = 2 if stage and not number else 1
                blocks.append(block(channels, width << stage, stride=stride))
                channels = (width << stage) * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.pool(self.blocks(self.stem(image)))
        return self.classifier(torch.flatten(features, 1))
