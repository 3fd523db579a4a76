"""Layers that several networks share, and weights that keep activations in range."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

_PASSES = 4


def round_channels(channels: float, divisor: int = 8) -> int:
    """A channel count as the MobileNet papers round it: a multiple that loses at most a tenth."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution without bias, batch normalization, and an activation where one is given."""
    padding = (kernel - 1) // 2
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([activation] if activation is not None else []))


def settle(network: nn.Module, example: Sequence[torch.Tensor], *, seed: int = 1) -> nn.Module:
    """Random weights under which no activation dies or explodes, in evaluation mode.

    Weights have the variance that keeps a signal's energy; the statistics of each batch
    normalization are those of random inputs of the example's shape, as after training.
    """
    generator = torch.manual_seed(seed)
    norms = []
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = None
            norms.append(module)
        elif isinstance(module, nn.MultiheadAttention):
            nn.init.xavier_normal_(module.in_proj_weight)
            nn.init.normal_(module.in_proj_bias, std=0.1)
        elif isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias, std=0.2)
    network.eval()
    for norm in norms:
        norm.train()
    if norms:
        with torch.no_grad():
            for _ in range(_PASSES):
                network(*(torch.randn(x.shape, generator=generator) for x in example))
    return network.eval()
