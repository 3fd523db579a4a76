"""A ResNet-50: 25.6 million weights, 102 MB.

He et al. 2015 (arXiv 1512.03385). Its weights are random; what it costs to convert is not.
"""

from __future__ import annotations

from typing import Any

from layers import Layers

# Channels, repeats, stride.
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
WIDENED = 4


def resnet() -> Any:
    """The network as an `onnx.ModelProto`."""
    layers = Layers()
    value = layers.pool(layers.relu(layers.convolve("image", 3, 64, kernel=7, stride=2)))
    channels = 64
    for narrow, repeats, stride in STAGES:
        for repeat in range(repeats):
            value = _block(layers, value, channels, narrow, 1 if repeat else stride)
            channels = narrow * WIDENED
    return layers.classifier("resnet_50", value, channels)


def _block(layers: Layers, source: str, inputs: int, narrow: int, stride: int) -> str:
    outputs = narrow * WIDENED
    value = layers.relu(layers.convolve(source, inputs, narrow))
    value = layers.relu(layers.convolve(value, narrow, narrow, kernel=3, stride=stride))
    value = layers.convolve(value, narrow, outputs)
    if inputs != outputs:
        source = layers.convolve(source, inputs, outputs, stride=stride)
    return layers.relu(layers.add(source, value))
