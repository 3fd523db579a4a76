"""Find versions: by words, and by the same queries that choose devices.

`stage=production and top1>=0.97 and team=vision and size<5MB`: a query asks for tags, for metrics
(the best of any variant where several have it), and for bundle, version, stage, task, variants,
size in bytes, and registered_by.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgekit.fleet.registry.entries import BundleVersion
from edgekit.fleet.rollouts.labels import Labels, parse_query


def search_versions(
    entries: Iterable[BundleVersion], *, words: str = "", query: str = ""
) -> tuple[BundleVersion, ...]:
    """The entries that hold every word and match the query, in their order.

    Args:
        entries: To choose from.
        words: Each must stand in the name, note, description, source or a tag; case is ignored.
        query: See above; empty for all.

    Raises:
        UsageError: If the query breaks the grammar; says where.
    """
    matches = parse_query(query).matches
    wanted = words.casefold().split()
    return tuple(
        entry
        for entry in entries
        if matches(facts_of(entry)) and all(word in _text(entry) for word in wanted)
    )


def facts_of(entry: BundleVersion) -> Labels:
    """What a query can ask for."""
    metrics: dict[str, float] = {}
    for metric in entry.metrics:
        metrics[metric.name] = max(metric.value, metrics.get(metric.name, metric.value))
    return (
        dict(entry.tags)
        | metrics
        | {
            "bundle": entry.bundle,
            "version": entry.version,
            "stage": entry.stage.value,
            "task": entry.manifest.task,
            "variants": float(len(entry.manifest.variants)),
            "size": float(entry.size_bytes),
            "registered_by": entry.registered_by,
        }
    )


def _text(entry: BundleVersion) -> str:
    tags = (f"{name}={value}" for name, value in entry.tags.items())
    parts = (entry.name, entry.note, entry.manifest.description, entry.source, *tags)
    return "\n".join(parts).casefold()
