"""The two networks: a small first version and a larger second one.

Both take `image` [batch, 1, 8, 8] and give `logits` [batch, 10], and use only operators that
every inference engine has: Conv, Relu, MaxPool, Reshape and Gemm.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CLASSES = 10


class SmallNetwork(nn.Module):
    """Two narrow convolutions and two fully connected layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(8, 24, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(24 * 2 * 2, 64)
        self.fc2 = nn.Linear(64, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Score each class for images of shape [batch, 1, 8, 8]."""
        x = self.pool(torch.relu(self.conv1(image)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc2(x)


class LargerNetwork(nn.Module):
    """Three normalised convolutions and two fully connected layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, kernel_size=3, padding=1)
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 32, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 48, kernel_size=3, padding=1)
        self.bn3 = nn.BatchNorm2d(48)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(48 * 2 * 2, 96)
        self.dropout = nn.Dropout(0.3)
        self.fc2 = nn.Linear(96, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Score each class for images of shape [batch, 1, 8, 8]."""
        x = torch.relu(self.bn1(self.conv1(image)))
        x = self.pool(torch.relu(self.bn2(self.conv2(x))))
        x = self.pool(torch.relu(self.bn3(self.conv3(x))))
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc2(self.dropout(x))


def for_inference(network: nn.Module) -> nn.Module:
    """Copy a trained network with each `bnN` folded into its `convN`.

    Folding here, and not in the exporter, keeps the weights under their own names.
    """
    network = copy.deepcopy(network).eval()
    for name, module in list(network.named_children()):
        if isinstance(module, nn.BatchNorm2d):
            conv_name = name.replace("bn", "conv")
            fused = fuse_conv_bn_eval(network.get_submodule(conv_name), module)
            setattr(network, conv_name, fused)
            setattr(network, name, nn.Identity())
    return network
