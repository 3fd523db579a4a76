"""Padding of windows that slide: TFLite says SAME or VALID, ONNX says how many on each side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from edgekit_converters.tflite_source.values import RefusedOperatorError

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder
    from edgekit_converters.tflite_source.model import Shape

SAME: Final = 0
VALID: Final = 1


def strides(build: Builder, *, axes: str = "HW") -> list[int]:
    """The steps of a window along each axis."""
    return _positive(build, [f"stride{axis}" for axis in axes], default=0)


def dilations(build: Builder, *, axes: str = "HW") -> list[int]:
    """The spacing of a window's taps along each axis."""
    return _positive(build, [f"dilation{axis}Factor" for axis in axes], default=1)


def filter_sizes(build: Builder) -> list[int]:
    """The window of a pool."""
    return _positive(build, ["filterHeight", "filterWidth"], default=0)


def paddings(
    build: Builder,
    places: Shape,
    kernel: Sequence[int],
    steps: Sequence[int],
    spacing: Sequence[int],
) -> dict[str, object]:
    """The padding attributes of an ONNX convolution or pool.

    Args:
        build: At an operator with an option `padding`.
        places: The sizes that the window slides over.
        kernel: Its size along each.
        steps: Its strides.
        spacing: Its dilations.
    """
    padding = build.option("padding")
    if padding == VALID:
        return {"pads": [0] * (2 * len(kernel))}
    if padding != SAME:
        raise RefusedOperatorError(f"its padding {padding} is not known")
    if None in places and set(steps) != {1}:
        # onnxruntime ignores or refuses dilations there.
        if set(spacing) != {1}:
            raise RefusedOperatorError("the size that its dilated window slides over is free")
        return {"auto_pad": "SAME_UPPER"}
    # With a stride of one the padding is the same for every size.
    totals = [
        max((-(-size // step) - 1) * step + (taps - 1) * space + 1 - size, 0)
        for size, taps, step, space in zip(
            (size or 0 for size in places), kernel, steps, spacing, strict=True
        )
    ]
    return {"pads": [total // 2 for total in totals] + [total - total // 2 for total in totals]}


def _positive(build: Builder, fields: list[str], *, default: int) -> list[int]:
    found = [int(build.option(field, default)) for field in fields]
    if min(found) < 1:
        raise RefusedOperatorError(f"its {fields[found.index(min(found))]} is {min(found)}")
    return found
