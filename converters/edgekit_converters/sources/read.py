"""Read any source: find the module that knows its kind, which imports the framework it needs.

ONNX and TFLite files are checked by code of our own before an engine sees them, and read here; all
others by a process of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgekit_converters.sources.imported import ImportedModel, Progress
from edgekit_converters.sources.kind import SourceKind
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.process import import_in_process

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
    if kind in {SourceKind.ONNX, SourceKind.TFLITE}:
        return reader(kind)(source, options, progress)
    return import_in_process(source, kind, options, progress)


def reader(kind: SourceKind) -> Reader:  # noqa: PLR0911 - one line a kind
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
        case SourceKind.KERAS:
            from edgekit_converters.sources.keras_model import import_keras_model

            return import_keras_model
        case SourceKind.SAVED_MODEL:
            from edgekit_converters.sources.saved_model import import_saved_model

            return import_saved_model
        case SourceKind.PICKLE:
            from edgekit_converters.sources.pickle_file import import_pickle

            return import_pickle
        case SourceKind.SKOPS:
            from edgekit_converters.sources.skops_file import import_skops

            return import_skops
        case SourceKind.XGBOOST:
            from edgekit_converters.sources.xgboost_model import import_xgboost_file

            return import_xgboost_file
        case SourceKind.LIGHTGBM:
            from edgekit_converters.sources.lightgbm_model import import_lightgbm_file

            return import_lightgbm_file
