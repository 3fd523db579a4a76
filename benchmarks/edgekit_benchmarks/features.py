"""What a latency is made of: the counts of a model that a board has a price for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

from edgekit_benchmarks.layers import Layer, LayerKind

# In the order of every coefficient vector. An engine that multiplies 3x3 windows by Winograd's
# transforms does so in `winograd_macs` products of transformed numbers, and those transforms are
# counted by themselves; all other products, dense ones included, are `product_macs`.
FEATURES: Final = (
    "product_macs",
    "winograd_macs",
    "winograd_elements",
    "unfolded_elements",
    "depthwise_macs",
    "grouped_macs",
    "product_input_elements",
    "product_output_elements",
    "depthwise_elements",
    "weight_elements",
    "other_elements",
    "exponential_elements",
    "operators",
    "far_elements",
    "moved_elements",
    "normalized_elements",
)
UNITS: Final = {
    "product_macs": "multiply-accumulates of convolutions and matrix products",
    "winograd_macs": "multiplications of transformed 3x3 windows, padding to whole tiles included",
    "winograd_elements": "numbers that are transformed for those, and back",
    "unfolded_elements": "numbers that windows larger than 1x1 are unfolded into",
    "depthwise_macs": "multiply-accumulates with one filter a channel",
    "grouped_macs": "additional for multiply-accumulates in groups too narrow for a vector",
    "product_input_elements": "numbers that convolutions and matrix products read",
    "product_output_elements": "numbers that they write",
    "depthwise_elements": "numbers that depthwise convolutions read and write",
    "weight_elements": "stored numbers that are read, as they lie in memory",
    "other_elements": "numbers that all other operators read and write",
    "exponential_elements": "additional for numbers that go through an exponential",
    "operators": "operators that are called",
    "far_elements": "additional for numbers of a convolution beyond what a cache holds",
    "moved_elements": "additional for numbers that are only moved",
    "normalized_elements": "additional for numbers under local response normalization",
}
_COLUMN: Final = {name: position for position, name in enumerate(FEATURES)}
OPERATORS: Final = _COLUMN["operators"]
# Beyond this many numbers (1 MiB of float32) a layer's values do not stay in a board's cache.
_NEAR_ELEMENTS: Final = 2**18
# Narrower groups do not fill the registers of a vector kernel.
_WIDE_GROUP: Final = 16
_WINDOW: Final = (3, 3)
_WINOGRAD_CHANNELS: Final = 8


class Counting(StrEnum):
    """How an engine multiplies 3x3 windows; a user's model is counted as the measured ones were."""

    DIRECT = "direct"
    WINOGRAD = "winograd"


def count_features(layers: Iterable[Layer], counting: Counting) -> tuple[float, ...]:
    """The counts of a model, in the order of `FEATURES`."""
    sums = [0.0] * len(FEATURES)
    for layer in layers:
        for name, amount in _counts(layer, counting).items():
            sums[_COLUMN[name]] += amount
    return tuple(sums)


def price_layer_ns(layer: Layer, counting: Counting, prices_ns: Sequence[float]) -> float:
    """What one layer costs, given a price for one unit of each of `FEATURES`."""
    return sum(
        amount * prices_ns[_COLUMN[name]] for name, amount in _counts(layer, counting).items()
    )


def count_macs(layers: Iterable[Layer]) -> int:
    """All multiply-accumulates, as the plain algorithms do them."""
    return sum(layer.macs for layer in layers)


def _counts(layer: Layer, counting: Counting) -> dict[str, float]:
    values = layer.inputs + layer.outputs
    match layer.kind:
        case LayerKind.CONVOLUTION:
            return _convolution(layer, counting) | _memory(layer)
        case LayerKind.DEPTHWISE:
            return {
                "operators": 1.0,
                "depthwise_macs": layer.macs,
                "depthwise_elements": values,
                "weight_elements": layer.weights,
                "far_elements": max(0, values - _NEAR_ELEMENTS),
            }
        case LayerKind.DENSE | LayerKind.PRODUCT:
            counts: dict[str, float] = {
                "operators": 1.0,
                "product_macs": layer.macs,
                "weight_elements": layer.weights,
            }
            # One row is a vector: reading the matrix is all the memory traffic there is.
            one_row = layer.kind is LayerKind.DENSE and layer.outputs <= layer.out_channels
            return counts if one_row else counts | _memory(layer)
        case LayerKind.RECURRENT:
            return {
                "operators": layer.steps,
                "product_macs": layer.macs,
                "weight_elements": layer.weights * layer.steps,
                "exponential_elements": layer.outputs,
            }
    extra = {
        LayerKind.MOVE: ("moved_elements", values),
        LayerKind.EXPONENTIAL: ("exponential_elements", layer.outputs),
        LayerKind.NORMALIZATION: ("normalized_elements", layer.outputs),
    }.get(layer.kind)
    found: dict[str, float] = {"operators": 1.0, "other_elements": values}
    return found | ({extra[0]: float(extra[1])} if extra else {})


def _memory(layer: Layer) -> dict[str, float]:
    return {
        "product_input_elements": layer.inputs,
        "product_output_elements": layer.outputs,
        "far_elements": max(0, layer.inputs + layer.outputs - _NEAR_ELEMENTS),
    }


def _convolution(layer: Layer, counting: Counting) -> dict[str, float]:
    wide = layer.groups == 1 or layer.in_channels // layer.groups >= _WIDE_GROUP
    taps = math.prod(layer.kernel)
    if counting is Counting.WINOGRAD and wide and _has_winograd(layer):
        return _winograd(layer)
    counts: dict[str, float] = {
        "operators": 1.0,
        "product_macs": layer.macs,
        "weight_elements": layer.weights,
    }
    if taps > 1 and wide:
        places = layer.outputs // max(1, layer.out_channels)
        counts["unfolded_elements"] = places * layer.in_channels * taps / layer.groups
    elif taps > 1:
        counts["grouped_macs"] = layer.macs
    return counts


def _has_winograd(layer: Layer) -> bool:
    channels = max(layer.in_channels, layer.out_channels) // layer.groups
    return (
        layer.kernel == _WINDOW
        and set(layer.strides) == {1}
        and bool(layer.plane)
        and channels >= _WINOGRAD_CHANNELS
    )


def _winograd(layer: Layer) -> dict[str, float]:
    """Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), section 4.

    Tiles of 6x6 outputs for few channels, of 4x4 for many, as ncnn chooses them.
    """
    into, out = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    narrowest, widest = min(into, out), max(into, out)
    side = 8 if widest <= 128 else 6 if narrowest >= _WINOGRAD_CHANNELS else 4  # noqa: PLR2004
    tiles = math.prod(math.ceil(size / (side - 2)) for size in layer.plane) * layer.groups
    points = side * side
    return {
        "operators": 1.0,
        "winograd_macs": tiles * points * into * out,
        "winograd_elements": tiles * points * (into + out),
        "weight_elements": points * into * out * layer.groups,
    }
