"""Float models in half precision, one module a format; what would not fit stays as it was.

Imports neither the quantizers' modules nor the conversion that calls it.
"""

from edgekit_converters.half.litert import write_half_litert
from edgekit_converters.half.onnx import HalfModel, to_float16

__all__ = ["HalfModel", "to_float16", "write_half_litert"]
