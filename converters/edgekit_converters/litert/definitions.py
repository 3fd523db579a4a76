"""Write out the operators that ONNX itself defines by others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection

# Defined by others too, but its type alone matters, which is known here.
_LEFT_ALONE: Final = frozenset({"CastLike"})
_OWN_DOMAINS: Final = frozenset({"", "ai.onnx"})
# Where a definition stands as a function of the model, for as long as it takes to inline it.
_DOMAIN: Final = "edgekit.definition"


def expand_definitions(model: Any, known: Collection[str]) -> Any:
    """Write out every operator that is not `known` and that ONNX defines.

    Args:
        model: An `onnx.ModelProto` with inferred shapes; it is not changed.
        known: Operators to leave as they are.

    Returns:
        A new model, or the same one where nothing could be written out.
    """
    versions = {entry.domain or "": entry.version for entry in model.opset_import}
    versions[""] = versions.get("", versions.get("ai.onnx", 0))
    wanted = sorted(
        {
            (node.domain, node.op_type)
            for node in model.graph.node
            if _key(node) not in known
            and node.op_type not in _LEFT_ALONE
            and _definition(node, versions) is not None
        }
    )
    for operator in wanted:
        expanded = _inline_by_schema(model, operator) if operator[0] in _OWN_DOMAINS else model
        model = _inline_as_functions(model, operator, versions) if expanded is model else expanded
    return model


def _key(node: Any) -> str:
    return node.op_type if node.domain in _OWN_DOMAINS else f"{node.domain}.{node.op_type}"


def _definition(node: Any, versions: dict[str, int]) -> Any:
    """The schema of an operator that has a definition, else None."""
    from onnx import defs

    domain = "" if node.domain in _OWN_DOMAINS else node.domain
    try:
        # The stubs leave out what the class has.
        schema: Any = defs.get_schema(node.op_type, versions.get(domain, 1), domain)
    except defs.SchemaError:
        return None
    return schema if schema.has_function or schema.has_context_dependent_function else None


def _inline_by_schema(model: Any, operator: tuple[str, str]) -> Any:
    import onnx.inliner
    from onnx import helper

    graph = model.graph
    told = {value.name for value in graph.value_info}
    # The inliner does not look at the types of constants.
    constants = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
        if tensor.name not in told
    ]
    graph.value_info.extend(constants)
    try:
        return onnx.inliner.inline_selected_functions(
            model, [operator], exclude=False, inline_schema_functions=True
        )
    except Exception:  # noqa: BLE001 - the inliner says why in no usable way
        # It gives up on types that it meets inside of a definition and does not know.
        return model
    finally:
        del graph.value_info[len(graph.value_info) - len(constants) :]


def _inline_as_functions(model: Any, operator: tuple[str, str], versions: dict[str, int]) -> Any:
    """Give each node its definition as a function of the model, and inline these."""
    import onnx.inliner

    copy = type(model)()
    copy.CopyFrom(model)
    types = _types(copy.graph)
    for number, node in enumerate(copy.graph.node):
        if (node.domain, node.op_type) != operator:
            continue
        function = _function(_definition(node, versions), node, types)
        if function is None:
            return model
        function.name, function.domain = f"{node.op_type}_{number}", _DOMAIN
        for entry in function.opset_import:
            entry.version = versions.get("" if entry.domain in _OWN_DOMAINS else entry.domain, 1)
        declared = {*function.attribute, *(entry.name for entry in function.attribute_proto)}
        kept = [entry for entry in node.attribute if entry.name in declared]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.op_type, node.domain = function.name, _DOMAIN
        copy.functions.append(function)
    copy.opset_import.add(domain=_DOMAIN, version=1)
    try:
        inlined = onnx.inliner.inline_local_functions(copy)
    except Exception:  # noqa: BLE001 - as above: left for the lowering to refuse
        return model
    kept_domains = [entry for entry in inlined.opset_import if entry.domain != _DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept_domains)
    return inlined


def _function(schema: Any, node: Any, types: dict[str, bytes]) -> Any:
    from onnx import FunctionProto

    if schema.has_function:
        function = FunctionProto()
        function.CopyFrom(schema.function_body)
        return function
    if any(name and name not in types for name in node.input):
        return None
    # An input that is left out has no type.
    given = [types.get(name, b"") for name in node.input]
    try:
        content = schema.get_context_dependent_function(node.SerializeToString(), given)
    except Exception:  # noqa: BLE001 - a definition that does not cover this use of the operator
        return None
    return FunctionProto.FromString(content) if content else None


def _types(graph: Any) -> dict[str, bytes]:
    """The serialised `TypeProto` of every value."""
    from onnx import helper

    types = {
        value.name: value.type.SerializeToString()
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    for tensor in graph.initializer:
        kind = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        types.setdefault(tensor.name, kind.SerializeToString())
    return types
