"""A source whose weights alone are stored as integers is a float model all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit_converters.litert.quantized_constants import fold_quantized_constants
from edgekit_converters.onnx_source import quantized_operators
from edgekit_converters.quantize.outcome import refuse_quantized

if TYPE_CHECKING:
    from collections.abc import Sequence


def float_source(model: Any, *, where: str) -> tuple[Any, Sequence[str]]:
    """The model that calibration and quantization start from.

    Weights that are stored as integers become floats again, with the values that they have. Names
    of nodes and values do not change.

    Args:
        model: A normalised `onnx.ModelProto`; it is not changed.
        where: The path that the user gave, for errors.

    Returns:
        The model itself where it is float, or a new one; and sentences that the user should read.

    Raises:
        UnsupportedModelError: If the model computes in integers already.
    """
    found = quantized_operators(model)
    if not found:
        return model, ()
    opened = type(model)()
    opened.CopyFrom(model)
    fold_quantized_constants(opened)
    refuse_quantized(quantized_operators(opened), where=where)
    return opened, (
        f"the source keeps {len(found)} of its weights as integers already: what their rounding "
        "cost is lost for good, and is not counted as a loss here",
    )
