"""A `.tflite` file: LiteRT runs it, and its operators are said in ONNX where that is possible."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit_converters.sources.imported import (
    Arrays,
    ImportedModel,
    Progress,
    ReferenceSession,
    specs_of,
)
from edgekit_converters.sources.options import SourceOptions
from edgekit_runtime.session import open_session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def open_tflite_file(source: Path) -> ImportedModel:
    """Open a `.tflite` file to quantize it as it is; see `open_session` for the errors."""
    return ImportedModel(model=None, reference=open_session(source))


def import_tflite_file(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Convert a `.tflite` file to ONNX.

    Raises:
        UnsupportedModelError: If it is damaged, or has operators that ONNX cannot say; all of
            them are named.
        EnvironmentLackError: If an engine or the extra `convert` is not installed.
    """
    from edgekit_converters.tflite_source import import_tflite

    del options
    progress("converting from TFLite to ONNX")
    model = import_tflite(source)
    session = open_session(source)
    inputs, outputs = specs_of(model)
    # By position: ONNX has the signature's names, the engine knows the tensors' own.
    names = [spec.name for spec in session.inputs]

    def predict(arrays: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        given: Arrays = {name: arrays[spec.name] for name, spec in zip(names, inputs, strict=True)}
        answer = session.run(given)
        return [answer[spec.name] for spec in session.outputs]

    return ImportedModel(
        model=model,
        reference=ReferenceSession(
            inputs=inputs,
            outputs=outputs,
            runtime=session.runtime,
            predict=predict,
            where=str(source),
            close=session.close,
        ),
        exporter=f"edgekit {importlib.metadata.version('edgekit')}",
    )
