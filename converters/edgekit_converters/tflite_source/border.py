"""What the model takes and gives, as ONNX says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.model import Model, Tensor

_BATCH = "batch"


def output_names(model: Model) -> list[str]:
    """A name for each output; the file may give one tensor twice, and ONNX needs two names."""
    taken = {tensor.name for tensor in model.inputs}
    names = []
    for tensor in model.outputs:
        name, number = tensor.name, 2
        while name in taken:
            name, number = f"{tensor.name}#{number}", number + 1
        taken.add(name)
        names.append(name)
    return names


def value_info(model: Model, tensor: Tensor, name: str) -> Any:
    """The declaration of an input or output; a free first axis is the batch.

    Where several inputs have one, nothing says that they are equal, so none is named.
    """
    from onnx import helper

    batched = [t for t in model.inputs if t.shape and t.shape[0] is None]
    shape: list[int | str | None] = [
        _BATCH if axis == 0 and size is None and len(batched) == 1 else size
        for axis, size in enumerate(tensor.shape)
    ]
    return helper.make_tensor_value_info(name, element_type(tensor.dtype), shape)


def element_type(dtype: str) -> int:
    """ONNX's number for a type; 0 for one that it lacks."""
    from onnx import helper

    try:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    except (KeyError, TypeError, ValueError):
        return 0
