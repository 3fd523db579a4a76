"""ONNX in, ONNX out: say what LiteRT has no kernel for in operators for which it has some.

Operators that ONNX itself defines by others are written out, and tensors that are known to be
empty become constants, because kernels do not agree on what to do with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.normalise import drop_unread, fold_constants, infer_shapes

if TYPE_CHECKING:
    from collections.abc import Collection

_MAX_ROUNDS = 8


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
    for _ in range(_MAX_ROUNDS):
        expanded = _expand_definitions(model, known, where)
        emptied = _fix_empty_values(expanded)
        if expanded is model and not emptied:
            break
        model = expanded
        fold_constants(model, where)
        drop_unread(model)
        model = infer_shapes(model, where)
    return model


def _expand_definitions(model: Any, known: Collection[str], where: str) -> Any:
    """Write out the operators that are unknown here and that ONNX defines by others."""
    import onnx.inliner

    from edgekit_runtime.errors import UnsupportedModelError

    opset = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    wanted = sorted(
        {
            (node.domain, node.op_type)
            for node in model.graph.node
            if node.domain in {"", "ai.onnx"}
            and node.op_type not in known
            and _has_definition(node.op_type, opset)
        }
    )
    if not wanted:
        return model
    try:
        return onnx.inliner.inline_selected_functions(
            model, wanted, exclude=False, inline_schema_functions=True
        )
    except Exception as error:
        names = ", ".join(name for _, name in wanted)
        raise UnsupportedModelError(
            f"{names} cannot be written in other operators: {' '.join(str(error).split())[:300]}",
            where=where,
            fix="convert to ONNX instead, or replace these operators in the model",
        ) from error


def _has_definition(operator: str, opset: int) -> bool:
    from onnx import defs

    try:
        # The stubs leave out what the class has.
        schema: Any = defs.get_schema(operator, opset, "")
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


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
        copies = [type(node).FromString(node.SerializeToString()) for node in kept]
        graph.ClearField("node")
        graph.node.extend(copies)
    return changed
