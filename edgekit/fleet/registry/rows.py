"""The registry's rows: found, locked, and put together into entries."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgekit.fleet.registry.entries import BundleVersion, Metric, entry_of_row
from edgekit.fleet.store.errors import NotFoundError
from edgekit_runtime.bundle.manifest import Manifest
from edgekit_runtime.versions import Version

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.tables import VersionMetricRow, VersionRow
    from edgekit_benchmarks.results import RecordedRun


def measured_metrics(manifest: Manifest) -> list[Metric]:
    """The figures that a bundle says of itself."""
    return [
        Metric(
            name=variant.accuracy.metric,
            value=variant.accuracy.value,
            variant=variant.id,
            origin=f"{variant.accuracy.samples} samples of {variant.accuracy.dataset_sha256[:12]}",
        )
        for variant in manifest.variants
        if variant.accuracy is not None
    ]


def metric_row(row: VersionRow, metric: Metric) -> VersionMetricRow:
    """A figure as the database holds it."""
    from edgekit.fleet.store.tables import VersionMetricRow

    return VersionMetricRow(
        version_id=row.id,
        variant=metric.variant,
        name=metric.name,
        value=metric.value,
        origin=metric.origin,
    )


def benchmark_metrics(run: RecordedRun, variant: str | None) -> list[Metric]:
    """The figures of one run, if it was of a variant of the version."""
    if variant is None:
        return []
    board = re.sub(r"[^A-Za-z0-9._-]+", "-", run.board or "unnamed").strip("-")[:24]
    setting = f"{run.runtime}-{run.threads}t/{board}"
    origin = f"measured {run.measured_at}, {run.runtime} {run.runtime_version}, {run.runs} runs"
    figures = {"median_ms": run.median_ms, "p99_ms": run.p99_ms, "peak_bytes": run.peak_bytes}
    return [
        Metric(name=f"{name}/{setting}", value=float(value), variant=variant, origin=origin[:128])
        for name, value in figures.items()
        if value is not None
    ]


def find_row(
    session: Session, bundle: str, version: str, *, change: bool = False
) -> VersionRow | None:
    """The row of a version; locked until the transaction ends where it is to be changed."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import VersionRow

    query = select(VersionRow).where(VersionRow.bundle == bundle, VersionRow.version == version)
    return session.scalars(query.with_for_update() if change else query).one_or_none()


def require_row(session: Session, bundle: str, version: str, *, change: bool = False) -> VersionRow:
    """The row of a version.

    Raises:
        NotFoundError: If there is none; the fix lists what there is.
    """
    from sqlalchemy import select

    from edgekit.fleet.store.tables import VersionRow

    row = find_row(session, bundle, version, change=change)
    if row is None:
        query = select(VersionRow.version).where(VersionRow.bundle == bundle)
        known = ", ".join(session.scalars(query.order_by(VersionRow.registered.desc()).limit(10)))
        raise NotFoundError(
            f"{bundle} {version} is not in the registry",
            fix=f"there is: {known}" if known else "see: edgekit registry list",
        )
    return row


def read_entries(session: Session, rows: Iterable[VersionRow]) -> tuple[BundleVersion, ...]:
    """The entries of these rows, by bundle, the newest version first."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import VersionMetricRow, VersionTagRow

    session.flush()
    found = list(rows)
    wanted = [row.id for row in found]
    tags: dict[int, dict[str, str]] = {identifier: {} for identifier in wanted}
    metrics: dict[int, list[Metric]] = {identifier: [] for identifier in wanted}
    tag_query = select(VersionTagRow).order_by(VersionTagRow.name)
    metric_query = select(VersionMetricRow).order_by(
        VersionMetricRow.variant, VersionMetricRow.name
    )
    if len(wanted) == 1:
        tag_query = tag_query.where(VersionTagRow.version_id == wanted[0])
        metric_query = metric_query.where(VersionMetricRow.version_id == wanted[0])
    for tag in session.scalars(tag_query):
        if tag.version_id in tags:
            tags[tag.version_id][tag.name] = tag.value
    for item in session.scalars(metric_query):
        if item.version_id in metrics:
            metrics[item.version_id].append(
                Metric(name=item.name, value=item.value, variant=item.variant, origin=item.origin)
            )
    found.sort(key=lambda row: Version.parse(row.version), reverse=True)
    found.sort(key=lambda row: row.bundle)
    return tuple(entry_of_row(row, tags[row.id], metrics[row.id]) for row in found)
