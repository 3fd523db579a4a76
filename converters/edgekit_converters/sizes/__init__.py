"""Sizes that are free, such as the batch: followed through a model by name, and put to use.

Exporters compute sizes at run time, from the shape of an input, even where all but the batch is
known. This package reads that arithmetic and writes the result into the model. It knows ONNX and
numpy, and of the rest of the converter the pieces of protobuf in `onnx_graphs` alone.
"""

from edgekit_converters.sizes.settle import settle_sizes
from edgekit_converters.sizes.shapes import symbolic_shapes

__all__ = ["settle_sizes", "symbolic_shapes"]
