"""An ONNX file: it is its own ONNX form, and onnxruntime runs it."""

from __future__ import annotations

from pathlib import Path

from edgekit_converters.onnx_source import read_onnx
from edgekit_converters.sources.imported import ImportedModel, Progress
from edgekit_converters.sources.options import SourceOptions
from edgekit_runtime.session import open_session


def import_onnx_file(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Read and check an ONNX file; see `read_onnx` and `open_session` for the errors."""
    del options, progress
    return ImportedModel(model=read_onnx(source), reference=open_session(source))
