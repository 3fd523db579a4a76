"""What nodes leave to the operator's own default, written out where tools forget it."""

from __future__ import annotations

from typing import Any, Final

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS, bodies_of

# Operators whose newer versions mean something else by saying nothing.
_CHANGED_DEFAULTS: Final = frozenset({"DFT", "RoiAlign"})


def write_default_attributes(model: Any) -> None:
    """Write out the defaults of the operators that ONNX defines by others, in place.

    ONNX's shape inference and inliner read the definitions of such operators with the attributes
    that the node has, and fail where the definition refers to one that it has not.
    """
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    _write(model.graph, opsets.get("", opsets.get("ai.onnx", 1)))


def _write(graph: Any, opset: int) -> None:
    from onnx import defs

    for node in graph.node:
        present = {attribute.name for attribute in node.attribute}
        for body in bodies_of(node):
            _write(body, opset)
        if node.domain not in STANDARD_DOMAINS:
            continue
        try:
            # The stubs leave out what the class has.
            schema: Any = defs.get_schema(node.op_type, opset, "")
        except defs.SchemaError:
            continue
        defined = schema.has_function or schema.has_context_dependent_function
        if not defined and node.op_type not in _CHANGED_DEFAULTS:
            continue
        for name, attribute in schema.attributes.items():
            if name not in present and attribute.default_value.type:
                node.attribute.append(attribute.default_value)
