"""Tell a model's format by its content; a file's name is never trusted."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.files import require_file


class ModelFormat(StrEnum):
    """The formats that a runtime executes."""

    ONNX = "onnx"
    LITERT = "tflite"

    @property
    def suffix(self) -> str:
        """The file ending, with its dot."""
        return f".{self.value}"


# A flatbuffer keeps its four-letter identifier behind the root offset.
_TFLITE_IDENTIFIER = b"TFL3"
# ModelProto's first field on the wire is ir_version (field 1, varint); exporters write it first.
_ONNX_IR_VERSION_TAG = 0x08
_KNOWN_OTHERS = {
    b"PK\x03\x04": "a zip archive (a bundle, a PyTorch .pt2/.pt, a Keras .keras, an .npz?)",
    b"\x89HDF": "an HDF5 file (Keras .h5?)",
    b"\x80\x04\x95": "a Python pickle",
    b"\x80\x02": "a Python pickle",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUM": "a numpy array",
}


def detect_format(path: Path) -> ModelFormat:
    """Find out what kind of model a file holds.

    Only the first bytes are looked at: a damaged body is found when the model is loaded.

    Raises:
        UsageError: If the file is missing, a folder, empty or unreadable.
        UnsupportedModelError: If it is neither ONNX nor TFLite.
    """
    require_file(path, kind="an .onnx or .tflite model")
    with path.open("rb") as file:
        head = file.read(16)
    if head[4:8] == _TFLITE_IDENTIFIER:
        return ModelFormat.LITERT
    # A varint below 128 follows: every IR version so far.
    if len(head) > 2 and head[0] == _ONNX_IR_VERSION_TAG and 0 < head[1] < 0x80:  # noqa: PLR2004
        return ModelFormat.ONNX
    guess = next((text for magic, text in _KNOWN_OTHERS.items() if head.startswith(magic)), None)
    raise UnsupportedModelError(
        "this is no ONNX or TFLite model" + (f"; it looks like {guess}" if guess else ""),
        where=str(path),
        fix="give an .onnx or .tflite file; export other models to ONNX first",
    )


def parse_formats(text: str) -> tuple[ModelFormat, ...]:
    """Read "onnx,tflite".

    Raises:
        UsageError: If a name is unknown.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in set(ModelFormat)]
    if unknown or not names:
        raise UsageError(
            f"unknown format {', '.join(map(repr, unknown)) or repr(text)}",
            fix=f"choose from {', '.join(ModelFormat)}, with commas between",
        )
    return tuple(ModelFormat(name) for name in dict.fromkeys(names))
