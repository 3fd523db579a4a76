"""Products of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError, identity

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder

_MATRIX = 2


@imports("FULLY_CONNECTED", inputs=(2, 3), options="FullyConnectedOptions")
def import_fully_connected(build: Builder) -> None:
    """Weights are (outputs, inputs); an input of more axes is flattened, or keeps them."""
    if build.option("weightsFormat"):
        raise RefusedOperatorError("its weights are shuffled for one processor")
    source, weights = build.tensor(0), build.tensor(1)
    if weights.rank != _MATRIX:
        raise RefusedOperatorError(f"its weights have {weights.rank} axes")
    bias = [build.input(2)] if build.has(2) else []
    value = build.input(0)
    if build.option("keepNumDims", default=False) and source.rank != _MATRIX:
        product = [value, build.input(1, (1, 0))]
        if not bias:
            build.emit_activated("MatMul", product)
            return
        build.emit_activated("Add", [build.node("MatMul", product), *bias])
        return
    if source.rank != _MATRIX or source.shape[-1] != weights.shape[-1]:
        rows = build.sizes([-1, weights.shape[-1] or 0], "rows")
        value = build.node("Reshape", [value, rows])
    build.emit_activated("Gemm", [value, build.input(1), *bias], transB=1)


@imports("BATCH_MATMUL", inputs=(2, 2), options="BatchMatMulOptions")
def import_batch_matmul(build: Builder) -> None:
    """Either factor may be read with its last two axes exchanged."""
    factors = []
    for position, flag in enumerate(("adjX", "adjY")):
        rank = build.tensor(position).rank
        if rank < _MATRIX:
            raise RefusedOperatorError("one factor is no matrix")
        order = identity(rank)
        if build.option(flag, default=False):
            order = (*order[:-2], rank - 1, rank - 2)
        factors.append(build.input(position, order))
    build.emit("MatMul", factors)
