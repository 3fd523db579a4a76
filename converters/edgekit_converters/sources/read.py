"""Read any source: find the module that knows its kind, which imports the framework it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgekit_converters.sources.imported import ImportedModel, Progress
from edgekit_converters.sources.kind import SourceKind
from edgekit_converters.sources.options import SourceOptions
from edgekit_runtime.errors import UnsupportedModelError

Reader = Callable[[Path, SourceOptions, Progress], ImportedModel]


def import_source(
    source: Path, kind: SourceKind, options: SourceOptions, progress: Progress
) -> ImportedModel:
    """Read a source of a known kind.

    Args:
        source: As `detect_source` was given it.
        kind: What `detect_source` answered.
        options: Checked by `check_options`.
        progress: Told one plain sentence a step.

    Raises:
        UsageError: If the options do not fit the model, or it holds code and is not trusted.
        UnsupportedModelError: If it is damaged or has no ONNX form.
        EnvironmentLackError: If a package is missing.
    """
    return _reader(kind)(source, options, progress)


def _reader(kind: SourceKind) -> Reader:
    """The function for a kind; a module is imported for its own kind alone."""
    match kind:
        case SourceKind.ONNX:
            from edgekit_converters.sources.onnx_file import import_onnx_file

            return import_onnx_file
        case SourceKind.TFLITE:
            from edgekit_converters.sources.tflite_file import import_tflite_file

            return import_tflite_file
        case SourceKind.TORCH_PROGRAM:
            from edgekit_converters.sources.torch_program import import_program

            return import_program
        case SourceKind.TORCH_SCRIPT:
            from edgekit_converters.sources.torch_script import import_script

            return import_script
        case SourceKind.TORCH_FACTORY:
            from edgekit_converters.sources.torch_factory import import_factory

            return import_factory
        case SourceKind.TORCH_PICKLE:
            from edgekit_converters.sources.torch_pickle import import_pickled_module

            return import_pickled_module
        case _:
            raise UnsupportedModelError(f"{kind.value} sources are not read yet")
