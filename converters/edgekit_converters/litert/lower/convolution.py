"""Convolutions over one or two spatial axes: plain, grouped, depthwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.litert.layout import channels_last
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import emit_image, image_of, image_window, pad_image

if TYPE_CHECKING:
    from edgekit_converters.graph import Node


@lowers("Conv", layout=channels_last)
def lower_conv(build: Builder, node: Node) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D where every group has one input channel."""
    weights = build.constant_of(node, 1)
    if weights is None:
        raise RefusedNodeError("its weights are missing")
    if weights.ndim == 3:  # noqa: PLR2004 - one spatial axis: a second of size one
        weights = weights[:, :, None, :]
    if weights.ndim != 4:  # noqa: PLR2004
        raise RefusedNodeError(f"it has {weights.ndim - 2} spatial axes, supported: 1, 2")
    image = image_of(build, node)
    window = image_window(build, node, (weights.shape[2], weights.shape[3]))
    image = pad_image(build, node, image, window, 0.0)
    groups = node.integer("group", 1)
    depthwise = groups > 1 and weights.shape[1] == 1 and image.shape[-1] == groups
    order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    kernel = build.constant(node.input(1), np.ascontiguousarray(weights.transpose(order)))
    bias = build.constant_of(node, 2)
    if bias is None:
        bias = np.zeros(weights.shape[0], dtype=np.float32)
    options: dict[str, Any] = {
        "padding": "SAME" if window.padding == "SAME" else "VALID",
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "dilationHFactor": window.dilations[0],
        "dilationWFactor": window.dilations[1],
        "fusedActivationFunction": "NONE",
    }
    if depthwise:
        options["depthMultiplier"] = weights.shape[0] // groups
    emit_image(
        build,
        node,
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
        [image, kernel, build.constant(node.input(2) or f"{node.outputs[0]}/bias", bias)],
        options,
    )
