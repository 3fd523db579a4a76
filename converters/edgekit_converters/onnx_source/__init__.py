"""Read ONNX files that somebody else made: checked, complete, of a version we understand.

Every check is a function from a model to a list of faults, so that all of them are named at once.
Native code (the checker, shape inference, an engine) sees a model only after they are through.
"""

from edgekit_converters.onnx_source.quantized import quantized_operators
from edgekit_converters.onnx_source.read import (
    OLDEST_IR_VERSION,
    OLDEST_OPSET,
    damaged,
    read_onnx,
)
from edgekit_converters.onnx_source.tensors import doubtful_weights

__all__ = [
    "OLDEST_IR_VERSION",
    "OLDEST_OPSET",
    "damaged",
    "doubtful_weights",
    "quantized_operators",
    "read_onnx",
]
