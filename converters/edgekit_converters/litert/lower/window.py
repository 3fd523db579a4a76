"""The arithmetic of sliding windows: kernels, strides, dilations, padding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit_converters.litert.lower.builder import RefusedNodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit_converters.graph import Node, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window over the spatial axes, one entry an axis.

    Attributes:
        size: Of the input, None where it is free.
        before: Cells added in front of the input.
        after: Cells added behind it, those that rounding up the output size needs left out.
        extra: Cells that only rounding up the output size needs.
        padding: "SAME" or "VALID" where LiteRT's own padding is that, otherwise "EXPLICIT". Where
            it is "SAME" and a size is free, `before` and `after` may be too small.
    """

    size: Shape
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

    @property
    def reach(self) -> tuple[int, ...]:
        """How many cells the kernel spans."""
        return reach_of(self.kernel, self.dilations)

    def along(self, *axes: int) -> Window:
        """The window over some of the axes alone; -1 is an axis of size one that stays."""

        def chosen(entries: Sequence[int], missing: int) -> tuple[int, ...]:
            return tuple(missing if axis < 0 else entries[axis] for axis in axes)

        size = tuple(1 if axis < 0 else self.size[axis] for axis in axes)
        part = Window(
            size=size,
            kernel=chosen(self.kernel, 1),
            strides=chosen(self.strides, 1),
            dilations=chosen(self.dilations, 1),
            before=chosen(self.before, 0),
            after=chosen(self.after, 0),
            extra=chosen(self.extra, 0),
            padding=self.padding,
        )
        if self.padding == "SAME" and any(
            cells is None and stride != 1 for cells, stride in zip(size, part.strides, strict=True)
        ):
            return part
        return part.named()

    def by_hand(self) -> Window:
        """The same, to be padded before it is used.

        Raises:
            RefusedNodeError: If its padding is known to the running model alone.
        """
        for cells, stride in zip(self.size, self.strides, strict=True):
            if self.padding == "SAME" and cells is None and stride != 1:
                raise RefusedNodeError("its padding depends on a size that is free")
        return self if self.padding == "VALID" else replace(self, padding="EXPLICIT")

    def named(self) -> Window:
        """The same with its padding named after what it is."""
        padding = _name_padding(self.size, self.strides, self.reach, self.before, self.behind)
        return replace(self, padding=padding)


def window_of(node: Node, kernel: tuple[int, ...], size: Shape, result: Shape) -> Window:
    """Read the window of a convolution or pooling.

    Args:
        node: With ONNX's attributes.
        kernel: The window's size, one entry a spatial axis.
        size: The spatial size of the input, None where it is free.
        result: The spatial size of the output.

    Raises:
        RefusedNodeError: If the padding depends on a size that is free or is negative, or if the
            window does not fit into the input.
    """
    rank = len(kernel)
    nothing = (0,) * rank
    strides = node.integers("strides") or (1,) * rank
    dilations = node.integers("dilations") or (1,) * rank
    if not len(size) == rank == len(strides) == len(dilations):
        raise RefusedNodeError(f"its window has {rank} axes, its input {len(size)}")
    reach = reach_of(kernel, dilations)
    mode = node.text("auto_pad", "NOTSET")
    padding = ""
    before = after = nothing
    if mode in {"SAME_UPPER", "SAME_LOWER"}:
        free = [cells is None and stride != 1 for cells, stride in zip(size, strides, strict=True)]
        if any(free) and mode == "SAME_UPPER":
            if any(stride > span for stride, span in zip(strides, reach, strict=True)):
                raise RefusedNodeError("its automatic padding may be negative")
            padding = "SAME"
        else:
            before, after = _same_padding(size, strides, reach, lower=mode == "SAME_LOWER")
    elif mode == "NOTSET":
        pads = node.integers("pads") or (0,) * (2 * rank)
        before, after = pads[:rank], pads[rank:]
    if min((*before, *after), default=0) < 0:
        raise RefusedNodeError(f"its padding is negative: {[*before, *after]}")
    extra = nothing
    # Automatic padding that keeps the size has nothing left to round.
    if node.integer("ceil_mode", 0) and mode in {"NOTSET", "VALID"}:
        extra = _rounding_up(size, result, strides, reach, (before, after))
    window = Window(
        size=size,
        kernel=kernel,
        strides=strides,
        dilations=dilations,
        before=before,
        after=after,
        extra=extra,
        padding=padding,
    )
    if padding:
        return window
    for cells, span, front, behind in zip(size, reach, before, window.behind, strict=True):
        if cells is not None and cells + front + behind < span:
            raise RefusedNodeError("its window is larger than its input")
    return window.named()


def reach_of(kernel: tuple[int, ...], dilations: tuple[int, ...]) -> tuple[int, ...]:
    """How many cells a dilated kernel spans."""
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))


def _same_padding(
    size: Shape, strides: tuple[int, ...], reach: tuple[int, ...], *, lower: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    totals = []
    for cells, stride, span in zip(size, strides, reach, strict=True):
        total = _same_total(cells, stride, span)
        if total is None:
            raise RefusedNodeError("its padding depends on a size that is free")
        if total < 0:
            raise RefusedNodeError("its automatic padding is negative")
        totals.append(total)
    small = tuple(total // 2 for total in totals)
    large = tuple(total - total // 2 for total in totals)
    return (large, small) if lower else (small, large)


def _same_total(cells: int | None, stride: int, span: int) -> int | None:
    """All cells that keep the size; with stride 1 these do not depend on it."""
    if stride == 1:
        return span - 1
    return None if cells is None else (-(-cells // stride) - 1) * stride + span - cells


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
        total = _same_total(cells, stride, span)
        # LiteRT pads nothing where a window would have to be left out.
        if total is None or total < 0 or (front, back) != (total // 2, total - total // 2):
            return "EXPLICIT"
    return "SAME"
