"""Integers are never NaN: what looks for it goes, where integers are to compute."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit_converters.quantize.to_litert.flat import FlatGraph


def drop_nan_tests(graph: FlatGraph, *, keep: Collection[int]) -> None:
    """Remove every SELECT_V2 that prefers a NaN, in place.

    ONNX's Max and Min hand a NaN on, and LiteRT's do not: a float graph has a comparison of the
    value with itself, and a choice, behind each of them.

    Args:
        graph: A float graph.
        keep: The identities of the operators that stay as they are.
    """
    makers = {out: op for op in graph.operators for out in op.outputs}
    readers = graph.readers()
    gone: set[int] = set()
    for select in graph.operators:
        found = _choice(graph, select, makers)
        if found is None or id(select) in keep:
            continue
        test, maker = found
        if len(readers[select.inputs[2]]) == 1 and len(readers[test.outputs[0]]) == 1:
            maker.outputs = list(select.outputs)
            gone |= {id(select), id(test)}
    graph.operators = [op for op in graph.operators if id(op) not in gone]


def _choice(graph: FlatGraph, select: Any, makers: dict[int, Any]) -> tuple[Any, Any] | None:
    """The test, and what makes the number that is chosen where it finds no NaN."""
    if graph.flat.code_of(select) != "SELECT_V2":
        return None
    test, maker = makers.get(select.inputs[0]), makers.get(select.inputs[2])
    if test is None or maker is None or graph.flat.code_of(test) != "NOT_EQUAL":
        return None
    alike = test.inputs[0] == test.inputs[1] == select.inputs[1]
    rival = graph.flat.code_of(maker) in {"MAXIMUM", "MINIMUM"}
    return (test, maker) if alike and rival and select.inputs[1] in maker.inputs else None
