"""Infer shapes step by step, so that ONNX's inference never meets an impossible one.

`onnx.shape_inference` (1.23) ends the process when a Slice is applied to a size below zero, and
other operators compute such sizes without complaint: a pool whose window is larger than its input,
a Pad that takes away too much, a Resize that overflows. So a graph is inferred in parts: wherever
a Slice reads what such an operator may have computed, the sizes found so far are checked first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

from edgekit_converters.onnx_source.structure import reads
from edgekit_converters.onnx_source.tensors import shape_fault, type_name
from edgekit_converters.onnx_source.walk import Scope, bodies, label

# Their sizes are computed by subtraction, or from numbers that nothing bounds.
_UNBOUNDED: Final = frozenset(
    {
        "AveragePool", "CenterCropPad", "Col2Im", "ConstantOfShape", "Conv", "ConvInteger",
        "ConvTranspose", "DeformConv", "DepthToSpace", "Expand", "LpPool", "MaxPool",
        "MaxRoiPool", "MaxUnpool", "OneHot", "Pad", "QLinearConv", "Range", "Resize", "RoiAlign",
        "SpaceToDepth", "Split", "SplitToSequence", "STFT", "Tile", "TopK", "Upsample",
    }
)  # fmt: skip
_FRAGILE: Final = "Slice"
_LEAST_IR_VERSION: Final = 8


def infer_in_steps(model: Any) -> list[str]:
    """Put the shapes of all inner values into a model, in place.

    Args:
        model: A skeleton that the checker has passed, without functions.

    Returns:
        What is impossible; then not all shapes are there.

    Raises:
        Exception: Of `onnx.shape_inference`, if the shapes contradict each other.
    """
    nothing = _Outer(values={}, constants={})
    return list(_infer_graph(model, Scope(place="", body=model.graph), nothing))


@dataclasses.dataclass(frozen=True, slots=True)
class _Outer:
    """What is known before a graph runs: types with shapes, and constants."""

    values: Mapping[str, Any]
    constants: Mapping[str, Any]


def _infer_graph(model: Any, scope: Scope, outer: _Outer) -> Iterator[str]:
    graph = scope.body
    del graph.value_info[:]
    values = dict(outer.values) | {value.name: value for value in graph.input}
    constants = dict(outer.constants) | {tensor.name: tensor for tensor in graph.initializer}
    for nodes in _steps(graph):
        found = _infer_part(model, nodes, values, constants)
        faults = list(_impossible(found, scope))
        yield from faults
        if faults:
            return
        for value in found:
            values[value.name] = value
            graph.value_info.append(value)
    for value in graph.output:
        if has_no_shape(value) and value.name in values:
            value.type.CopyFrom(values[value.name].type)
    for node in graph.node:
        for name, body in bodies(node):
            inner = Scope(place=f"the {name} of {label(node)}", body=body)
            yield from _infer_graph(model, inner, _Outer(values, constants))


def has_no_shape(value: Any) -> bool:
    """Whether a `ValueInfoProto` is that of a tensor and says nothing of its shape."""
    kind = value.type
    return bool(kind.HasField("tensor_type") and not kind.tensor_type.HasField("shape"))


def _steps(graph: Any) -> Iterator[list[Any]]:
    """The nodes in parts that can each be inferred at once, one after the other.

    A node whose bodies hold a Slice is in no part: what it computes stays unknown.
    """
    steps: dict[str, int] = {}
    doubtful: dict[str, bool] = {}
    parts: dict[int, list[Any]] = {}
    for node in graph.node:
        if _is_fragile(node) and node.op_type != _FRAGILE:
            continue
        read = [name for name in reads(node) if name in steps]
        step = max((steps[name] for name in read), default=0)
        unsure = any(doubtful[name] for name in read if steps[name] == step)
        if node.op_type == _FRAGILE and unsure:
            step, unsure = step + 1, False
        # The shape of a value is a small vector, whatever the value is.
        unsure = (unsure or node.op_type in _UNBOUNDED) and node.op_type not in {"Shape", "Size"}
        for name in filter(None, node.output):
            steps[name], doubtful[name] = step, unsure
        parts.setdefault(step, []).append(node)
    for step in sorted(parts):
        yield parts[step]


def _is_fragile(node: Any) -> bool:
    """Whether a node is a Slice or has one in its bodies."""
    return node.op_type == _FRAGILE or any(
        _is_fragile(inner) for _, body in bodies(node) for inner in body.node
    )


def _infer_part(
    model: Any, nodes: list[Any], values: Mapping[str, Any], constants: Mapping[str, Any]
) -> list[Any]:
    """The types and shapes of all that some nodes compute."""
    from onnx import shape_inference

    part = type(model)()
    # Before version 4, constants that are no inputs were not looked at.
    part.ir_version = max(model.ir_version, _LEAST_IR_VERSION)
    part.opset_import.extend(model.opset_import)
    part.graph.name = "part"
    part.graph.node.extend(nodes)
    for name in dict.fromkeys(name for node in nodes for name in reads(node)):
        if name in constants:
            part.graph.initializer.append(constants[name])
        elif name in values:
            part.graph.input.append(values[name])
    return list(shape_inference.infer_shapes(part, data_prop=True).graph.value_info)


def _impossible(values: list[Any], scope: Scope) -> Iterator[str]:
    # In a branch that is never taken, inference may find nonsense; only a Slice must not see it.
    lenient = bool(scope.place) and not any(_is_fragile(node) for node in scope.body.node)
    for value in values:
        if not value.type.HasField("tensor_type"):
            continue
        kind = value.type.tensor_type
        sizes = [dim.dim_value for dim in kind.shape.dim if dim.HasField("dim_value")]
        if lenient:
            sizes = [size for size in sizes if size >= 0]
        fault = shape_fault(sizes, type_name(kind.elem_type))
        if fault:
            yield scope.at(f"the value {value.name!r} {fault}")
