"""Say which source it was, for the report: a hash and a size, of whatever form it has."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from edgekit_runtime.files import sha256_of


def identify(source: Path, model: Any | None) -> tuple[str, int]:
    """SHA-256 and size in bytes of a source.

    Args:
        source: A file; a folder, whose files count with their names; or code, which is identified
            by the ONNX form that came of it.
        model: The ONNX form, an `onnx.ModelProto`.
    """
    if source.is_file():
        return sha256_of(source), source.stat().st_size
    if source.is_dir():
        digest, size = hashlib.sha256(), 0
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(source).as_posix()}\0{sha256_of(path)}\n".encode())
            size += path.stat().st_size
        return digest.hexdigest(), size
    content = model.SerializeToString(deterministic=True) if model is not None else b""
    return hashlib.sha256(content).hexdigest(), len(content)
