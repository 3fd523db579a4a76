"""Float models in half precision, ONNX's arithmetic included; what would not fit stays as it was.

Imports neither the quantizers' modules nor the conversion that calls it.
"""

from edgekit_converters.half.onnx import HalfModel, to_float16

__all__ = ["HalfModel", "to_float16"]
