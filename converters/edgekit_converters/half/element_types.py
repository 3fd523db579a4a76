"""The element types of a model's values, without moving its weights about."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.onnx_graphs import bodies_of

if TYPE_CHECKING:
    from collections.abc import Mapping

# Smaller constants stay: shapes are computed from them.
_LARGE_ELEMENTS: Final = 1024


def infer_values(model: Any) -> list[Any]:
    """What ONNX's inference says of each computed value: `ValueInfoProto`s.

    Inference writes the whole model into one message, which ends at 2 GB: it is given a skeleton
    whose large constants are inputs.

    Raises:
        Exception: ONNX's own, where the model contradicts itself.
    """
    import onnx

    skeleton = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    graph = skeleton.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _LARGE_ELEMENTS:
            graph.initializer.append(tensor)
        else:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    inferred = onnx.shape_inference.infer_shapes(
        skeleton, check_type=True, strict_mode=True, data_prop=True
    )
    return list(inferred.graph.value_info)


def element_types(model: Any) -> Mapping[str, int]:
    """The element type of every value of the outermost graph that is a tensor."""
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
    return types


def captured(node: Any) -> set[str]:
    """The names that the bodies inside a node read from outside of them."""
    names: set[str] = set()
    for body in bodies_of(node):
        inside = {value.name for value in body.input} | {t.name for t in body.initializer} | {""}
        for inner in body.node:
            names.update(name for name in inner.input if name not in inside)
            names.update(name for name in captured(inner) if name not in inside)
            inside.update(inner.output)
        names.update(value.name for value in body.output if value.name not in inside)
    return names
