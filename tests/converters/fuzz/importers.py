"""What is fuzzed: each importer as a function of a file, ending in words or in an error."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from edgekit_converters.convert import ConversionRequest, Precision, convert_model
from edgekit_runtime.engines.checks import describe
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.session import open_session

_MOST_ELEMENTS: Final = 1 << 24


def import_onnx(path: Path) -> str:
    """A whole conversion to both formats: read, normalise, lower, emit, run, compare."""
    said = ""
    # One after the other: what LiteRT refuses goes the longer way to ONNX.
    for target in (ModelFormat.ONNX, ModelFormat.LITERT):
        request = ConversionRequest(
            source=path,
            output=path.parent / f"made{target.suffix}",
            targets=(target,),
            precisions=(Precision.FLOAT32,),
        )
        report = convert_model(request)
        said += f"{target.value}: {report.artifacts[0].probes} probes. "
    return said


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
