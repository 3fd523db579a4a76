"""Train the transformer encoder that the tests quantize: it reads a digit row by row.

Run by hand, from the root of the repository, with PyTorch installed; what it writes is shipped:

    python -m tests.converters.networks.encoder.train

About 20 seconds on one core. The data are those of `examples/digits`.
"""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.converters.networks.definitions.transformer import TorchEncoder

FOLDER = Path(__file__).parent
DATA = FOLDER.parents[3] / "examples" / "digits" / "assets"
SEED = 20261125
EPOCHS, BATCH, RATE = 60, 50, 3e-3


class RowReader(nn.Module):
    """PyTorch's own encoder layers over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = TorchEncoder(length=8, features=8, width=32, heads=4, layers=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.encoder(image[:, 0])


def read(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(DATA / f"{split}.npz") as data:
        return torch.from_numpy(data["image"]), torch.from_numpy(data["labels"])


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by at most one pixel."""
    wide = nn.functional.pad(images, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack(
        [
            image[:, row : row + 8, column : column + 8]
            for image, (row, column) in zip(wide, moves, strict=True)
        ]
    )


def train() -> RowReader:
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    network = RowReader()
    images, labels = read("train")
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    steps = EPOCHS * len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    network.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            loss = nn.functional.cross_entropy(
                network(shifted(images[chosen], generator)), labels[chosen]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def main() -> None:
    network = train()
    images, labels = read("test")
    with torch.no_grad():
        accuracy = (network(images).argmax(1) == labels).float().mean().item()
    content = io.BytesIO()
    options: dict[str, Any] = {
        "input_names": ["image"],
        "output_names": ["logits"],
        "dynamic_axes": {"image": {0: "batch"}, "logits": {0: "batch"}},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (images[:2],), content, dynamo=False, opset_version=17, **options
        )
    path = FOLDER / "digits_encoder.onnx"
    path.write_bytes(content.getvalue())
    sys.stdout.write(f"{path}: {path.stat().st_size} bytes, {accuracy:.2%} of the test split\n")


if __name__ == "__main__":
    main()
