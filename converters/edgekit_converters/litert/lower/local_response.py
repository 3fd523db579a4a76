"""Local response normalisation, over neighbouring channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import channels_last
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from edgekit_converters.graph import Node

_IMAGE_RANK = 4


@lowers("LRN", layout=channels_last)
def lower_local_response_normalization(build: Builder, node: Node) -> None:
    """LiteRT's operator, whose alpha is not divided by the size, or a product with a band."""
    steps = Steps(build, node)
    value = steps.input()
    size = node.integer("size", 1)
    alpha = node.number("alpha", 1e-4) / size
    beta, bias = node.number("beta", 0.75), node.number("bias", 1.0)
    if size % 2 and len(value.shape) == _IMAGE_RANK:
        steps.finish(
            steps.unary(
                "LOCAL_RESPONSE_NORMALIZATION", value, radius=size // 2, bias=bias,
                alpha=alpha, beta=beta,
            )
        )  # fmt: skip
        return
    channels = value.shape[-1]
    if channels is None:
        raise RefusedNodeError("its number of channels is free")
    # Of an even number of neighbours, one more comes behind.
    apart = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    band = (apart >= -((size - 1) // 2)) & (apart <= size // 2)
    neighbours = steps.matmul(
        steps.square(value), steps.constant(band.T.astype(np.float32), "band")
    )
    scale = steps.pow(steps.add(steps.mul(neighbours, alpha), bias), beta)
    steps.finish(steps.div(value, scale))
