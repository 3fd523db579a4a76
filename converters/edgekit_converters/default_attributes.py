"""What nodes leave to the operator's own default, written out where tools forget it."""

from __future__ import annotations

from typing import Any, Final

# Operators whose newer versions mean something else by saying nothing.
_CHANGED_DEFAULTS: Final = frozenset({"DFT", "RoiAlign"})
# The first opset in which a Resize says where it reads, and by default reads elsewhere.
_NEW_RESIZING: Final = 11


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
        present = set()
        for attribute in node.attribute:
            present.add(attribute.name)
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _write(body, opset)
        if node.domain not in {"", "ai.onnx"}:
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


def state_old_resizing(model: Any, opset: int) -> None:
    """Say how a Resize reads that was one, or an Upsample, of an older opset, in place.

    ONNX's converter of versions leaves the attributes out, and so lets it read by a newer default.

    Args:
        model: What the converter returned.
        opset: What the model was written in.
    """
    from onnx import helper

    if opset >= _NEW_RESIZING:
        return
    for node in model.graph.node:
        if node.op_type == "Resize" and node.domain == "" and len(node.attribute) == 1:
            node.attribute.append(
                helper.make_attribute("coordinate_transformation_mode", "asymmetric")
            )
            node.attribute.append(helper.make_attribute("nearest_mode", "floor"))
