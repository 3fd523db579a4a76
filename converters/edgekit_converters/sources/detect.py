"""Tell what a source is by its content; its name is only a hint where it is none of these."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgekit_converters.sources.kind import KINDS_READ, SourceKind
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.files import require_file
from edgekit_runtime.formats import ModelFormat, detect_format

_FACTORY: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_XGBOOST_JSON: Final = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*"learner"\s*:')
_HEAD_BYTES: Final = 4096
# A model that is text is read whole only up to here, to look at its keys.
_MAX_JSON_BYTES: Final = 256 << 20
_PICKLE_PROTOCOLS: Final = frozenset(range(2, 6))
# joblib compresses with any of these; the first bytes tell which.
_UNPACKERS: Final[tuple[tuple[bytes, Callable[[bytes], bytes]], ...]] = (
    (b"\x1f\x8b", lambda head: zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, 16)),
    (b"BZh", lambda head: bz2.BZ2Decompressor().decompress(head, 16)),
    (b"\xfd7zXZ", lambda head: lzma.LZMADecompressor().decompress(head, 16)),
    (b"\x5d\x00\x00", lambda head: lzma.LZMADecompressor().decompress(head, 16)),
    (b"x", lambda head: zlib.decompressobj().decompress(head, 16)),
)
_SAVED_MODEL_FILES: Final = ("saved_model.pb", "saved_model.pbtxt")


def detect_source(source: Path) -> SourceKind:
    """Find out what a user gave.

    Args:
        source: A file, the folder of a SavedModel, or `package.module:factory`.

    Raises:
        UsageError: If there is nothing there, it is empty, or it cannot be read.
        UnsupportedModelError: If it is none of the kinds that are read; what it looks like and
            what would help is said.
    """
    if not source.exists() and _FACTORY.fullmatch(str(source)):
        return SourceKind.TORCH_FACTORY
    if source.is_dir():
        return _detect_folder(source)
    require_file(source, kind="a model")
    with source.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    kind = _detect_file(source, head)
    if kind is None:
        raise _refusal(source, _resemblance(head))
    return kind


def name_of(source: Path) -> str:
    """What the files made of a source are named after."""
    if _FACTORY.fullmatch(str(source)) and not source.exists():
        return str(source).rpartition(":")[2].rpartition(".")[2]
    return source.resolve().name if source.is_dir() else source.stem


def _detect_folder(source: Path) -> SourceKind:
    if any((source / name).is_file() for name in _SAVED_MODEL_FILES):
        return SourceKind.SAVED_MODEL
    raise UsageError(
        "this is a folder, and no TensorFlow SavedModel: it holds no saved_model.pb",
        where=str(source),
        fix=f"give a model; what is read: {KINDS_READ}",
    )


def _detect_file(source: Path, head: bytes) -> SourceKind | None:  # noqa: PLR0911 - one a kind
    if head.startswith(b"PK\x03\x04"):
        return _detect_archive(source)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return SourceKind.KERAS
    if head.startswith(b"tree\nversion="):
        return SourceKind.LIGHTGBM
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return _detect_json(source, head)
    if _is_pickle(head) or any(_is_pickle(_unpack(head, *entry)) for entry in _UNPACKERS):
        return SourceKind.PICKLE
    if source.name in _SAVED_MODEL_FILES:
        raise UsageError(
            "this is one file of a TensorFlow SavedModel",
            where=str(source),
            fix=f"give its folder: {source.parent}",
        )
    try:
        found = detect_format(source)
    except UnsupportedModelError:
        return None
    return SourceKind.ONNX if found is ModelFormat.ONNX else SourceKind.TFLITE


def _detect_archive(source: Path) -> SourceKind:
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _refusal(source, f"a damaged zip archive ({error})") from error
    # PyTorch puts everything below one folder, named after the file.
    inner = {name.partition("/")[2] for name in names}
    if "models/model.json" in inner and "archive_format" in inner:
        return SourceKind.TORCH_PROGRAM
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return SourceKind.TORCH_SCRIPT
    if "data.pkl" in inner:
        return SourceKind.TORCH_PICKLE
    if {"config.json", "metadata.json"} <= set(names):
        return SourceKind.KERAS
    if "schema.json" in names:
        return SourceKind.SKOPS
    if "serialized_exported_program.json" in names:
        raise UnsupportedModelError(
            "this .pt2 has the form that PyTorch wrote before 2.8",
            where=str(source),
            fix="load it with the PyTorch that wrote it, export the module again with 2.8 or "
            "newer, and save that with torch.export.save",
        )
    raise _refusal(source, _archive_resemblance(names))


def _archive_resemblance(names: list[str]) -> str:
    if "manifest.json" in names:
        return "an edgekit bundle, whose variants are converted already"
    if names and all(name.endswith(".npy") for name in names):
        return "arrays that numpy saved (.npz)"
    if any(name.endswith("executorch.ptd") or "aotinductor" in name for name in names):
        return "a program that PyTorch compiled for one machine"
    return "a zip archive"


def _detect_json(source: Path, head: bytes) -> SourceKind | None:
    # UBJSON, which XGBoost writes by default, begins as JSON does, with a typed length behind.
    if b"learner" in head[:64] and not head[1:2].isspace() and head[1:2] != b'"':
        return SourceKind.XGBOOST
    # As XGBoost writes it: no need to read hundreds of megabytes to be sure.
    if _XGBOOST_JSON.match(head):
        return SourceKind.XGBOOST
    if source.stat().st_size > _MAX_JSON_BYTES:
        return None
    try:
        document = json.loads(source.read_bytes())
    except (ValueError, RecursionError):
        return None
    keys = set(document) if isinstance(document, dict) else set()
    if "learner" in keys:
        return SourceKind.XGBOOST
    if "tree_info" in keys:
        raise _refusal(
            source,
            "LightGBM's dump_model(), which cannot be loaded again",
            fix="save the model with booster.save_model('model.txt')",
        )
    if {"class_name", "config"} <= keys:
        raise _refusal(
            source,
            "the architecture of a Keras model without its weights",
            fix="save both with model.save('model.keras')",
        )
    return None


def _is_pickle(head: bytes) -> bool:
    return len(head) > 1 and head[0] == 0x80 and head[1] in _PICKLE_PROTOCOLS  # noqa: PLR2004


def _unpack(head: bytes, magic: bytes, unpack: Callable[[bytes], bytes]) -> bytes:
    if not head.startswith(magic):
        return b""
    try:
        return unpack(head)
    except (zlib.error, gzip.BadGzipFile, lzma.LZMAError, OSError, EOFError, ValueError):
        return b""


def _resemblance(head: bytes) -> str:
    known = (
        (b"\x93NUMPY", "an array that numpy saved (.npy)"),
        (b"binf", "the binary form that XGBoost wrote before 3.1: load it there, and save .ubj"),
        (b"PK", "a damaged zip archive"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\x7fELF", "a program"),
    )
    return next((text for magic, text in known if head.startswith(magic)), "")


def _refusal(source: Path, resemblance: str, *, fix: str = "") -> UnsupportedModelError:
    return UnsupportedModelError(
        "this is no model that can be converted"
        + (f"; it looks like {resemblance}" if resemblance else ""),
        where=str(source),
        fix=fix or f"what is read: {KINDS_READ}",
    )
