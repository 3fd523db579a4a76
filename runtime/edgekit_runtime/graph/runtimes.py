"""Which releases of the runtimes take a model, by what was measured of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Final

from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph.load_check import LoadCheck
from edgekit_runtime.graph.model import Graph, Operator

_STANDARD: Final = "ai.onnx"
_FLOAT: Final = "float32"
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFit:
    """Whether a runtime takes a model.

    Attributes:
        runtime: Its name and version, "and newer" where that holds for later ones.
        runs: True, False, or None where nobody knows.
        reason: What the answer rests on.
    """

    runtime: str
    runs: bool | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRelease:
    """The newest models that a release of onnxruntime takes."""

    version: str
    opset: int
    ir_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRuntimes:
    """What was measured: see `runtimes.json`.

    Attributes:
        onnx: The first releases with each newest opset, oldest first.
        tflite_version: Of tflite-runtime.
        tflite_operators: The first and the last version of each operator that it has.
    """

    onnx: tuple[OnnxRelease, ...]
    tflite_version: str
    tflite_operators: Mapping[str, tuple[int, int]]


@cache
def known_runtimes() -> KnownRuntimes:
    """The measurements that ship with this package."""
    text = resources.files(__package__ or "").joinpath("runtimes.json").read_text("utf-8")
    data = json.loads(text)
    tflite = data["tflite_runtime"]
    return KnownRuntimes(
        onnx=tuple(OnnxRelease(**entry) for entry in data["onnxruntime"]),
        tflite_version=tflite["version"],
        tflite_operators={name: (low, high) for name, (low, high) in tflite["operators"].items()},
    )


def judge_runtimes(graph: Graph, loads: LoadCheck) -> tuple[RuntimeFit, ...]:
    """Say which releases take a model, without asking them.

    Args:
        graph: The model.
        loads: The answer of the engine here: where it refuses the file, nobody knows of others.
    """
    judge = _judge_onnxruntime if graph.format is ModelFormat.ONNX else _judge_tflite_runtime
    fit = judge(graph, known_runtimes())
    if fit.runs and loads.loads is False:
        reason = f"{fit.reason}, but {loads.runtime} refuses the file"
        fit = replace(fit, runs=None, reason=reason)
    return (fit,)


def _judge_onnxruntime(graph: Graph, known: KnownRuntimes) -> RuntimeFit:
    opset = graph.opsets.get(_STANDARD, 0)
    needs = f"opset {opset} and IR {graph.version}"
    first = next(
        (r for r in known.onnx if r.opset >= opset and r.ir_version >= graph.version), None
    )
    if first is None:
        newest = known.onnx[-1]
        return RuntimeFit(
            runtime=f"onnxruntime {newest.version} and older",
            runs=False,
            reason=f"{needs} are newer than its opset {newest.opset} and IR {newest.ir_version}",
        )
    foreign = sorted({o.type for o in (*graph.operators, *graph.inner_operators) if o.custom})
    return RuntimeFit(
        runtime=f"onnxruntime {first.version} and newer",
        runs=None if foreign else True,
        reason=f"takes {needs}; whether it has {', '.join(foreign[:_SHOWN])} is not known"
        if foreign
        else f"by {needs}",
    )


def _judge_tflite_runtime(graph: Graph, known: KnownRuntimes) -> RuntimeFit:
    lacking = {}
    for operator in (*graph.operators, *graph.inner_operators):
        low, high = known.tflite_operators.get(operator.type, (0, 0))
        if operator.custom or not high:
            lacking[operator.type] = f"{operator.type} is not in it"
        elif not low <= operator.version <= high:
            lacking[operator.type] = f"{operator.type} version {operator.version}, it has {high}"
    wrong = [operator.name for operator in graph.operators if _goes_wrong(graph, operator)]
    runs, reason = True, "has every operator in its version"
    if lacking:
        reasons = list(lacking.values())
        more = f" and {len(reasons) - _SHOWN} more" if reasons[_SHOWN:] else ""
        runs, reason = False, "; ".join(reasons[:_SHOWN]) + more
    elif wrong:
        runs = False
        reason = (
            f"computes {len(wrong)} FULLY_CONNECTED wrongly, without an error: float inputs meet "
            "8-bit weights with a scale for each channel"
        )
    return RuntimeFit(runtime=f"tflite-runtime {known.tflite_version}", runs=runs, reason=reason)


def _goes_wrong(graph: Graph, operator: Operator) -> bool:
    """Whether tflite-runtime 2.14 takes the first scale for all (measured)."""
    if operator.type != "FULLY_CONNECTED" or not operator.inputs[1:]:
        return False
    source, weights = (graph.tensors.get(name) for name in operator.inputs[:2])
    return (
        source is not None and weights is not None and source.dtype == _FLOAT and weights.scales > 1
    )
