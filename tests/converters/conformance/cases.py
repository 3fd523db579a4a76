"""ONNX's official conformance cases: models, inputs and expected outputs, with their tolerances."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

# What the package ships on disk beside the cases that it generates.
_FOLDERS = ("pytorch-operator", "pytorch-converted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case.

    Attributes:
        name: Unique among all cases.
        model: The `onnx.ModelProto`, exactly as the case gives it.
        data_sets: Pairs of inputs and expected outputs, in the order of the model's own; an entry
            that is no array is a list of arrays, or None.
        rtol: How far outputs may be off, relative to the expected value.
        atol: And absolute, on top of that.
    """

    name: str
    model: Any
    data_sets: tuple[tuple[tuple[Any, ...], tuple[Any, ...]], ...]
    rtol: float
    atol: float

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators that the model is made of, with their domains."""
        found = {
            node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}.{node.op_type}"
            for node in self.model.graph.node
        }
        return tuple(sorted(found))

    @property
    def operator(self) -> str:
        """The operator that the case is about, which its name tells where it has several."""
        if len(self.operators) == 1:
            return self.operators[0]
        return _named_operator(self.name) or "several operators"


@cache
def generated_cases() -> tuple[Case, ...]:
    """The cases that the `onnx` package generates."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    return tuple(
        Case(
            name=case.name,
            model=case.model,
            data_sets=tuple((tuple(given), tuple(wanted)) for given, wanted in case.data_sets),
            rtol=case.rtol,
            atol=case.atol,
        )
        for case in cases
    )


@cache
def stored_cases() -> tuple[Case, ...]:
    """The cases that the `onnx` package ships as files."""
    root = Path(onnx.__file__).parent / "backend" / "test" / "data"
    return tuple(
        _read_case(path) for folder in _FOLDERS for path in sorted((root / folder).iterdir())
    )


def all_cases() -> tuple[Case, ...]:
    """Every case there is."""
    return (*generated_cases(), *stored_cases())


def _read_case(folder: Path) -> Case:
    model = onnx.load(folder / "model.onnx")
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        given = tuple(_read_tensors(data, "input"))
        wanted = tuple(_read_tensors(data, "output"))
        sets.append((given, wanted))
    return Case(name=folder.name, model=model, data_sets=tuple(sets), rtol=1e-3, atol=1e-7)


def _read_tensors(folder: Path, kind: str) -> Iterator[Any]:
    for position in range(len(list(folder.glob(f"{kind}_*.pb")))):
        tensor = onnx.TensorProto()
        tensor.ParseFromString((folder / f"{kind}_{position}.pb").read_bytes())
        yield numpy_helper.to_array(tensor)


@cache
def _operators_by_key() -> dict[str, str]:
    from onnx import defs

    return {schema.name.lower(): schema.name for schema in defs.get_all_schemas()}


def _named_operator(case: str) -> str:
    """The operator whose name a case's begins with, "" if there is none; the longest counts."""
    parts = case.removeprefix("test_").split("_")
    known = _operators_by_key()
    for count in range(len(parts), 0, -1):
        found = known.get("".join(parts[:count]))
        if found:
            return found
    return ""
