"""Check what a model says about its inputs, outputs and inner values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from edgekit_converters.onnx_source.bounds import MAX_INPUT_ELEMENTS
from edgekit_converters.onnx_source.known import value_shape
from edgekit_converters.onnx_source.tensors import shape_fault, type_name
from edgekit_converters.onnx_source.walk import Scope, scopes


def free_unknown_sizes(model: Any) -> None:
    """Make sizes of -1 free, in place: some exporters mean that, and onnxruntime reads it so."""
    for _, value in _values(model):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value == -1:
                dim.ClearField("dim_value")


def declared_faults(model: Any) -> list[str]:
    """Element types that do not exist, shapes that no tensor can have, inputs too large to try."""
    faults = []
    for scope, value in _values(model):
        if not value.type.HasField("tensor_type"):
            continue
        code = value.type.tensor_type.elem_type
        kind = type_name(code)
        sizes = [size for size in value_shape(value) or () if size is not None]
        # Undefined is a type as well: inference fills it in.
        fault = shape_fault(sizes, kind) if kind else f"has the unknown element type {code}"
        if fault:
            faults.append(scope.at(f"the value {value.name!r} {fault}"))
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        count = math.prod(size for size in value_shape(value) or () if size is not None)
        if value.name not in stored and count > MAX_INPUT_ELEMENTS:
            faults.append(
                f"the input {value.name!r} has {count} elements, the limit is {MAX_INPUT_ELEMENTS}"
            )
    given = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    faults += [
        f"the output {value.name!r} is the input of that name, of another element type"
        for value in model.graph.output
        if given.get(value.name, value.type.tensor_type.elem_type)
        != value.type.tensor_type.elem_type
    ]
    return faults


def _values(model: Any) -> Iterator[tuple[Scope, Any]]:
    for scope in scopes(model):
        if not scope.is_function:
            body = scope.body
            for value in (*body.input, *body.output, *body.value_info):
                yield scope, value
