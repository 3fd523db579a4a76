"""Recognise what exporters write out in many nodes, and say it in few: ONNX in, ONNX out.

Each pattern is one function that reads a normalised graph and answers with a `Rewrite`; one place
decides whether that rewrite is safe and applies it. Only standard operators are written, so that
the result stays portable. Knows nothing of LiteRT.
"""

from edgekit_converters.patterns.simplify import simplify

__all__ = ["simplify"]
