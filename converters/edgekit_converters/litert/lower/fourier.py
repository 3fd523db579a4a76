"""Discrete Fourier transforms as products with the matrix of roots of unity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import identity
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.folding_steps import FoldingSteps
from edgekit_converters.litert.lower.half_spectrum import half_spectrum, suits_kernel
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import known_sizes
from edgekit_converters.litert.types import FLOAT

if TYPE_CHECKING:
    from edgekit_converters.graph import Node, Shape
    from edgekit_converters.litert.program import Tensor

_REAL, _COMPLEX = 1, 2


@lowers("DFT", dtypes={"T1": FLOAT})
def lower_fourier_transform(build: Builder, node: Node) -> None:
    """One product; where the axis is computed, one for each that the shapes allow."""
    steps = FoldingSteps(build, node)
    value = steps.input()
    rank = len(value.shape)
    given = build.known(node, 2)
    if given is not None or not node.input(2):
        axis = int(given.reshape(-1)[0]) if given is not None else node.integer("axis", -2)
        steps.finish(_transform(steps, value, axis % rank))
        return
    known_sizes(value.shape[:-1], "input")
    allowed = [at for at in range(rank - 1) if _shapes_allow(build, node, at)]
    if not allowed:
        raise RefusedNodeError("its shapes fit no axis")
    asked = steps.reshape(steps.cast(build.input(node, 2), "int32"), ())
    asked = steps.floor_mod(asked, rank)
    made = _transform(steps, value, allowed[0])
    for at in allowed[1:]:
        made = steps.select(steps.equal(asked, at), _transform(steps, value, at), made)
    steps.finish(made)


@lowers("STFT", dtypes={"T1": FLOAT})
def lower_short_time_fourier_transform(build: Builder, node: Node) -> None:
    """Frames of a signal, gathered, and their product with the windowed matrix."""
    steps = FoldingSteps(build, node)
    signal = steps.input()
    if len(signal.shape) == 2:  # noqa: PLR2004 - before opset 17's last revision
        signal = steps.expand_dims(signal, -1)
    (length,) = known_sizes(signal.shape[1:2], "signal")
    parts = signal.shape[2] or _REAL
    frames, bins = known_sizes(build.shape(node.outputs[0])[1:3], "output")
    most, taken = _frame_length(build, node, steps, length, bins)
    step = _scalar(build, node, steps, 1)
    starts = steps.mul(step, steps.integers(np.arange(frames)[:, None], "frames"))
    cells = np.arange(most)
    places = steps.minimum(steps.add(starts, steps.integers(cells, "cells")), length - 1)
    framed = steps.gather(signal, places, 1)
    half = bool(node.integer("onesided", 1))
    if half and parts == _REAL and suits_kernel(taken, most):
        weight = _window(build, node, steps, most, taken)
        framed = steps.squeeze(framed, -1)
        if weight is not None:
            framed = steps.mul(framed, weight)
        steps.finish(half_spectrum(steps, framed))
        return
    matrix = fourier_matrix(steps, (most, bins), taken, (parts, _COMPLEX))
    weight = _window(build, node, steps, most, taken)
    if weight is not None:
        matrix = steps.mul(matrix, steps.reshape(weight, (most, 1, 1, 1)))
    flat = steps.reshape(framed, (signal.shape[0], frames, most * parts))
    made = _product(steps, flat, steps.reshape(matrix, (most * parts, bins * _COMPLEX)))
    steps.finish(steps.reshape(made, (signal.shape[0], frames, bins, _COMPLEX)))


def fourier_matrix(
    steps: FoldingSteps, size: tuple[int, int], length: Tensor, parts: tuple[int, int],
    *, inverse: bool = False,
) -> Tensor:  # fmt: skip
    """What each input counts in each output, as real and imaginary parts.

    Args:
        steps: The formula.
        size: How many inputs and outputs there are.
        length: Of the transform, an int32 scalar.
        parts: How many parts the inputs and the outputs have: real, or real and imaginary.
        inverse: Whether it turns backwards. Nothing is divided here.

    Returns:
        (inputs, parts, outputs, parts).
    """
    turns = steps.integers(np.multiply.outer(*(np.arange(count) for count in size)), "turns")
    turns = steps.floor_mod(turns, length)
    whole = steps.cast(length, "float32")
    places = steps.cast(turns, "float32")
    sine = _sine(steps, places, whole)
    cosine = _sine(steps, steps.add(places, steps.mul(whole, 0.25)), whole)
    negative = steps.neg(sine)
    forwards, backwards = (sine, negative) if inverse else (negative, sine)
    table = ((cosine, forwards), (backwards, cosine))
    columns = [steps.stack(list(row[: parts[1]]), -1) for row in table[: parts[0]]]
    return steps.stack(columns, 1)


def _transform(steps: FoldingSteps, value: Tensor, axis: int) -> Tensor:
    build, node = steps.build, steps.node
    inverse = bool(node.integer("inverse", 0))
    half = bool(node.integer("onesided", 0))
    rank = len(value.shape)
    if axis == rank - 1:
        raise RefusedNodeError("it transforms the axis of real and imaginary parts")
    (before,) = known_sizes(value.shape[axis : axis + 1], "input")
    after, length = _lengths(build, node, steps, axis, before)
    if inverse and not half and after & (after - 1):
        raise RefusedNodeError(
            f"its inverse has {after} cells, no power of two: what should cancel out is left as "
            "rounding that no two tools agree on"
        )
    parts = (value.shape[-1] or _REAL, _REAL if inverse and half else _COMPLEX)
    order = [at for at in range(rank) if at != axis]
    order.insert(rank - 2, axis)
    back = [order.index(at) for at in range(rank)]
    moved = steps.transpose(value, order)
    if half and not inverse and parts[0] == _REAL and suits_kernel(length, before):
        return steps.transpose(half_spectrum(steps, steps.squeeze(moved, -1)), back)
    if inverse and half:
        matrix = _half_inverse(steps, before, after, parts)
    else:
        # What is longer than the transform is cut off, what is shorter is continued by zeros.
        matrix = fourier_matrix(steps, (before, after), length, parts, inverse=inverse)
        within = steps.integers(np.arange(before).reshape(-1, 1, 1, 1), "cells")
        matrix = steps.select(steps.less(within, length), matrix, 0.0)
    if inverse:
        matrix = steps.div(matrix, steps.cast(length, "float32"))
    whole = length.data is not None and int(length.data) == before
    if whole and not (inverse and half):
        moved, matrix = _fold_mirrored(steps, moved, matrix, before)
    inputs = (moved.shape[-2] or 0) * (moved.shape[-1] or 0)
    flat = steps.reshape(moved, (*moved.shape[:-2], inputs))
    made = _product(steps, flat, steps.reshape(matrix, (inputs, after * parts[1])))
    made = steps.reshape(made, (*moved.shape[:-2], after, parts[1]))
    return steps.transpose(made, back)


def _fold_mirrored(
    steps: FoldingSteps, value: Tensor, matrix: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Add and subtract what mirrored cells hold before they are multiplied.

    The roots of unity that belong to both differ in the sign of one part alone. What cancels out
    in a mirrored signal then does so without any rounding, as in a fast transform.

    Args:
        steps: The formula.
        value: (..., cells, parts).
        matrix: (cells, parts, ...), constant.
        size: The number of cells.
    """
    count = size // 2 + 1
    mirrored = np.arange(count) * -1 % size
    first = steps.slice_axis(value, -2, 0, count)
    second = steps.gather(value, steps.integers(mirrored, "mirrored"), len(value.shape) - 2)
    halves = steps.concat([steps.add(first, second), steps.sub(first, second)], -1)
    if matrix.data is None:
        raise AssertionError("the matrix of a known length is constant")
    own, other = matrix.data[:count], matrix.data[mirrored]
    # A cell that is its own mirror image is added to itself.
    table = np.concatenate([(own + other) / 2, (own - other) / 2], axis=1)
    alone = np.arange(count) == mirrored
    table[alone] /= 2
    table[alone, matrix.data.shape[1] :] = 0
    return halves, steps.constant(table, "table")


