"""The scales of the weights of a product, so that its bias and its kernels get along with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.quantize.affine import WEIGHTS_INT8, weight_scales, widen_for_bias

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.quantize.affine import Affine
    from edgekit_converters.quantize.to_litert.flat import FlatGraph
    from edgekit_converters.quantize.to_litert.operators import Rule

# With 16 bits the kernels have 48 bits for sums, of which many are left for the products.
_MOST_FOR_BIAS: Final = {"int8": 2.0**30, "int16": 2.0**38}
# What the delegate refuses is below 2**-32 of the output's scale; it would be rounded to zero.
_LEAST_SHARE: Final = 2.0**-31


def product_weight_scales(
    graph: FlatGraph, operator: Any, rule: Rule, reading: Affine, made: Affine | None = None
) -> NDArray[np.float32]:
    """The scales of an operator's weights, one a channel.

    Args:
        graph: Of floats; the weights are a constant of it.
        operator: The product.
        rule: Where its weights and bias are.
        reading: How the integers are read that are multiplied with the weights.
        made: How those are read that it makes, where that is decided.
    """
    weights = graph.array(operator.inputs[rule.weight or 0])
    if weights is None:
        raise AssertionError  # the placement has constants alone
    scales = weight_scales(weights, rule.axis, WEIGHTS_INT8)
    step = float(reading.scale)
    bias = bias_of(graph, operator, rule)
    if bias is not None:
        most = _MOST_FOR_BIAS[reading.codes.dtype]
        scales = widen_for_bias(scales, bias.reshape(-1), step, most=most)
    if made is not None:
        scales = np.maximum(scales, np.float32(_LEAST_SHARE * float(made.scale) / step))
    return scales


def bias_of(graph: FlatGraph, operator: Any, rule: Rule) -> NDArray[Any] | None:
    """The bias of an operator, None where it has none."""
    there = rule.bias is not None and rule.bias < len(operator.inputs)
    return graph.array(operator.inputs[rule.bias or 0]) if there else None
