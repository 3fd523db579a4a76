"""Say the operators of classical machine learning (`ai.onnx.ml`) in ONNX's own operators.

One module a family: a function an operator, which writes nodes that compute what onnxruntime
computes. Imports nothing of the LiteRT converter, which is what it is for.
"""

from edgekit_converters.ml_operators.expand import expand_ml_operators

__all__ = ["expand_ml_operators"]
