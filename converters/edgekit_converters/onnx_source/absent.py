"""Refuse operators that leave out what they need: engines read it without asking."""

from __future__ import annotations

from typing import Any, Final

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS
from edgekit_converters.onnx_source.walk import label, scopes

# onnxruntime 1.32 ends the process when it fuses one whose last input has an empty name.
_NO_EMPTY_LAST: Final = {"LayerNormalization": 2}


def absent_faults(model: Any, opset: int) -> list[str]:
    """Every input with an empty name that is not optional."""
    faults = []
    for scope in scopes(model):
        for node in scope.body.node:
            if "" in node.input and node.domain in STANDARD_DOMAINS:
                faults += [
                    scope.at(f"{label(node)}: input {position} has no name, {reason}")
                    for position, reason in _empty(node, opset)
                ]
    return faults


def _empty(node: Any, opset: int) -> list[tuple[int, str]]:
    from onnx import defs

    if not defs.has(node.op_type, opset, ""):
        return []
    formal = defs.get_schema(node.op_type, opset, "").inputs
    found = []
    for position, name in enumerate(node.input):
        if name:
            continue
        option = formal[min(position, len(formal) - 1)].option
        if option != defs.OpSchema.FormalParameterOption.Optional:
            found.append((position, "and the operator needs it"))
        elif _NO_EMPTY_LAST.get(node.op_type) == position:
            found.append((position, "which onnxruntime does not survive: leave it out altogether"))
    return found
