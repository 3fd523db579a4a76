"""What is fuzzed: each importer as a function of a file, ending in words or in an error."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_converters.onnx_source import read_onnx
from edgekit_converters.parity import compare, probes_for
from edgekit_runtime.engines.checks import describe
from edgekit_runtime.session import Session, open_session

_MOST_ELEMENTS: Final = 1 << 24


def import_onnx(path: Path) -> str:
    """The stages of a conversion to both formats: read, normalise, lower, emit, run, compare."""
    model = normalise(read_onnx(path), where=str(path))
    source = open_session(path)
    plain = path.with_suffix(".plain.onnx")
    plain.write_bytes(model.SerializeToString())
    said = _parity(source, plain)
    compiled = compile_to_litert(model, where=str(path))
    target = path.with_suffix(".tflite")
    target.write_bytes(compiled.content)
    return f"{said}; {_parity(source, target)}"


def run_tflite(path: Path) -> str:
    """Open a file with the engine and run it once."""
    session = open_session(path)
    shapes = {spec.name: [size or 1 for size in spec.shape] for spec in session.inputs}
    if sum(math.prod(shape) for shape in shapes.values()) > _MOST_ELEMENTS:
        return "inputs that are too large to be tried"
    inputs = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in session.inputs}
    return ", ".join(describe(array.shape) for array in session.run(inputs).values())


def import_tflite(path: Path) -> str:
    """From `.tflite` to ONNX, and ONNX's own check of what comes out."""
    import onnx

    from edgekit_converters.tflite_source import import_tflite as convert

    onnx.checker.check_model(convert(path))
    return "checked"


def _parity(source: Session, path: Path) -> str:
    artifact = open_session(path)
    found = compare(source, artifact, probes_for(source.inputs, None))
    artifact.close()
    return f"{found.probes} probes, largest error {found.max_relative_error:.3g}"


def end_the_process(_: Path) -> str:
    """What native code does when an assertion of its own fails."""
    os.abort()


def never_answer(_: Path) -> str:
    """What an endless loop looks like from outside."""
    time.sleep(1000)
    return "late"


IMPORTERS: Final[Mapping[str, Callable[[Path], str]]] = {
    "import_onnx": import_onnx,
    "run_tflite": run_tflite,
    "import_tflite": import_tflite,
    "end_the_process": end_the_process,
    "never_answer": never_answer,
}
