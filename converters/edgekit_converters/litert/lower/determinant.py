"""Determinants of square matrices, by elimination with pivots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

# Each row costs some twenty operators.
_MAX_SIZE: Final = 16


@lowers("Det")
def lower_det(build: Builder, node: Node) -> None:
    """The product of the pivots, its sign that of the order in which the rows are taken."""
    steps = Steps(build, node)
    tensor = steps.in_onnx_order(0)
    size = tensor.shape[-1] if tensor.shape[-1] is not None else tensor.shape[-2]
    if size is None or size > _MAX_SIZE:
        raise RefusedNodeError(f"it is of matrices larger than {_MAX_SIZE}, or of a free size")
    leading = steps.extents(tensor)[:-2]
    count = steps.times(*leading)
    rows = steps.reshaped(tensor, [count, size, size])
    product = _eliminate(steps, rows, size)
    steps.finish(steps.reshaped(product, leading))


def _eliminate(steps: Steps, rows: Tensor, size: int) -> Tensor:
    """Of matrices in a row, the determinants in a row.

    Rows stay where they are: the one with the largest element of a column is its pivot, and is not
    looked at any more.
    """
    places = steps.constant(np.arange(size, dtype=np.float32).reshape(1, size), "places")
    # What is left of each row to look at: one, or zero once it was a pivot.
    left: Tensor | None = None
    product: Tensor | None = None
    for column in range(size):
        values = steps.squeeze(steps.slice_axis(rows, 2, column, 1), 2)
        sizes = steps.abs(values)
        if left is not None:
            # Below every magnitude where a row was taken already.
            sizes = steps.select(steps.greater(left, 0.5), sizes, -1.0)
        chosen = steps.expand_dims(steps.cast(steps.arg_max(sizes, 1), "float32"), 1)
        taken = steps.cast(steps.equal(places, chosen), "float32")
        pivot = steps.sum(steps.mul(values, taken), 1, keep=True)
        # Rows that are still there and stand before the chosen one are passed by.
        passed = steps.cast(steps.less(places, chosen), "float32")
        if left is not None:
            passed = steps.mul(passed, left)
        crossings = steps.sum(passed, 1, keep=True)
        sign = steps.sub(1.0, steps.mul(steps.floor_mod(crossings, 2.0), 2.0))
        signed = steps.mul(pivot, sign)
        product = signed if product is None else steps.mul(product, signed)
        left = steps.sub(1.0 if left is None else left, taken)
        if column == size - 1:
            break
        divisor = steps.select(steps.equal(pivot, 0.0), 1.0, pivot)
        factors = steps.mul(steps.div(values, divisor), left)
        row = steps.matmul(steps.expand_dims(taken, 1), rows)
        rows = steps.sub(rows, steps.mul(steps.expand_dims(factors, 2), row))
    if product is None:
        raise RefusedNodeError("its matrices are empty")
    return steps.squeeze(product, 1)
