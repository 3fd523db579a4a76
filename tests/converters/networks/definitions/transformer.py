"""Transformer encoders, Vaswani et al. 2017 (arXiv 1706.03762), as they are commonly written."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class TorchEncoder(nn.Module):
    """PyTorch's own encoder layers over a sequence of feature vectors."""

    def __init__(
        self,
        *,
        length: int,
        features: int,
        width: int = 32,
        heads: int = 4,
        layers: int = 2,
        classes: int = 10,
        activation: str = "gelu",
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.position = nn.Parameter(0.1 * torch.randn(1, length, width))
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            dim_feedforward=2 * width,
            activation=activation,
            batch_first=True,
            norm_first=norm_first,
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(self.embed(sequence) + self.position)
        return self.head(hidden.mean(dim=1))


class WrittenOutLayer(nn.Module):
    """Pre-norm attention and a feed-forward part, their arithmetic written out.

    Args:
        width: Size of a token.
        heads: Of the attention.
        gelu: "none" for the exact form, "tanh" for the approximation.
        rms: Normalise by the root of the mean square alone.
    """

    def __init__(self, width: int, heads: int, *, gelu: str, rms: bool) -> None:
        super().__init__()
        self.heads, self.gelu, self.rms = heads, gelu, rms
        self.scale = nn.Parameter(torch.ones(2, width))
        self.shift = nn.Parameter(torch.zeros(2, width))
        self.projections = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def _norm(self, x: torch.Tensor, number: int) -> torch.Tensor:
        if self.rms:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale[number]
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        return centred / torch.sqrt(variance + 1e-6) * self.scale[number] + self.shift[number]

    def _gelu(self, x: torch.Tensor) -> torch.Tensor:
        if self.gelu == "tanh":
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))
            return 0.5 * x * (1 + torch.tanh(inner))
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.projections(self._norm(x, 0))
        parts = parts.reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
        mixed = (functional.softmax(scores, dim=-1) @ value).transpose(1, 2)
        x = x + self.join(mixed.reshape(batch, length, width))
        return x + self.narrow(self._gelu(self.widen(self._norm(x, 1))))


class VisionTransformer(nn.Module):
    """Patches of an image as tokens: Dosovitskiy et al. 2020 (arXiv 2010.11929)."""

    def __init__(
        self,
        *,
        size: int,
        patch: int,
        channels: int = 3,
        width: int = 32,
        heads: int = 4,
        layers: int = 2,
        classes: int = 10,
        gelu: str = "none",
        rms: bool = False,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(0.1 * torch.randn(1, (size // patch) ** 2, width))
        self.layers = nn.ModuleList(
            WrittenOutLayer(width, heads, gelu=gelu, rms=rms) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(dim=1))
