"""Scaler, Normalizer, Imputer, Binarizer: one number in, one number out."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from edgekit_converters.ml_operators.registry import (
    CannotExpandError,
    Expansion,
    UnknownInputError,
    expands,
)


@expands("Scaler")
def expand_scaler(build: Expansion) -> None:
    """Y = (X - offset) * scale, each a number or one a column."""
    offset, scale = build.floats("offset"), build.floats("scale")
    if not len(scale) or len(scale) != len(offset):
        raise CannotExpandError(f"it has {len(offset)} offsets and {len(scale)} scales")
    value = build.as_float(build.input())
    shifted = build.emit("Sub", [value, build.constant(offset, "offset")])
    build.emit("Mul", [shifted, build.constant(scale, "scale")], build.output())


@expands("Normalizer")
def expand_normalizer(build: Expansion) -> None:
    """Each row by its largest element, or its L1 or L2 norm; a row whose norm is zero stays."""
    value, norm = build.matrix(), build.text("norm", "MAX")
    if norm == "MAX":
        size = build.reduce("ReduceMax", value, 1)
    elif norm == "L1":
        size = build.reduce("ReduceSum", build.emit("Abs", [value]), 1)
    elif norm == "L2":
        square = build.emit("Mul", [value, value])
        size = build.emit("Sqrt", [build.reduce("ReduceSum", square, 1)])
    else:
        raise CannotExpandError(f"its norm {norm!r} is not known")
    zero = build.constant(np.zeros(1, dtype=np.float32), "zero")
    one = build.constant(np.ones(1, dtype=np.float32), "one")
    divisor = build.emit("Where", [build.emit("Equal", [size, zero]), one, size])
    build.emit("Div", [value, divisor], build.output())


@expands("Imputer")
def expand_imputer(build: Expansion) -> None:
    """Every element that is the replaced value, or NaN where that is NaN, gives way."""
    value = build.input()
    if not build.element_type(value):
        raise UnknownInputError("the type of its input is not known")
    if build.element_type(value) == TensorProto.FLOAT:
        imputed = build.floats("imputed_value_floats")
        replaced = build.number("replaced_value_float")
        if not len(imputed):
            raise CannotExpandError("it says no values to put in")
        if math.isnan(replaced):
            missing = build.emit("IsNaN", [value])
        else:
            wanted = build.constant(np.array([replaced], dtype=np.float32), "replaced")
            missing = build.emit("Equal", [value, wanted])
        filling = build.constant(imputed, "imputed")
    elif build.element_type(value) == TensorProto.INT64:
        whole = build.integers("imputed_value_int64s")
        if not whole:
            raise CannotExpandError("it says no values to put in")
        wanted = build.constant(
            np.array([build.integer("replaced_value_int64")], dtype=np.int64), "replaced"
        )
        missing = build.emit("Equal", [value, wanted])
        filling = build.constant(np.array(whole, dtype=np.int64), "imputed")
    else:
        raise CannotExpandError("its input is neither float32 nor int64")
    build.emit("Where", [missing, filling, value], build.output())


@expands("Binarizer")
def expand_binarizer(build: Expansion) -> None:
    """One where X is above the threshold, else zero."""
    value = build.as_float(build.input())
    threshold = np.array([build.number("threshold")], dtype=np.float32)
    above = build.emit("Greater", [value, build.constant(threshold, "threshold")])
    build.emit("Cast", [above], build.output(), to=TensorProto.FLOAT)
