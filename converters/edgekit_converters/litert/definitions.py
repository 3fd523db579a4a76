"""Write out the operators that ONNX itself defines by others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS, copy_of, opset_of

if TYPE_CHECKING:
    from collections.abc import Collection

# Defined by others too, but its type alone matters, which is known here.
_LEFT_ALONE: Final = frozenset({"CastLike"})
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
    versions = {entry.domain: entry.version for entry in model.opset_import}
    versions[""] = opset_of(model)
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
        model = _inline(model, operator, versions)
    return model


def _key(node: Any) -> str:
    domain = _plain(node.domain)
    return f"{domain}.{node.op_type}" if domain else node.op_type


def _plain(domain: str) -> str:
    """A domain, ONNX's own by the shorter of its names."""
    return "" if domain in STANDARD_DOMAINS else domain


def _definition(node: Any, versions: dict[str, int]) -> Any:
    """The schema of an operator that has a definition, else None."""
    from onnx import defs

    domain = _plain(node.domain)
    try:
        # The stubs leave out what the class has.
        schema: Any = defs.get_schema(node.op_type, versions.get(domain, 1), domain)
    except defs.SchemaError:
        return None
    return schema if schema.has_function or schema.has_context_dependent_function else None


def _inline(model: Any, operator: tuple[str, str], versions: dict[str, int]) -> Any:
    """Give each node its definition as a function of the model, and inline these."""
    import onnx.inliner

    copy = copy_of(model)
    types = _types(copy.graph)
    for number, node in enumerate(copy.graph.node):
        if (node.domain, node.op_type) != operator:
            continue
        function = _function(node, versions, types)
        if function is None:
            return model
        function.name, function.domain = f"{node.op_type}_{number}", _DOMAIN
        for entry in function.opset_import:
            entry.version = versions.get(_plain(entry.domain), 1)
        declared = {*function.attribute, *(entry.name for entry in function.attribute_proto)}
        kept = [entry for entry in node.attribute if entry.name in declared]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.op_type, node.domain = function.name, _DOMAIN
        copy.functions.append(function)
    copy.opset_import.add(domain=_DOMAIN, version=1)
    try:
        inlined = onnx.inliner.inline_local_functions(copy)
    except Exception:  # noqa: BLE001 - the inliner says why in no usable way; the lowering refuses it
        return model
    kept_domains = [entry for entry in inlined.opset_import if entry.domain != _DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept_domains)
    return inlined


def _function(node: Any, versions: dict[str, int], types: dict[str, bytes]) -> Any:
    """The definition of one use of an operator, None where there is none for it."""
    from onnx import FunctionProto

    schema = _definition(node, versions)
    # Not by version: asked for a later one than its own, a definition is withheld.
    if schema.has_function:
        return copy_of(schema.function_body)
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
