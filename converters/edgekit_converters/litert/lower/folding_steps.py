"""Formulas whose constant parts are computed when the model is converted.

The same formula then serves sizes that are known and sizes that only the running model knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Shape
    from edgekit_converters.litert.program import Tensor

# What each operator computes, in the type of its operands, as the kernels do.
_FORMULAS: Final[Mapping[str, Callable[..., Any]]] = {
    "ABS": np.abs,
    "ADD": np.add,
    "CEIL": np.ceil,
    "COS": np.cos,
    "DIV": np.divide,
    "EQUAL": np.equal,
    "EXP": np.exp,
    "FLOOR": np.floor,
    "FLOOR_DIV": np.floor_divide,
    "FLOOR_MOD": np.mod,
    "GREATER": np.greater,
    "GREATER_EQUAL": np.greater_equal,
    "LESS": np.less,
    "LESS_EQUAL": np.less_equal,
    "LOG": np.log,
    "LOGICAL_AND": np.logical_and,
    "LOGICAL_NOT": np.logical_not,
    "LOGICAL_OR": np.logical_or,
    "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum,
    "MUL": np.multiply,
    "NEG": np.negative,
    "POW": np.power,
    "SELECT_V2": np.where,
    "SIGN": np.sign,
    "SIN": np.sin,
    "SQRT": np.sqrt,
    "SUB": np.subtract,
}
# What each operator moves, given its operands and the axis in its options.
_MOVES: Final[Mapping[str, Callable[[list[Any], int], Any]]] = {
    "GATHER": lambda values, axis: np.take(values[0], values[1], axis=axis),
    "PACK": lambda values, axis: np.stack(values, axis=axis),
    "PAD": lambda values, _: np.pad(values[0], values[1]),
    "TILE": lambda values, _: np.tile(values[0], values[1]),
}


class FoldingSteps(Steps):
    """Steps that are made only where an operand is computed by the model."""

    def step(
        self,
        code: str,
        inputs: Sequence[Tensor | None],
        shape: Shape,
        dtype: str,
        **options: object,
    ) -> Tensor:
        """A constant where all operands are constants, otherwise the operator."""
        known = [tensor.data for tensor in inputs if tensor is not None and tensor.data is not None]
        if len(known) < len(inputs):
            return super().step(code, inputs, shape, dtype, **options)
        folded = _compute(code, known, options)
        if folded is None:
            return super().step(code, inputs, shape, dtype, **options)
        return self.constant(np.asarray(folded, dtype=dtype), code.lower())


def _compute(code: str, values: list[NDArray[Any]], options: Mapping[str, object]) -> Any:
    with np.errstate(all="ignore"):
        if code in _FORMULAS and (code != "DIV" or values[0].dtype.kind == "f"):
            return _FORMULAS[code](*values)
        if code in _MOVES and not options.get("batchDims"):
            return _MOVES[code](values, int(str(options.get("axis", 0))))
        if code == "SUM":
            axes = tuple(int(axis) for axis in values[1].reshape(-1))
            return values[0].sum(axis=axes, keepdims=bool(options.get("keepDims")))
    return None
