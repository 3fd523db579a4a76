"""Raise a model's opset where its operators allow it."""

from __future__ import annotations

from typing import Any

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS, bodies_of, opset_of
from edgekit_converters.onnx_source.skeleton import skeleton, take_large_constants


def raise_opset(model: Any, opset: int) -> Any | None:
    """The model in a newer opset, or None where that cannot be done with certainty.

    Where no operator changed between the two versions, the number alone is changed; else ONNX's
    own converter of versions does the work, and its result must pass ONNX's checker.
    """
    import onnx
    from onnx import version_converter

    current = opset_of(model)
    if current >= opset:
        return model
    changed = {name for name in _operators(model.graph) if _changed(name, current, opset)}
    bodies = set().union(
        *(_operators(body) for node in model.graph.node for body in bodies_of(node))
    )
    if changed & bodies:
        # The converter does not look into the bodies of an If or a Loop.
        return None
    if changed:
        values = {value.name for value in model.graph.value_info}
        try:
            raised = version_converter.convert_version(skeleton(model), opset)
            onnx.checker.check_model(raised)
        except Exception:  # noqa: BLE001 - whatever it is, the model stays as it is
            return None
        take_large_constants(model, raised)
        # The converter leaves out what it does not know the shape of; names did not change.
        known = {value.name for value in raised.graph.value_info}
        raised.graph.value_info.extend(
            value for value in model.graph.value_info if value.name in values - known
        )
        return raised
    for entry in model.opset_import:
        if entry.domain in STANDARD_DOMAINS:
            entry.version = opset
    return model


def _operators(graph: Any) -> set[str]:
    """ONNX's own operators in a graph and in the bodies of its nodes."""
    found = {node.op_type for node in graph.node if node.domain in STANDARD_DOMAINS}
    return found.union(*(_operators(body) for node in graph.node for body in bodies_of(node)))


def _changed(operator: str, old: int, new: int) -> bool:
    from onnx import defs

    try:
        versions = [defs.get_schema(operator, opset, "").since_version for opset in (old, new)]
    except defs.SchemaError:
        return True
    return versions[0] != versions[1]
