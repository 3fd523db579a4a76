"""Versions of operators, so that an older runtime refuses what it would run wrongly."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit_converters.litert.program import Operator

Release = tuple[int, ...]
# What the oldest of LiteRT's ancestors had.
OLDEST_RUNTIME: Release = (1, 5, 0)


def operator_version(operator: Operator) -> int:
    """The version that a file has to name for this operator with these types and options.

    See `versions.toml`, which says where the rules come from.
    """
    entry = _table().get(operator.code, {})
    for rule in entry.get("rules", ()):
        if _fits(rule, operator):
            return int(rule["version"])
    return int(entry.get("base", 1))


def first_runtime(code: str, version: int) -> Release:
    """The first TensorFlow release whose runtime has a version of an operator."""
    known = _table().get(code, {}).get("runtimes", {})
    text = known.get(str(version))
    return OLDEST_RUNTIME if text is None else tuple(int(part) for part in text.split("."))


def _fits(rule: Mapping[str, Any], operator: Operator) -> bool:
    there = [tensor for tensor in operator.inputs if tensor is not None]
    tensor = operator.inputs[rule.get("input", 0)]
    if "inputs" in rule and len(there) != rule["inputs"]:
        return False
    if "dtypes" in rule:
        types = {tensor.dtype} if tensor else set()
        if "output" in rule:
            types.add(operator.outputs[rule["output"]].dtype)
        if not types.intersection(rule["dtypes"]):
            return False
    if "rank_over" in rule:
        # Of two inputs that are broadcast, the one with more axes counts.
        ranks = [len(item.shape) for item in (there if "broadcast" in rule else [tensor]) if item]
        if max(ranks, default=0) <= rule["rank_over"]:
            return False
    if rule.get("broadcast") and there[0].shape == there[1].shape:
        return False
    options = rule.get("options", {})
    return all(operator.options.get(field) in values for field, values in options.items())


@cache
def _table() -> Mapping[str, Any]:
    text = resources.files("edgekit_converters.litert").joinpath("versions.toml").read_text("utf-8")
    return tomllib.loads(text)
