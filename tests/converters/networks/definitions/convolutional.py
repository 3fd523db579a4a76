"""Networks whose point is one rearrangement: ShuffleNet's channels, sub-pixel upscaling, Mish."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tests.converters.networks.definitions.blocks import conv_norm


class ShuffleBlock(nn.Module):
    """A unit of ShuffleNet V2 (arXiv 1807.11164): half the channels pass, then all are mixed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_norm(half, half, activation=nn.ReLU()),
            conv_norm(half, half, 3, groups=half),
            conv_norm(half, half, activation=nn.ReLU()),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, changed = x.chunk(2, dim=1)
        joined = torch.cat((kept, self.branch(changed)), dim=1)
        batch, channels, height, width = joined.shape
        mixed = joined.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return mixed.reshape(batch, channels, height, width)


class ShuffleNet(nn.Module):
    """A short ShuffleNet V2."""

    def __init__(self, *, width: int = 16, blocks: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_norm(3, width, 3, stride=2, activation=nn.ReLU()),
            *(ShuffleBlock(width) for _ in range(blocks)),
        )
        self.head = nn.Linear(width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image).mean((2, 3)))


class SubPixelUpscaler(nn.Module):
    """Super-resolution by pixel shuffle, Shi et al. 2016 (arXiv 1609.05158), with Mish inside."""

    def __init__(self, *, width: int = 16, factor: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 5, padding=2)
        self.second = nn.Conv2d(width, 3 * factor * factor, 3, padding=1)
        self.shuffle = nn.PixelShuffle(factor)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.shuffle(self.second(functional.mish(self.first(image))))


class Embedder(nn.Module):
    """A unit-length embedding of an image, as for face or speaker recognition."""

    def __init__(self, *, width: int = 16, size: int = 24) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_norm(3, width, 3, stride=2, activation=nn.PReLU(width)),
            conv_norm(width, 2 * width, 3, stride=2, activation=nn.ELU()),
        )
        self.head = nn.Linear(2 * width, size)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pooled = functional.adaptive_avg_pool2d(self.features(image), 1).flatten(1)
        return functional.normalize(self.head(pooled), dim=1)
