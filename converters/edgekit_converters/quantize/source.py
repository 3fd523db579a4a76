"""What is quantized: a source in floats, its weights opened and its inputs brought to one range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit_converters.litert.quantized_constants import fold_quantized_constants
from edgekit_converters.onnx_source import quantized_operators
from edgekit_converters.quantize.input_scaling import scale_inputs
from edgekit_converters.quantize.outcome import refuse_quantized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


def float_source(
    model: Any, *, where: str, samples: Mapping[str, NDArray[Any]] | None = None
) -> tuple[Any, Sequence[str]]:
    """The model that calibration and quantization start from.

    Weights that are stored as integers become floats again, with the values that they have; inputs
    whose columns differ in size are scaled, see `scale_inputs`. Names of nodes and values do not
    change.

    Args:
        model: A normalised `onnx.ModelProto`, its shapes inferred; it is not changed.
        where: The path that the user gave, for errors.
        samples: Typical inputs by name, may be none; None where inputs are not to be scaled, as
            they are integers themselves.

    Returns:
        The model itself where it is float, or a new one; and sentences that the user should read.

    Raises:
        UnsupportedModelError: If the model computes in integers already.
    """
    remarks = []
    found = quantized_operators(model)
    opened = type(model)()
    opened.CopyFrom(model)
    if found:
        fold_quantized_constants(opened)
        refuse_quantized(quantized_operators(opened), where=where)
        remarks.append(
            f"the source keeps {len(found)} of its weights as integers already: what their "
            "rounding cost is lost for good, and is not counted as a loss here"
        )
    scaled = () if samples is None else scale_inputs(opened, samples)
    if scaled:
        remarks.append(
            f"the columns of {', '.join(scaled)} differ in size: each is scaled in float, before "
            "all of them are rounded alike"
        )
    return (opened, tuple(remarks)) if remarks else (model, ())
