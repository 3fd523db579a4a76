"""A MobileNetV2 of full width: 3.5 million weights, 14 MB.

Sandler et al. 2018 (arXiv 1801.04381). Its weights are random; what it costs to convert is not.
"""

from __future__ import annotations

from typing import Any

from layers import Layers

# Expansion, channels, repeats, stride.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
          (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip


def mobilenet() -> Any:
    """The network as an `onnx.ModelProto`."""
    layers = Layers()
    value, channels = layers.relu6(layers.convolve("image", 3, 32, kernel=3, stride=2)), 32
    for expansion, wide, repeats, stride in STAGES:
        for repeat in range(repeats):
            step = 1 if repeat else stride
            value, channels = _block(layers, value, channels, wide, expansion, step), wide
    value = layers.relu6(layers.convolve(value, channels, 1280))
    return layers.classifier("mobilenet_v2", value, 1280)


def _block(
    layers: Layers, source: str, inputs: int, outputs: int, expansion: int, stride: int
) -> str:
    hidden = inputs * expansion
    value = source
    if expansion > 1:
        value = layers.relu6(layers.convolve(value, inputs, hidden))
    value = layers.convolve(value, hidden, hidden, kernel=3, stride=stride, groups=hidden)
    value = layers.convolve(layers.relu6(value), hidden, outputs)
    return value if stride > 1 or inputs != outputs else layers.add(source, value)