def _lengths(
    build: Builder, node: Node, steps: FoldingSteps, axis: int, before: int
) -> tuple[int, Tensor]:
    """The size of the output, and the length of the transform."""
    inverse = bool(node.integer("inverse", 0))
    half = bool(node.integer("onesided", 0))
    known = build.known(node, 1)
    if known is not None and known.size:
        length = int(known.reshape(-1)[0])
    elif not node.input(1):
        length = 2 * (before - 1) if inverse and half else before
    else:
        (after,) = known_sizes(build.shape(node.outputs[0])[axis : axis + 1], "output")
        if inverse or not half:
            return after, steps.integers(after, "length")
        return after, _scalar(build, node, steps, 1)
    after = length // 2 + 1 if half and not inverse else length
    return after, steps.integers(length, "length")


def _half_inverse(steps: FoldingSteps, before: int, after: int, parts: tuple[int, int]) -> Tensor:
    """From the half of a spectrum whose other half is its mirror image to real numbers."""
    length = steps.integers(after, "length")
    matrix = fourier_matrix(steps, (before, after), length, parts, inverse=True)
    bins = np.arange(before)
    twice = np.where((bins > 0) & (2 * bins < after), 2.0, 1.0) * (bins <= after // 2)
    return steps.mul(matrix, steps.constant(twice.reshape(-1, 1, 1, 1).astype(np.float32)))


def _frame_length(
    build: Builder, node: Node, steps: FoldingSteps, signal: int, bins: int
) -> tuple[int, Tensor]:
    """The most cells that a frame may have, and how many it has."""
    window = build.shape(node.input(2)) if node.input(2) else ()
    known = build.known(node, 3)
    if known is not None:
        length = int(known.reshape(-1)[0])
    elif window and window[0]:
        length = window[0]
    elif not node.input(3):
        length = signal
    else:
        half = bool(node.integer("onesided", 1))
        if not half:
            return bins, steps.integers(bins, "length")
        # Of two lengths, which have the same number of bins, the running model knows which it is.
        return 2 * bins - 1, _scalar(build, node, steps, 3)
    return length, steps.integers(length, "length")


def _window(
    build: Builder, node: Node, steps: FoldingSteps, most: int, length: Tensor
) -> Tensor | None:
    """What each cell of a frame is multiplied with, None for one."""
    known = build.known(node, 2)
    if known is not None:
        return steps.constant(known, "window")
    if node.input(2):
        return build.input(node, 2, order=identity(1))
    if length.data is not None:
        return None
    return steps.cast(steps.less(steps.integers(np.arange(most), "cells"), length), "float32")


def _sine(steps: FoldingSteps, places: Tensor, whole: Tensor) -> Tensor:
    """The sine of `places / whole` turns, exact at every quarter of one."""
    half, quarter = steps.mul(whole, 0.5), steps.mul(whole, 0.25)
    places = steps.select(steps.less(half, places), steps.sub(places, whole), places)
    mirrored = steps.sub(steps.mul(steps.sign(places), half), places)
    places = steps.select(steps.less(quarter, steps.abs(places)), mirrored, places)
    return steps.sin(steps.mul(steps.div(places, whole), float(2 * np.pi)))


def _product(steps: FoldingSteps, value: Tensor, matrix: Tensor) -> Tensor:
    if matrix.data is None:
        return steps.matmul(value, matrix)
    turned = steps.constant(np.ascontiguousarray(matrix.data.T), "matrix")
    shape: Shape = (*value.shape[:-1], matrix.shape[-1])
    return steps.step(
        "FULLY_CONNECTED", [value, turned, None], shape, "float32",
        fusedActivationFunction="NONE", weightsFormat="DEFAULT", keepNumDims=True,
    )  # fmt: skip


def _scalar(build: Builder, node: Node, steps: FoldingSteps, position: int) -> Tensor:
    known = build.known(node, position)
    if known is not None:
        return steps.integers(int(known.reshape(-1)[0]), "scalar")
    rank = len(build.shape(node.input(position)))
    return steps.reshape(steps.cast(build.input(node, position, order=identity(rank)), "int32"), ())


def _shapes_allow(build: Builder, node: Node, axis: int) -> bool:
    """Whether the output can be a transform of this axis, if the model's shapes are right."""
    before, after = build.shape(node.input(0)), build.shape(node.outputs[0])
    others = all(
        first == second
        for at, (first, second) in enumerate(zip(before[:-1], after[:-1], strict=True))
        if at != axis
    )
    size, made = before[axis], after[axis]
    if size is None or made is None:
        return False
    known = build.known(node, 1)
    inverse, half = node.integer("inverse", 0), node.integer("onesided", 0)
    if node.input(1) and known is None:
        return others
    length = int(known.reshape(-1)[0]) if known is not None and known.size else None
    if length is None:
        length = 2 * (size - 1) if inverse and half else size
    return others and made == (length // 2 + 1 if half and not inverse else length)
