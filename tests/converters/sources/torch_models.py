"""What the tests of PyTorch sources export; a module of its own, because a factory is named."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Convolutional(nn.Module):
    """A small image classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.head(self.features(image).flatten(1)), dim=-1)


class Recurrent(nn.Module):
    """Tokens in, and two named outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 12, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        steps, (state, _) = self.lstm(self.embed(tokens))
        return {"logits": self.head(steps[:, -1]) * scale, "state": state[-1]}


class OneAtATime(Convolutional):
    """Takes exactly one image."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image).reshape(1, 5)


class Decomposing(nn.Module):
    """Uses what ONNX does not have, twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = torch.linalg.eigvalsh(x @ x.transpose(1, 2))
        return values + torch.special.i1(values)


class SavesFiles(nn.Module):
    """A program that writes a file when it runs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "/tmp/edgekit-must-not-be-written")
        return x + 1


def convolutional() -> nn.Module:
    torch.manual_seed(3)
    return Convolutional()


def needs_arguments(width: int) -> nn.Module:
    return nn.Linear(width, 1)


def no_module() -> Any:
    return {"weights": 1}


def breaks() -> nn.Module:
    raise RuntimeError("no such device")
