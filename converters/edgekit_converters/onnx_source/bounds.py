"""Refuse models whose size alone would exhaust this machine, before anything walks into them."""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from edgekit_converters.onnx_source.walk import bodies, call_key, function_key

# Protobuf cannot hold more in one file, and neither can a .tflite.
MAX_MODEL_BYTES: Final = 2**31 - 1
# The largest networks that are exported have some ten thousand; each costs milliseconds here.
MAX_NODES: Final = 100_000
# A loop in a loop in a branch is three.
MAX_NESTING: Final = 16
# Exporters nest modules as functions, some ten deep.
MAX_CALL_DEPTH: Final = 64
# What no device of this class could hold, and where 32-bit sizes in the engines end.
MAX_TENSOR_BYTES: Final = 2**32
# A gigabyte of floats: an input that is made up several times to try the model.
MAX_INPUT_ELEMENTS: Final = 2**28
# numpy's limit before version 2; LiteRT's kernels end at eight.
MAX_RANK: Final = 32


def size_faults(model: Any) -> list[str]:
    """Everything about the number of nodes and their nesting that is beyond the limits.

    Functions are counted as often as they are called, as they will be once they are expanded.
    """
    try:
        expanded, depth = _expand_functions(model)
    except graphlib.CycleError as error:
        circle = " -> ".join(error.args[1])
        return [f"its functions call each other in a circle: {circle}"]
    if depth > MAX_CALL_DEPTH:
        return [f"its functions call each other {depth} deep, the limit is {MAX_CALL_DEPTH}"]
    total, nesting = _count(model.graph, expanded, 0)
    faults = []
    if total > MAX_NODES:
        faults.append(f"it has {total} operators, the limit is {MAX_NODES}")
    for function in model.functions:
        nesting = max(nesting, _count(function, expanded, 0)[1])
    if nesting > MAX_NESTING:
        faults.append(f"its graphs are nested {nesting} deep, the limit is {MAX_NESTING}")
    return faults


def _expand_functions(model: Any) -> tuple[dict[str, int], int]:
    """How many nodes a call of each function makes, and how deep the calls go."""
    functions = {function_key(function): function for function in model.functions}
    calls = {key: _calls(function, functions) for key, function in functions.items()}
    sizes: dict[str, int] = {}
    depths: dict[str, int] = {}
    for key in graphlib.TopologicalSorter(calls).static_order():
        sizes[key] = _count(functions[key], sizes, 0)[0]
        depths[key] = 1 + max((depths[called] for called in calls[key]), default=0)
    return sizes, max(depths.values(), default=0)


def _calls(body: Any, functions: Mapping[str, Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    for node in body.node:
        key = call_key(node)
        if key in functions:
            found[key] += 1
        for _, graph in bodies(node):
            found.update(_calls(graph, functions))
    return found


def _count(body: Any, expanded: Mapping[str, int], depth: int) -> tuple[int, int]:
    """Nodes in a body and in the graphs within, and how deep those are nested."""
    total, deepest = 0, depth
    for node in body.node:
        total += max(expanded.get(call_key(node), 1), 1)
        for _, graph in bodies(node):
            inner, nesting = _count(graph, expanded, depth + 1)
            total += inner
            deepest = max(deepest, nesting)
    return total, deepest
