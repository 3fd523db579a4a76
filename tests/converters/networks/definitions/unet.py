"""U-Net, Ronneberger et al. 2015 (arXiv 1505.04597), padded so that sizes stay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from tests.converters.networks.definitions.blocks import conv_norm


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm(inputs, outputs, 3, activation=nn.ReLU()),
        conv_norm(outputs, outputs, 3, activation=nn.ReLU()),
    )


class UNet(nn.Module):
    """Down, across and up again; upwards by transposed convolutions, or by resizing.

    Args:
        widths: Channels of each level.
        classes: Channels of the result.
        resize: "" for transposed convolutions, else the mode of interpolation.
    """

    def __init__(
        self, *, widths: Sequence[int] = (64, 128, 256, 512), classes: int = 2, resize: str = ""
    ) -> None:
        super().__init__()
        self.resize = resize
        self.down = nn.ModuleList(
            _double(before, after) for before, after in zip((3, *widths[:-1]), widths, strict=True)
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.widen = nn.ModuleList(
            nn.Conv2d(deep, shallow, 1) if resize else nn.ConvTranspose2d(deep, shallow, 2, 2)
            for deep, shallow in pairs
        )
        self.up = nn.ModuleList(_double(2 * shallow, shallow) for _, shallow in pairs)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        kept = []
        x = image
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for widen, block, across in zip(self.widen, self.up, kept[-2::-1], strict=True):
            x = self._double_size(widen(x))
            x = block(torch.cat([across, x], dim=1))
        return self.head(x)

    def _double_size(self, x: torch.Tensor) -> torch.Tensor:
        if not self.resize:
            return x
        aligned = None if self.resize == "nearest" else False
        return functional.interpolate(x, scale_factor=2.0, mode=self.resize, align_corners=aligned)
