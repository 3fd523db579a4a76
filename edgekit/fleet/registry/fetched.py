"""What was fetched from elsewhere, before it is registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgekit_runtime.bundle.archive import SUFFIX
from edgekit_runtime.errors import GateFailedError, UsageError

MAX_BYTES: Final = 8 << 30
#: Told how many bytes came, of how many; 0 where that is not known.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A bundle that came.

    Attributes:
        path: Of the file.
        metrics: Figures that came with it.
        origin: What tells exactly which one it was: "revision", "md5", "run", "etag", ….
    """

    path: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)


def only_bundle(folder: Path, source: str) -> Path:
    """The one bundle in a folder.

    Raises:
        UsageError: If there is none, or several.
    """
    found = sorted(folder.rglob(f"*{SUFFIX}"))
    require_one([path.name for path in found], source)
    return found[0]


def require_one(names: list[str], source: str) -> None:
    """Raise a `UsageError` unless there is exactly one bundle."""
    if len(names) != 1:
        raise UsageError(
            f"it holds {len(names)} bundles ({SUFFIX}), one is needed",
            where=source,
            fix="name the bundle's own path; other models are made into bundles by: "
            "edgekit convert, edgekit bundle create",
        )


def require_size(size_bytes: int, source: str) -> None:
    """Raise a `GateFailedError` for what is larger than a bundle may be."""
    if size_bytes > MAX_BYTES:
        raise GateFailedError(f"it is larger than {MAX_BYTES >> 30} GiB", where=source)
