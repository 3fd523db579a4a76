"""Pools over pictures, channels first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit_converters.tflite_source.operators.window import filter_sizes, paddings, strides
from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import channels_first

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder

_IMAGE = channels_first(4)


@imports("MAX_POOL_2D", inputs=(1, 1), options="Pool2DOptions")
def import_max_pool(build: Builder) -> None:
    """The largest value in each window."""
    build.emit_activated("MaxPool", [build.input(0, _IMAGE)], _IMAGE, **_window(build))


@imports("AVERAGE_POOL_2D", inputs=(1, 1), options="Pool2DOptions")
def import_average_pool(build: Builder) -> None:
    """The mean of what lies inside the picture."""
    build.emit_activated("AveragePool", [build.input(0, _IMAGE)], _IMAGE, **_window(build))


@imports("L2_POOL_2D", inputs=(1, 1), options="Pool2DOptions")
def import_l2_pool(build: Builder) -> None:
    """The root of the mean of the squares."""
    value = build.input(0, _IMAGE)
    mean = build.node("AveragePool", [build.node("Mul", [value, value])], **_window(build))
    build.emit_activated("Sqrt", [mean], _IMAGE)


def _window(build: Builder) -> dict[str, Any]:
    kernel, steps = filter_sizes(build), strides(build)
    places = build.shape(0)[1:3]
    return {
        "kernel_shape": kernel,
        "strides": steps,
        **paddings(build, places, kernel, steps, [1] * len(kernel)),
    }
