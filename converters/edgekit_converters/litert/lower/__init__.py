"""Third stage: one function per ONNX operator that says the same in LiteRT's operators.

Importing this package fills the registry. A function here may not look at other nodes: what
several operators become together is decided before (`layout`) or after (`fuse`).
"""

from edgekit_converters.litert.lower import (  # noqa: F401 - importing them registers them
    accumulation,
    activation,
    arithmetic,
    bits,
    blocks,
    casting,
    causal_convolution,
    classification,
    clip,
    comparison,
    contraction,
    convolution,
    creation,
    curves,
    deformable_convolution,
    dense,
    detection,
    determinant,
    fourier,
    gathering,
    global_pooling,
    grid_sample,
    joining,
    local_response,
    mel_weights,
    ngrams,
    normalization,
    optimizers,
    ordering,
    padding,
    pooling,
    power,
    quantization,
    quantized_products,
    recurrent,
    reduction,
    refused,
    region_pooling,
    resize,
    scattering,
    selection,
    shaping,
    slicing,
    transposed_convolution,
    unary,
    unchanged,
    uniqueness,
    unpooling,
)
from edgekit_converters.litert.lower.registry import Lowering, lower_graph, registered

__all__ = ["Lowering", "lower_graph", "registered"]
