"""From `.tflite` to ONNX: read the flatbuffer, say each operator in ONNX's own, check the result.

`model` holds a file as plain data, `registry` knows which function imports which operator, and
`operators` has those functions. The engines are never asked: imports neither `litert` nor them.
"""

from edgekit_converters.tflite_source.import_model import import_tflite

__all__ = ["import_tflite"]
