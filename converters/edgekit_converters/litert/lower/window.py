"""The arithmetic of sliding windows: kernels, strides, dilations, padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit_converters.litert.lower.builder import RefusedNodeError

if TYPE_CHECKING:
    from edgekit_converters.graph import Node, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window over the spatial axes, one entry an axis.

    Attributes:
        before: Cells added in front of the input.
        after: Cells added behind it, those that rounding up the output size needs left out.
        extra: Cells that only rounding up the output size needs.
        padding: "SAME" or "VALID" where LiteRT's own padding is that, otherwise "EXPLICIT".
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    extra: tuple[int, ...]
    padding: str

    @property
    def behind(self) -> tuple[int, ...]:
        """All cells added behind the input."""
        return tuple(a + e for a, e in zip(self.after, self.extra, strict=True))


def window_of(node: Node, kernel: tuple[int, ...], size: Shape, result: Shape) -> Window:
    """Read the window of a convolution or pooling.

    Args:
        node: With ONNX's attributes.
        kernel: The window's size, one entry a spatial axis.
        size: The spatial size of the input, None where it is free.
        result: The spatial size of the output.

    Raises:
        RefusedNodeError: If the padding depends on a size that is free, or is negative.
    """
    rank = len(kernel)
    strides = node.integers("strides") or (1,) * rank
    dilations = node.integers("dilations") or (1,) * rank
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    mode = node.text("auto_pad", "NOTSET")
    if mode == "SAME_UPPER" and None in size:
        nothing = (0,) * rank
        return Window(
            kernel=kernel, strides=strides, dilations=dilations,
            before=nothing, after=nothing, extra=nothing, padding="SAME",
        )  # fmt: skip
    if mode in {"SAME_UPPER", "SAME_LOWER"}:
        before, after = _same_padding(size, strides, reach, lower=mode == "SAME_LOWER")
    else:
        pads = (node.integers("pads") or (0,) * (2 * rank)) if mode == "NOTSET" else (0,) * 2 * rank
        before, after = pads[:rank], pads[rank:]
    if min((*before, *after)) < 0:
        raise RefusedNodeError(f"its padding is negative: {[*before, *after]}")
    extra = (0,) * rank
    if node.integer("ceil_mode", 0):
        extra = _rounding_up(size, result, strides, reach, (before, after))
    behind = tuple(a + e for a, e in zip(after, extra, strict=True))
    return Window(
        kernel=kernel,
        strides=strides,
        dilations=dilations,
        before=before,
        after=after,
        extra=extra,
        padding=_name_padding(size, strides, reach, before, behind),
    )


def _same_padding(
    size: Shape, strides: tuple[int, ...], reach: tuple[int, ...], *, lower: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    totals = []
    for cells, stride, span in zip(size, strides, reach, strict=True):
        if cells is None:
            raise RefusedNodeError("its padding depends on a size that is free")
        totals.append(max((-(-cells // stride) - 1) * stride + span - cells, 0))
    small = tuple(total // 2 for total in totals)
    large = tuple(total - total // 2 for total in totals)
    return (large, small) if lower else (small, large)


def _rounding_up(
    size: Shape,
    result: Shape,
    strides: tuple[int, ...],
    reach: tuple[int, ...],
    padding: tuple[tuple[int, ...], tuple[int, ...]],
) -> tuple[int, ...]:
    extra = []
    for cells, out, stride, span, front, back in zip(
        size, result, strides, reach, *padding, strict=True
    ):
        if cells is None or out is None:
            raise RefusedNodeError("its padding depends on a size that is free")
        padded = cells + front + back
        # A window that would start behind the input does not count; not all tools agree on that.
        count = -(-(padded - span) // stride) + 1
        if (count - 1) * stride >= cells + front:
            count -= 1
        if count != out:
            raise RefusedNodeError("rounding up its output size is ambiguous")
        extra.append(max((out - 1) * stride + span - padded, 0))
    return tuple(extra)


def _name_padding(
    size: Shape,
    strides: tuple[int, ...],
    reach: tuple[int, ...],
    before: tuple[int, ...],
    behind: tuple[int, ...],
) -> str:
    if not any((*before, *behind)):
        return "VALID"
    for cells, stride, span, front, back in zip(size, strides, reach, before, behind, strict=True):
        if cells is None and stride != 1:
            return "EXPLICIT"
        # With stride 1 the padding that keeps the size does not depend on it.
        total = (
            span - 1 if cells is None else max((-(-cells // stride) - 1) * stride + span - cells, 0)
        )
        if (front, back) != (total // 2, total - total // 2):
            return "EXPLICIT"
    return "SAME"
