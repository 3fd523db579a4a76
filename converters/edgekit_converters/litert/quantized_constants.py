"""ONNX in, ONNX out: numbers instead of constants that are quantized or dequantized.

Weights that a file keeps in few bits are weights all the same, and so they can be of types that
LiteRT has no tensors of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS, replace_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

_INPUTS: Final = 3


def fold_quantized_constants(model: Any) -> bool:
    """Compute QuantizeLinear and DequantizeLinear of constants, in place.

    Returns:
        Whether there were any.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    formulas: dict[str, Callable[..., NDArray[Any] | None]] = {
        "DequantizeLinear": _dequantized,
        "QuantizeLinear": _quantized,
    }
    kept = []
    for node in graph.node:
        formula = formulas.get(node.op_type) if node.domain in STANDARD_DOMAINS else None
        result = None
        if formula and all(name in tensors or not name for name in node.input):
            arrays = [numpy_helper.to_array(tensors[n]) if n else None for n in node.input]
            arrays += [None] * (_INPUTS - len(arrays))
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            result = formula(arrays, attributes)
        if result is None:
            kept.append(node)
            continue
        name = node.output[0]
        if name in outputs:
            # An output of the model keeps its name, and a node that makes it.
            kept.append(helper.make_node("Identity", [f"{name}/value"], [name], name=node.name))
            name = f"{name}/value"
        tensors[name] = numpy_helper.from_array(result, name)
        graph.initializer.append(tensors[name])
    if len(kept) == len(graph.node) and all(a is b for a, b in zip(kept, graph.node, strict=True)):
        return False
    replace_nodes(graph, kept)
    return True


def _dequantized(arrays: list[Any], attributes: Mapping[str, Any]) -> NDArray[Any]:
    from onnx import helper

    values, scale, zero = arrays
    result = values.astype(np.float32)
    if zero is not None:
        result -= _spread(zero.astype(np.float32), values.shape, attributes)
    result = result * _spread(scale.astype(np.float32), values.shape, attributes)
    wanted = attributes.get("output_dtype", 0)
    dtype = helper.tensor_dtype_to_np_dtype(wanted) if wanted else scale.dtype
    return np.asarray(result.astype(dtype))


def _quantized(arrays: list[Any], attributes: Mapping[str, Any]) -> NDArray[Any] | None:
    """None where the target is no integer, or the division is not one of float32."""
    import ml_dtypes
    from onnx import helper

    values, scale, zero = arrays
    wanted = attributes.get("output_dtype", 0)
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    if wanted:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(wanted))
    if scale.dtype != np.float32 or attributes.get("precision", 0) or "int" not in dtype.name:
        return None
    result = np.rint(values.astype(np.float32) / _spread(scale, values.shape, attributes))
    if zero is not None:
        result = result + _spread(zero.astype(np.float32), values.shape, attributes)
    information: Any = ml_dtypes.iinfo
    limits = information(dtype)
    return np.asarray(np.clip(result, int(limits.min), int(limits.max)).astype(dtype))


def _spread(
    parameter: NDArray[Any], shape: tuple[int, ...], attributes: Mapping[str, Any]
) -> NDArray[Any]:
    """One number for all, for each slice of an axis, or for each block, as ONNX has it."""
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    axis = int(attributes.get("axis", 1)) % len(shape)
    block = int(attributes.get("block_size", 0))
    if block:
        return np.repeat(parameter, block, axis=axis).take(range(shape[axis]), axis=axis)
    return parameter.reshape([-1 if at == axis else 1 for at in range(len(shape))])
