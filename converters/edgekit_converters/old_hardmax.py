"""Hardmax of older opsets, which ONNX's converter of versions takes for today's."""

from __future__ import annotations

from typing import Any, Final

from edgekit_converters.onnx_graphs import replace_nodes

# The first opset in which it is along one axis, by default the last.
_ALONG_AN_AXIS: Final = 13


def flatten_old_hardmax(model: Any, opset: int) -> None:
    """Write out that a Hardmax was of all axes from one on, in place.

    Args:
        model: What the converter returned.
        opset: What the model was written in.
    """
    from onnx import helper

    if opset >= _ALONG_AN_AXIS:
        return
    kept = []
    for node in model.graph.node:
        if node.op_type != "Hardmax" or node.domain != "":
            kept.append(node)
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        name, source, result = node.name, node.input[0], node.output[0]
        flat, chosen, shape = (f"{result}/{role}" for role in ("flattened", "chosen", "sizes"))
        kept += [
            helper.make_node("Flatten", [source], [flat], name=f"{name}/flatten", axis=axis),
            helper.make_node("Hardmax", [flat], [chosen], name=name, axis=-1),
            helper.make_node("Shape", [source], [shape], name=f"{name}/shape"),
            helper.make_node("Reshape", [chosen, shape], [result], name=f"{name}/reshape"),
        ]
    replace_nodes(model.graph, kept)
