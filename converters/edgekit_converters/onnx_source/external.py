"""Load weights that lie in files beside the model, and from nowhere else.

A model names those files itself, so a model from a stranger could name any file of this machine:
https://onnx.ai/onnx/repo-docs/ExternalData.html. Only regular files inside the model's own folder
are read, links followed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from edgekit_converters.onnx_source.tensors import stored_bytes, type_name
from edgekit_converters.onnx_source.walk import tensors

_EXTERNAL: Final = 1
_DEFAULT: Final = 0
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """Where the bytes of one tensor are.

    Attributes:
        tensor: The `TensorProto`.
        place: Words that a person finds the tensor by.
        file: Resolved, inside the model's folder.
        offset_bytes: From the start of the file.
        length_bytes: What the tensor's shape and type need.
    """

    tensor: Any
    place: str
    file: Path
    offset_bytes: int
    length_bytes: int


class _BadReferenceError(Exception):
    """A reference to another file cannot be followed; the message is the reason."""


def find_external(model: Any, path: Path) -> tuple[list[StoredPart], list[str]]:
    """Find every tensor that is stored in another file.

    Returns:
        The parts that can be read, and what is wrong with the others.
    """
    folder = path.parent.resolve()
    parts, faults = [], []
    for place, tensor in tensors(model):
        if tensor.data_location == _EXTERNAL:
            try:
                parts.append(_part(tensor, place, folder))
            except _BadReferenceError as refusal:
                faults.append(f"{place} {refusal}")
    return parts, faults


def load_external(parts: list[StoredPart]) -> list[str]:
    """Put the bytes into the tensors; returns what could not be read."""
    faults = []
    for part in parts:
        try:
            with part.file.open("rb") as file:
                file.seek(part.offset_bytes)
                content = file.read(part.length_bytes)
        except OSError as error:
            faults.append(f"{part.place} cannot be read from {part.file.name!r}: {error.strerror}")
            continue
        if len(content) != part.length_bytes:
            faults.append(f"{part.place} is cut short in {part.file.name!r}")
            continue
        part.tensor.raw_data = content
        part.tensor.data_location = _DEFAULT
        del part.tensor.external_data[:]
    return faults


def _part(tensor: Any, place: str, folder: Path) -> StoredPart:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    twice = [key for key, n in Counter(e.key for e in tensor.external_data).items() if n > 1]
    if twice:
        raise _BadReferenceError(f"says its {twice[0]} twice")
    kind = type_name(tensor.data_type)
    if kind == "STRING":
        raise _BadReferenceError("holds texts, which cannot be in another file")
    location = entries.get("location", "")
    file = _file(location, folder)
    needed = stored_bytes(math.prod(tensor.dims), kind)
    offset = _number(entries, "offset", default=0)
    length = _number(entries, "length", default=needed)
    if length != needed:
        raise _BadReferenceError(f"needs {needed} bytes and refers to {length} of {location!r}")
    size = file.stat().st_size
    if offset + length > size:
        raise _BadReferenceError(
            f"refers to bytes {offset} to {offset + length} of {location!r}, which has {size}"
        )
    return StoredPart(
        tensor=tensor, place=place, file=file, offset_bytes=offset, length_bytes=length
    )


def _file(location: str, folder: Path) -> Path:
    if not location or "\0" in location:
        raise _BadReferenceError("is in another file and does not say in which")
    # A model may come from another system: both ways to write a path are looked through.
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if posix.is_absolute() or windows.drive or windows.root:
        raise _BadReferenceError(f"refers to the absolute path {location!r}")
    if ".." in posix.parts or ".." in windows.parts:
        raise _BadReferenceError(f"refers to {location!r}, outside the model's folder")
    try:
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            raise _BadReferenceError(
                f"refers to {location!r}, a link that leads outside the model's folder"
            )
        if not file.exists():
            raise _BadReferenceError(f"is in the file {location!r}, which is missing")
        if not file.is_file():
            raise _BadReferenceError(f"refers to {location!r}, which is no file")
    except (OSError, RuntimeError, ValueError) as error:
        raise _BadReferenceError(f"refers to {location!r}, which cannot be opened") from error
    return file


def _number(entries: dict[str, str], key: str, *, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise _BadReferenceError(f"has the impossible {key} {text!r}")
    return int(text)
