"""Steps with windows over images, sequences and volumes: convolutions, poolings, resizing."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from converters.random_graphs.draft import Draft


def _image(draft: Draft, x: str) -> tuple[int, int]:
    """The channels and the number of axes of space of a float32 image."""
    draft.floats(x)
    shape = draft.shape(x)
    draft.require(3 <= len(shape) <= 5 and bool(shape[1]))
    return shape[1] or 1, len(shape) - 2


def _window(draft: Draft, space: int, *, widest: int = 3) -> dict[str, Any]:
    """A kernel with strides, dilations and padding of any kind, each left out at times."""
    kernel = [draft.between(1, widest) for _ in range(space)]
    options: dict[str, Any] = {"kernel_shape": kernel}
    if draft.chance(0.6):
        options["strides"] = [draft.between(1, 2) for _ in kernel]
    if draft.chance(0.3):
        options["dilations"] = [draft.pick([1, 1, 2]) for _ in kernel]
    padding = draft.pick(["none", "same", "numbers", "numbers", "auto"])
    if padding == "same":
        dilations = options.get("dilations", [1] * space)
        pads = [(size - 1) * step // 2 for size, step in zip(kernel, dilations, strict=True)]
        options["pads"] = pads * 2
    elif padding == "numbers":
        options["pads"] = [draft.between(0, size - 1) for size in kernel * 2]
    elif padding == "auto":
        options["auto_pad"] = draft.pick(["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
    return options


def _groups(draft: Draft, channels: int) -> int:
    divisors = [size for size in range(1, channels + 1) if channels % size == 0]
    return int(draft.pick([1, 1, draft.pick(divisors), channels]))


def convolution(draft: Draft, x: str) -> list[str]:
    channels, space = _image(draft, x)
    options = _window(draft, space)
    groups = _groups(draft, channels)
    outputs = groups * draft.between(1, 3)
    sizes = [outputs, channels // groups, *options["kernel_shape"]]
    array = (draft.rng.normal(size=sizes) * 0.4).astype(np.float32)
    inputs = [x, draft.operand(array, 0.08)]
    if draft.chance(0.7):
        inputs.append(draft.operand(draft.array("float32", [outputs]), 0.08))
    if draft.chance(0.3):
        del options["kernel_shape"]
    return draft.add("Conv", inputs, **options, group=groups if draft.chance(0.9) else None)


def transposed_convolution(draft: Draft, x: str) -> list[str]:
    channels, space = _image(draft, x)
    options = _window(draft, space)
    groups = _groups(draft, channels)
    outputs = draft.between(1, 3)
    sizes = [channels, outputs, *options["kernel_shape"]]
    array = (draft.rng.normal(size=sizes) * 0.4).astype(np.float32)
    inputs = [x, draft.operand(array, 0.05)]
    if draft.chance(0.6):
        inputs.append(draft.weights(outputs * groups))
    strides = options.get("strides", [1] * space)
    if draft.chance(0.3):
        options["output_padding"] = [draft.between(0, step - 1) for step in strides]
    return draft.add("ConvTranspose", inputs, **options, group=groups)


def pooling(draft: Draft, x: str) -> list[str]:
    _, space = _image(draft, x)
    operator = draft.pick(["MaxPool", "MaxPool", "AveragePool", "AveragePool", "LpPool"])
    options = _window(draft, space)
    attributes = draft.schema(operator).attributes
    if "dilations" not in attributes or options.get("auto_pad", "NOTSET") != "NOTSET":
        options.pop("dilations", None)
    if operator == "AveragePool" and draft.chance(0.5):
        options["count_include_pad"] = draft.between(0, 1)
    if "ceil_mode" in attributes and operator != "LpPool" and draft.chance(0.4):
        options["ceil_mode"] = 1
    outputs = 2 if operator == "MaxPool" and draft.opset >= 8 and draft.chance(0.08) else 1
    return draft.add(operator, [x], outputs, **options)


def global_pooling(draft: Draft, x: str) -> list[str]:
    draft.floats(x)
    return draft.add(draft.pick(["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"]), [x])


def resizing(draft: Draft, x: str) -> list[str]:
    """By scales, as every opset says it."""
    _, space = _image(draft, x)
    scales = [1.0, 1.0, *(float(draft.pick([0.5, 1, 1.5, 2, 0.7, 3])) for _ in range(space))]
    mode = draft.pick(["nearest", "linear", "cubic"])
    draft.require(mode != "cubic" or space == 2)
    given = np.array(scales, np.float32)
    if draft.opset < 10:
        return draft.add("Upsample", [x], mode=mode, scales=[float(s) for s in scales]
                         if draft.opset < 9 else given)  # fmt: skip
    if draft.opset == 10:
        return draft.add("Resize", [x], mode=mode, scales=given)
    options = _coordinates(draft, mode)
    if options.get("coordinate_transformation_mode") == "align_corners":
        # Tools disagree on it where the size is not the scale's multiple.
        given = np.maximum(np.floor(given), np.float32(1))
    return draft.add("Resize", [x], mode=mode, **options, scales=given,
                     roi=np.zeros(0, np.float32) if draft.opset < 13 else None)  # fmt: skip


def resizing_to(draft: Draft, x: str) -> list[str]:
    """To sizes that are constant, or computed from another value's shape."""
    _, space = _image(draft, x)
    draft.require(draft.opset >= 11)
    mode = draft.pick(["nearest", "linear"])
    shape = draft.shape(x)
    if None not in shape:
        wanted = [*shape[:2], *(draft.between(2, 9) for _ in range(space))]
        sizes = draft.operand(np.array(wanted, np.int64), 0.1)
    else:
        other = draft.pick([name for name in draft.values if draft.rank(name) == len(shape)])
        (own,) = draft.add("Shape", [x])
        (theirs,) = draft.add("Shape", [other])
        (first,) = draft.add("Slice", [own, *map(draft.constant, ([0], [2]))])
        (rest,) = draft.add("Slice", [theirs, *map(draft.constant, ([2], [len(shape)]))])
        (sizes,) = draft.add("Concat", [first, rest], axis=0)
    roi = draft.constant(np.zeros(0, np.float32)) if draft.opset < 13 else ""
    scales = draft.constant(np.zeros(0, np.float32)) if draft.opset < 13 else ""
    options = _coordinates(draft, mode)
    return draft.append("Resize", [x, roi, scales, sizes], 1, {"mode": mode, **options})


def _coordinates(draft: Draft, mode: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if draft.chance(0.8):
        options["coordinate_transformation_mode"] = draft.pick(
            ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
        )
    if mode == "nearest" and draft.chance(0.8):
        options["nearest_mode"] = draft.pick(
            ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
        )
    if mode == "cubic" and draft.chance(0.3):
        options["cubic_coeff_a"] = -0.5
    return options


STEPS: Final = (
    convolution, convolution, convolution, transposed_convolution, pooling, pooling,
    global_pooling, resizing, resizing_to,
)  # fmt: skip
