"""Detection: a backbone of two scales, and heads that turn its features into boxes.

The YOLO head is v5's: a focus of strided slices, sigmoids, a grid that is added, anchors. The SSD
head (Liu et al. 2016, arXiv 1512.02325) decodes offsets from priors and keeps the best scores.
"""

from __future__ import annotations

import torch
from torch import nn

from tests.converters.networks.definitions.blocks import conv_norm


class Focus(nn.Module):
    """Every second pixel of each of four phases, as channels."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layer = conv_norm(12, outputs, 3, activation=nn.SiLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        phases = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.layer(torch.cat(phases, dim=1))


class Backbone(nn.Module):
    """Features at an eighth and a sixteenth of the image's size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            Focus(width),
            conv_norm(width, 2 * width, 3, stride=2, activation=nn.SiLU()),
            conv_norm(2 * width, 2 * width, 3, stride=2, activation=nn.SiLU()),
        )
        self.deeper = conv_norm(2 * width, 4 * width, 3, stride=2, activation=nn.SiLU())

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = self.stem(image)
        return fine, self.deeper(fine)


class YoloDetector(nn.Module):
    """Boxes (x, y, width, height), objectness and class scores of every cell and anchor."""

    ANCHORS = (((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
               ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)))  # fmt: skip
    STRIDES = (8, 16)

    def __init__(self, *, size: int, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.values = 5 + classes
        self.backbone = Backbone(width)
        self.heads = nn.ModuleList(
            nn.Conv2d(channels, 3 * self.values, 1) for channels in (2 * width, 4 * width)
        )
        for level, (stride, anchors) in enumerate(zip(self.STRIDES, self.ANCHORS, strict=True)):
            cells = torch.arange(size // stride, dtype=torch.float32)
            y, x = torch.meshgrid(cells, cells, indexing="ij")
            self.register_buffer(f"grid{level}", torch.stack((x, y), 2)[None, None])
            self.register_buffer(f"anchors{level}", torch.tensor(anchors)[None, :, None, None])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = []
        for level, features in enumerate(self.backbone(image)):
            raw = self.heads[level](features)
            batch, _, height, width = raw.shape
            cells = raw.view(batch, 3, self.values, height, width).permute(0, 1, 3, 4, 2)
            scores = cells.sigmoid()
            centre, extent, rest = scores.split((2, 2, self.values - 4), dim=4)
            grid, anchors = getattr(self, f"grid{level}"), getattr(self, f"anchors{level}")
            centre = (centre * 2.0 - 0.5 + grid) * self.STRIDES[level]
            extent = (extent * 2.0) ** 2 * anchors
            boxes = torch.cat((centre, extent, rest), dim=4)
            found.append(boxes.reshape(batch, -1, self.values))
        return torch.cat(found, dim=1)


class SsdDetector(nn.Module):
    """Corners, scores and classes of the best boxes, without suppression of overlaps."""

    VARIANCES = (0.1, 0.2)

    def __init__(self, *, size: int, width: int = 16, classes: int = 4, best: int = 20) -> None:
        super().__init__()
        self.classes, self.best = classes, best
        self.backbone = Backbone(width)
        channels = (2 * width, 4 * width)
        self.boxes = nn.ModuleList(nn.Conv2d(c, 2 * 4, 3, padding=1) for c in channels)
        self.scores = nn.ModuleList(nn.Conv2d(c, 2 * classes, 3, padding=1) for c in channels)
        priors = []
        for stride in (8, 16):
            cells = (torch.arange(size // stride) + 0.5) * stride / size
            y, x = torch.meshgrid(cells, cells, indexing="ij")
            for extent in (2.0, 4.0):
                wide = torch.full_like(x, extent * stride / size)
                priors.append(torch.stack((x, y, wide, wide), 2).reshape(-1, 4))
        first, second = (torch.stack(priors[at : at + 2], 1).reshape(-1, 4) for at in (0, 2))
        self.register_buffer("priors", torch.cat((first, second))[None])

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        offsets, logits = [], []
        for box, score, features in zip(self.boxes, self.scores, self.backbone(image), strict=True):
            offsets.append(box(features).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
            cells = score(features).permute(0, 2, 3, 1).flatten(1)
            logits.append(cells.unflatten(1, (-1, self.classes)))
        offset = torch.cat(offsets, dim=1)
        scores = torch.softmax(torch.cat(logits, dim=1), dim=2)
        centre = self.priors[..., :2] + offset[..., :2] * self.VARIANCES[0] * self.priors[..., 2:]
        extent = self.priors[..., 2:] * torch.exp(offset[..., 2:] * self.VARIANCES[1])
        corners = torch.cat((centre - extent / 2, centre + extent / 2), dim=2)
        # The last class is the background.
        score, label = scores[..., :-1].max(dim=2)
        score, index = torch.topk(score, self.best, dim=1)
        chosen = torch.gather(corners, 1, index.unsqueeze(2).expand(-1, -1, 4))
        return chosen, score, torch.gather(label, 1, index)
