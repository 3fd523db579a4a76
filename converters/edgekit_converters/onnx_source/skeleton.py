"""A model without its large constants: as good for checks and shape inference, and small.

ONNX's own checks copy the whole model into one message, which costs its size again and cannot
hold 2 GiB.
"""

from __future__ import annotations

import math
from typing import Any, Final

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS, bodies_of

# Shape inference reads constants of sizes, axes and indices; none of those are larger.
_MOST_ELEMENTS: Final = 1024
# Their results look like their first input.
_NOT_INFERRED: Final = frozenset({"GroupNormalization", "MeanVarianceNormalization"})


def skeleton(model: Any) -> Any:
    """A copy in which each large constant is an input of the same name, type and shape.

    Args:
        model: An `onnx.ModelProto`; it is not changed.
    """
    copy = type(model)()
    copy.ir_version = model.ir_version
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    copy.graph.name = model.graph.name
    copy.graph.input.extend(model.graph.input)
    copy.graph.output.extend(model.graph.output)
    copy.graph.value_info.extend(model.graph.value_info)
    declared = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _MOST_ELEMENTS:
            copy.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in declared:
            _declare(copy.graph, tensor.name, tensor)
    for node in model.graph.node:
        tensor = _large_constant(node)
        if tensor is None:
            copy.graph.node.add().CopyFrom(node)
        else:
            _declare(copy.graph, node.output[0], tensor)
    return copy


def inferable(small: Any) -> Any:
    """A skeleton that shape inference can go through, in place: nothing else can use it.

    ONNX (1.23) has no inference for two normalisations, and stops at what reads them.
    """
    for node in small.graph.node:
        if node.op_type in _NOT_INFERRED and node.domain in STANDARD_DOMAINS:
            node.op_type = "Identity"
            del node.input[1:]
            node.ClearField("attribute")
    return small


def take_shapes(inferred: Any, model: Any) -> None:
    """Let a model know of its values what was inferred for its skeleton, in place."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    known = constants | {value.name for value in graph.input}
    graph.ClearField("value_info")
    graph.value_info.extend(inferred.graph.value_info)
    # A large Constant's output is an input of the skeleton.
    graph.value_info.extend(v for v in inferred.graph.input if v.name not in known)
    graph.ClearField("output")
    graph.output.extend(inferred.graph.output)
    kept = iter(inferred.graph.node)
    for node in graph.node:
        if _large_constant(node) is None and bodies_of(twin := next(kept)):
            node.CopyFrom(twin)


def take_large_constants(model: Any, changed: Any) -> None:
    """Give what was made of a model's skeleton its large constants again, in place."""
    graph = changed.graph
    present = {tensor.name for tensor in graph.initializer}
    declared = {value.name for value in model.graph.input}
    large = {t.name: t for t in model.graph.initializer if t.name not in present}
    nodes = {node.output[0]: node for node in model.graph.node if _large_constant(node)}
    added = (large.keys() | nodes.keys()) - declared
    for at in reversed(range(len(graph.input))):
        if graph.input[at].name in added:
            del graph.input[at]
    graph.initializer.extend(large.values())
    for name, node in nodes.items():
        tensor = graph.initializer.add()
        tensor.CopyFrom(_large_constant(node))
        tensor.name = name


def _large_constant(node: Any) -> Any | None:
    if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS or len(node.output) != 1:
        return None
    for attribute in node.attribute:
        if attribute.name == "value" and math.prod(attribute.t.dims) > _MOST_ELEMENTS:
            return attribute.t
    return None


def _declare(graph: Any, name: str, tensor: Any) -> None:
    value = graph.input.add()
    value.name = name
    kind = value.type.tensor_type
    kind.elem_type = tensor.data_type
    for size in tensor.dims:
        kind.shape.dim.add().dim_value = size
