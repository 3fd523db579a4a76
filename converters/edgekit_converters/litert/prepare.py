"""ONNX in, ONNX out: say what LiteRT has no kernel for in operators for which it has some.

Operators of classical machine learning and those that ONNX itself defines by others are written
out, and tensors that are known to be empty become constants, because kernels do not agree on what
to do with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import AttributeProto

from edgekit_converters.litert.body_shapes import settle_bodies
from edgekit_converters.litert.definitions import expand_definitions
from edgekit_converters.litert.quantized_constants import fold_quantized_constants
from edgekit_converters.litert.sequences import resolve_sequences
from edgekit_converters.litert.unroll import unroll_loops
from edgekit_converters.ml_operators import expand_ml_operators
from edgekit_converters.normalise import settle_constants
from edgekit_converters.onnx_graphs import replace_nodes

if TYPE_CHECKING:
    from collections.abc import Collection

_MAX_ROUNDS: Final = 8


def prepare(model: Any, known: Collection[str], *, where: str) -> Any:
    """Bring a normalised model into the operators that can be lowered, as far as that goes.

    Args:
        model: An `onnx.ModelProto` as `normalise` returns it; it is not changed.
        known: The operators that can be lowered as they are.
        where: The model's path, for errors.

    Returns:
        An `onnx.ModelProto` whose inputs and outputs are the source's. What has no definition in
        other operators is left for the lowering to refuse.
    """
    plain = expand_ml_operators(model, where=where)
    if plain is not model:
        model = settle_constants(plain, where)
    for _ in range(_MAX_ROUNDS):
        expanded = expand_definitions(model, known)
        changed = expanded is not model
        changed |= fold_quantized_constants(expanded)
        changed |= _name_types(expanded)
        changed |= _fix_empty_values(expanded)
        changed |= resolve_sequences(expanded)
        changed |= unroll_loops(expanded)
        if not changed:
            break
        model = settle_constants(expanded, where)
    return settle_bodies(model, lambda body: prepare(body, known, where=where))


def _name_types(model: Any) -> bool:
    """Make every CastLike a Cast: what it is like gives its type alone."""
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    changed = False
    for node in graph.node:
        target = types.get(node.input[1]) if node.op_type == "CastLike" else None
        if target:
            node.op_type = "Cast"
            del node.input[1:]
            node.attribute.add(name="to", type=AttributeProto.INT, i=target)
            changed = True
    return changed


def _fix_empty_values(model: Any) -> bool:
    """Read constants instead of tensors that have no elements whatever the inputs are."""
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    inputs = {value.name for value in graph.input}
    empty: dict[str, str] = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
        if value.name in constants or 0 not in dims or -1 in dims or not kind.elem_type:
            continue
        name = f"{value.name}/empty" if value.name in inputs | outputs else value.name
        empty[value.name] = name
        if name not in constants:
            array = np.zeros(dims, dtype=helper.tensor_dtype_to_np_dtype(kind.elem_type))
            graph.initializer.append(numpy_helper.from_array(array, name))
    changed = False
    kept = []
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in empty and empty[name] != name:
                node.input[position] = empty[name]
                changed = True
        made = [name for name in node.output if name]
        if made and all(name in empty and name not in outputs for name in made):
            changed = True
            continue
        if len(made) == 1 and made[0] in empty and node.op_type != "Identity":
            # An output of the model keeps its name and gets its nothing from the constant.
            kept.append(helper.make_node("Identity", [empty[made[0]]], made, name=node.name))
            changed = True
            continue
        kept.append(node)
    if changed:
        replace_nodes(graph, kept)
    return changed
