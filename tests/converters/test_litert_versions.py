"""Operators name the version that a runtime must have, by their types and options."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit_converters.litert.program import Operator, Tensor
from edgekit_converters.litert.types import ANYTHING
from edgekit_converters.litert.versions import first_runtime, operator_version

TABLE: dict[str, Any] = tomllib.loads(
    resources.files("edgekit_converters.litert").joinpath("versions.toml").read_text("utf-8")
)
CONDITIONS = {
    "version", "input", "output", "dtypes", "rank_over", "broadcast", "inputs", "options",
}  # fmt: skip


@pytest.mark.parametrize("code", list(TABLE))
def test_every_entry_is_sound(code: str) -> None:
    entry = TABLE[code]
    assert hasattr(schema.BuiltinOperator, code)
    versions = {entry.get("base", 1), *(rule["version"] for rule in entry.get("rules", ()))}
    assert {str(version) for version in versions} <= set(entry["runtimes"])
    for rule in entry.get("rules", ()):
        assert set(rule) <= CONDITIONS
        assert set(rule.get("dtypes", ())) <= ANYTHING
    releases = [first_runtime(code, int(version)) for version in entry["runtimes"]]
    assert releases == sorted(releases)


def _operator(code: str, *inputs: tuple[str, tuple[int, ...]], **options: Any) -> Operator:
    tensors = [Tensor(name="x", dtype=dtype, shape=shape) for dtype, shape in inputs]
    output = Tensor(name="y", dtype=inputs[0][0], shape=inputs[0][1])
    return Operator(code=code, inputs=[*tensors], outputs=[output], options=options)


F4, F5 = ("float32", (1, 2, 3, 4)), ("float32", (1, 2, 3, 4, 5))


@pytest.mark.parametrize(
    ("operator", "version"),
    [
        (_operator("ADD", F4, F4), 1),
        (_operator("ADD", ("int64", (2,)), ("int64", (2,))), 4),
        (_operator("MAXIMUM", F5, F5), 1),
        (_operator("MAXIMUM", F4, F5), 3),
        (_operator("PAD", F5), 4),
        (_operator("TRANSPOSE", ("float32", (1,) * 6)), 6),
        (_operator("FULLY_CONNECTED", F4, F4, keepNumDims=True), 6),
        (_operator("FULLY_CONNECTED", F4, F4, F4, keepNumDims=True), 5),
        (_operator("FULLY_CONNECTED", F4, F4, F4, keepNumDims=False), 1),
        (_operator("DEPTHWISE_CONV_2D", F4, dilationHFactor=1, dilationWFactor=1), 1),
        (_operator("DEPTHWISE_CONV_2D", F4, dilationHFactor=1, dilationWFactor=2), 2),
        (_operator("BROADCAST_TO", F4), 2),
        (_operator("RESIZE_BILINEAR", F4, halfPixelCenters=True), 3),
        (_operator("NEG", F4), 1),
    ],
)
def test_the_version_follows_from_types_and_options(operator: Operator, version: int) -> None:
    assert operator_version(operator) == version


def test_a_cast_looks_at_both_of_its_types() -> None:
    cast = _operator("CAST", ("float32", (2,)))
    assert operator_version(cast) == 1
    cast.outputs[0].dtype = "uint32"
    assert operator_version(cast) == 2
    assert first_runtime("CAST", 2) == (2, 7, 0)
