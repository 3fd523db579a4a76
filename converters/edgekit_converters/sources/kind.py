"""What a source may be, and which options make sense for it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class SourceKind(StrEnum):
    """The kinds of trained models that can be converted."""

    ONNX = "onnx"
    TFLITE = "tflite"
    TORCH_PROGRAM = "torch-program"
    TORCH_SCRIPT = "torch-script"
    TORCH_FACTORY = "torch-factory"
    TORCH_PICKLE = "torch-pickle"
    KERAS = "keras"
    SAVED_MODEL = "saved-model"
    PICKLE = "pickle"
    SKOPS = "skops"
    XGBOOST = "xgboost"
    LIGHTGBM = "lightgbm"


KINDS_READ: Final = (
    "ONNX, TFLite, PyTorch (.pt2, TorchScript, package.module:factory), Keras (.keras, .h5), a "
    "TensorFlow SavedModel folder, scikit-learn (.skops, .joblib, .pkl), XGBoost (.json, .ubj) and "
    "LightGBM (.txt)"
)
"""For people: everything that `detect_source` can answer."""

TAKES_EXAMPLES: Final = frozenset(
    {
        SourceKind.TORCH_SCRIPT,
        SourceKind.TORCH_FACTORY,
        SourceKind.TORCH_PICKLE,
        SourceKind.PICKLE,
        SourceKind.SKOPS,
    }
)
"""What may be told the shapes of its inputs."""

TAKES_TRUST: Final = frozenset(
    {
        SourceKind.TORCH_PROGRAM,
        SourceKind.TORCH_PICKLE,
        SourceKind.KERAS,
        SourceKind.PICKLE,
        SourceKind.SKOPS,
    }
)
"""What may hold code that runs when it is loaded."""
