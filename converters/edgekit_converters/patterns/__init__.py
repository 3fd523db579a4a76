"""Recognise what exporters write out in many nodes, and say it in few: ONNX in, ONNX out.

Each pattern is one function that reads a normalised graph and answers with a `Rewrite`; one place
decides whether that rewrite is safe and applies it. Only standard operators are written, so that
the result stays portable. Knows of a runtime no more than that a pattern pays there alone.
"""

from edgekit_converters.patterns.simplify import simplify, simplify_for

__all__ = ["simplify", "simplify_for"]
