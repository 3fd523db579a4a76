"""Find the search that a quantized file came from, in the report of its conversion."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit_runtime.errors import UsageError


def find_search(quantized: Path, report: Path | None) -> Mapping[str, Any] | None:
    """What a conversion's report says about its search.

    Args:
        quantized: The file that the conversion made.
        report: Its report; None: look for one beside the file.

    Returns:
        `SearchResult.to_json()`; None where no search ran, or there is no report.

    Raises:
        UsageError: If the report that was named is none, or tells of no search.
    """
    if report is not None:
        document = _read(report)
        if document is None:
            raise UsageError(
                f"{report.name} is no report of `edgekit convert`",
                where=str(report),
                fix="name the .report.json that it wrote",
            )
        found = _search_of(document, quantized)
        if found is None:
            raise UsageError(
                f"{report.name} tells of no search",
                where=str(report),
                fix="convert with --max-accuracy-drop, or leave --search out",
            )
        return found
    for path in _beside(quantized):
        document = _read(path)
        found = _search_of(document, quantized) if document else None
        if found is not None:
            return found
    return None


def _beside(quantized: Path) -> Iterator[Path]:
    yield quantized.with_name(f"{quantized.name}.report.json")
    yield from sorted(quantized.parent.glob("*.report.json"))


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(document, dict) and isinstance(document.get("artifacts"), list)
    return document if known else None


def _search_of(document: Mapping[str, Any], quantized: Path) -> Mapping[str, Any] | None:
    """The search of the scheme that one of the artifacts was made in."""
    artifacts = [
        artifact
        for artifact in document["artifacts"]
        if Path(str(artifact.get("path", ""))).name == quantized.name
    ]
    for artifact in artifacts:
        for scheme in document.get("quantization", []):
            same = scheme.get("scheme") == artifact.get("precision")
            if same and scheme.get("search"):
                found: Mapping[str, Any] = scheme["search"]
                return found
    return None
