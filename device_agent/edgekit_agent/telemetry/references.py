"""A bundle's reference statistics, as bins that live values are counted in.

Bins end at the quantiles of the reference, each with its upper bound: the reference's share of a
bin is then known exactly, also where many values are the same. One bin more takes what is above.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from edgekit_runtime.bundle.manifest import Manifest
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.telemetry import MAX_BINS, MAX_FEATURES, FeatureCounts

INPUT: Final = "input"
OUTPUT: Final = "output"
LARGEST: Final = "largest"
_FORMAT: Final = ("edgekit-statistics", 1)
_MAX_FILE_BYTES: Final = 4 << 20
_DIGITS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What one feature looked like.

    Attributes:
        bounds: Upper bounds of all bins but the last, rising; empty where bins are classes.
        expected: The share of each bin.
    """

    bounds: tuple[float, ...]
    expected: tuple[float, ...]

    def counted(self, counts: Sequence[int], nonfinite: int = 0) -> FeatureCounts:
        """Counts in these bins, and of values that are no number."""
        return FeatureCounts(
            expected=self.expected,
            counts=tuple(counts),
            ordered=bool(self.bounds),
            nonfinite=nonfinite,
        )


def bins_of_quantiles(quantiles: Sequence[float]) -> Reference:
    """Bins for values whose quantiles at even shares, minimum and maximum included, are known."""
    last = len(quantiles) - 1
    # Of quantiles that are equal, the last one: so many values are at most that large.
    below = {value: position / last for position, value in enumerate(quantiles)}
    shares, before = [], 0.0
    for share in below.values():
        shares.append(round(share - before, _DIGITS))
        before = share
    return Reference(bounds=tuple(below), expected=(*shares, 0.0))


def bins_of_classes(counts: Sequence[int]) -> Reference:
    """A bin for each class."""
    total = sum(counts)
    return Reference(bounds=(), expected=tuple(round(n / total, _DIGITS) for n in counts))


def load_references(read: Callable[[str], bytes], manifest: Manifest) -> dict[str, Reference]:
    """The references of a bundle's features: "input:x", "output:y", "largest:y".

    What is missing or of another form is left out: a model serves without statistics too.

    Args:
        read: Gives the content of one of the bundle's files.
        manifest: Of the bundle.
    """
    if not manifest.reference_statistics:
        return {}
    try:
        data = read(manifest.reference_statistics)
        document = json.loads(data) if len(data) <= _MAX_FILE_BYTES else None
    except (EdgekitError, OSError, ValueError, RecursionError):
        return {}
    reader = FieldReader(document)
    if (reader.raw("format"), reader.raw("format_version")) != _FORMAT:
        return {}
    found: dict[str, Reference] = {}
    for side, kind, contracts in (
        ("inputs", INPUT, manifest.inputs),
        ("outputs", OUTPUT, manifest.outputs),
    ):
        for contract in contracts:
            summary = FieldReader(FieldReader(reader.raw(side)).raw(contract.name))
            quantiles = _rising(summary.raw("quantiles"))
            if quantiles:
                found[f"{kind}:{contract.name}"] = bins_of_quantiles(quantiles)
    for contract in manifest.outputs:
        classes = _whole(FieldReader(reader.raw("largest")).raw(contract.name))
        if classes:
            found[f"{LARGEST}:{contract.name}"] = bins_of_classes(classes)
    return dict(list(found.items())[:MAX_FEATURES])


def _rising(values: object) -> list[float]:
    if not isinstance(values, list) or not 2 <= len(values) < MAX_BINS:  # noqa: PLR2004
        return []
    if not all(isinstance(v, int | float) and abs(v) < float("inf") for v in values):
        return []
    return values if values == sorted(values) else []


def _whole(values: object) -> list[int]:
    if not isinstance(values, list) or not 1 < len(values) <= MAX_BINS:
        return []
    if not all(isinstance(v, int) and v >= 0 for v in values) or not sum(values):
        return []
    return values
