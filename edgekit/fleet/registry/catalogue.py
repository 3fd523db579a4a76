"""Take versions into the registry, and change what people say of them; every change is audited."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.registry.entries import (
    MAX_TAG_VALUE,
    METRIC_PATTERN,
    TAG_PATTERN,
    BundleVersion,
    Deployment,
    Metric,
    Stage,
)
from edgekit.fleet.registry.rows import (
    benchmark_metrics,
    find_row,
    measured_metrics,
    metric_row,
    read_entries,
    require_row,
)
from edgekit.fleet.store.inserts import write_alone
from edgekit_runtime.bundle.archive import SUFFIX, BundleArchive
from edgekit_runtime.errors import GateFailedError, UsageError, VerificationError
from edgekit_runtime.files import sha256_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.storage.blobs import Storage
    from edgekit.fleet.store.database import Database
    from edgekit.fleet.store.tables import VersionRow


class Registry:
    """The versions in a database, and their files in a storage.

    Args:
        database: Where the versions are.
        files: Where their `.ekb` files are, by SHA-256; see `open_bundles`.
        actor: Who changes something, for the audit log.
        clock: The time.
    """

    def __init__(
        self, database: Database, files: Storage, *, actor: str, clock: Clock = utc_now
    ) -> None:
        self.database = database
        self._files = files
        self._actor = actor
        self._clock = clock

    def add(
        self,
        bundle: Path,
        *,
        source: str | None = None,
        tags: dict[str, str] | None = None,
        note: str = "",
        origin: dict[str, str] | None = None,
    ) -> BundleVersion:
        """Register a bundle; every file in it is checked, and a copy is kept.

        The same bundle again changes nothing and gives the first entry.

        Args:
            bundle: An `.ekb` file.
            source: Where it came from; the file itself where nothing else is said.
            tags: For the new entry.
            note: For people.
            origin: What tells exactly which file of the source it was; becomes tags `origin/NAME`,
                and stands in the audit log, where nobody changes it.

        Raises:
            GateFailedError: If the version is registered with other content, retired ones too.
            InvalidBundleError: If the bundle breaks the format.
            VerificationError: If its files are not what its manifest says.
            UsageError: If there is no such file, or a tag is none.
        """
        from edgekit.fleet.store.tables import VersionRow, VersionTagRow

        tags = dict(tags or {}) | {
            f"origin/{name}": value[:MAX_TAG_VALUE] for name, value in (origin or {}).items()
        }
        for name, value in tags.items():
            _require_tag(name, value)
        with BundleArchive(bundle) as archive:
            manifest = archive.manifest
            for name in sorted(manifest.files):
                archive.read(name)
        digest = sha256_of(bundle)
        place = source or str(bundle)
        with self.database.read() as session:
            # Before its file is kept: what is refused must not fill the storage.
            _require_same(find_row(session, manifest.name, manifest.version), digest, place)
        self._keep(bundle, digest)
        with self.database.write() as session:
            write_alone(session, VersionRow)
            known = find_row(session, manifest.name, manifest.version)
            _require_same(known, digest, place)
            if known is not None:
                return read_entries(session, [known])[0]
            row = VersionRow(
                bundle=manifest.name,
                version=manifest.version,
                file_sha256=digest,
                size_bytes=bundle.stat().st_size,
                stage=Stage.DEVELOPMENT.value,
                registered=self._clock().timestamp(),
                registered_by=self._actor,
                source=place,
                note=note,
                manifest=json.loads(manifest.to_json()),
            )
            session.add(row)
            session.flush()
            session.add_all(
                VersionTagRow(version_id=row.id, name=name, value=value)
                for name, value in tags.items()
            )
            session.add_all(metric_row(row, metric) for metric in measured_metrics(manifest))
            detail = {"file_sha256": digest, "source": row.source} | (
                {"origin": dict(origin)} if origin else {}
            )
            self._record(session, "version.registered", row, detail)
            return read_entries(session, [row])[0]

    def get(self, bundle: str, version: str) -> BundleVersion:
        """An entry.

        Raises:
            UsageError: If there is none; the fix lists what there is.
        """
        with self.database.read() as session:
            return read_entries(session, [require_row(session, bundle, version)])[0]

    def all(self) -> tuple[BundleVersion, ...]:
        """Every entry, retired ones too, by bundle, the newest version first."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import VersionRow

        with self.database.read() as session:
            return read_entries(session, session.scalars(select(VersionRow)).all())

    @contextlib.contextmanager
    def opened(self, entry: BundleVersion) -> Iterator[Path]:
        """The `.ekb` file of an entry, checked, until the `with` statement ends.

        Raises:
            VerificationError: If it is missing or damaged.
            EnvironmentLackError: If the storage does not answer.
        """
        name = f"{entry.file_sha256}{SUFFIX}"
        with contextlib.ExitStack() as stack:
            try:
                path = stack.enter_context(self._files.opened(name))
                whole = sha256_of(path) == entry.file_sha256
            except FileNotFoundError:
                whole = False
            if not whole:
                raise VerificationError(
                    f"the file of {entry.name} is missing or damaged",
                    where=self._files.where(name),
                    fix="register the same bundle again: its file is then written again",
                )
            yield path

    def tag(self, bundle: str, version: str, tags: dict[str, str | None]) -> BundleVersion:
        """Set tags; None takes one away.

        Raises:
            UsageError: If there is no such version, or a tag is none.
        """
        from edgekit.fleet.store.tables import VersionTagRow

        for name, value in tags.items():
            _require_tag(name, value or "")
        with self.database.write() as session:
            row = require_row(session, bundle, version, change=True)
            for name, value in tags.items():
                known = session.get(VersionTagRow, (row.id, name))
                if value is None:
                    if known is not None:
                        session.delete(known)
                elif known is None:
                    session.add(VersionTagRow(version_id=row.id, name=name, value=value))
                else:
                    known.value = value
            self._record(session, "version.tagged", row, dict(tags))
            return read_entries(session, [row])[0]

    def add_metric(
        self, bundle: str, version: str, name: str, value: float, *, variant: str = ""
    ) -> BundleVersion:
        """Add a figure, or put it in the place of one that somebody added before.

        Raises:
            UsageError: If there is no such version or variant, or the figure is none.
            GateFailedError: If the bundle itself says this figure: a measurement stays.
        """
        if not re.fullmatch(METRIC_PATTERN, name) or not math.isfinite(value):
            raise UsageError(f"{name!r} = {value} is no metric", fix="give NAME=NUMBER: f1=0.93")
        with self.database.write() as session:
            row = require_row(session, bundle, version, change=True)
            entry = read_entries(session, [row])[0]
            if variant and variant not in {item.id for item in entry.manifest.variants}:
                raise UsageError(
                    f"{entry.name} has no variant {variant!r}",
                    fix="it has: " + ", ".join(item.id for item in entry.manifest.variants),
                )
            if any(
                (m.variant, m.name) == (variant, name) for m in measured_metrics(entry.manifest)
            ):
                raise GateFailedError(
                    f"{name} of {variant} was measured when the bundle was made, and stays",
                    where=entry.name,
                    fix="add the figure under another name",
                )
            origin = f"added by {self._actor}"[:128]
            metric = Metric(name=name, value=value, variant=variant, origin=origin)
            session.merge(metric_row(row, metric))
            detail = {"name": name, "value": value, "variant": variant}
            self._record(session, "version.measured", row, detail)
            return read_entries(session, [row])[0]

    def add_benchmark(self, bundle: str, version: str, results: Path) -> BundleVersion:
        """Add what `edgekit bench --json` measured of this version's own model files.

        Median, p99 and peak memory become metrics of the variant, named after runtime, threads
        and board; a newer measurement of the same takes the place of the older.

        Raises:
            UsageError: If the file is none, or measured other models.
        """
        from edgekit_benchmarks.results import read_results

        runs = read_results(results)
        with self.database.write() as session:
            row = require_row(session, bundle, version, change=True)
            entry = read_entries(session, [row])[0]
            files = entry.manifest.files
            variants = {files[item.file].sha256: item.id for item in entry.manifest.variants}
            metrics = [
                metric
                for run in runs
                for metric in benchmark_metrics(run, variants.get(run.sha256))
            ]
            if not metrics:
                raise UsageError(
                    f"nothing in it was measured of a model file of {entry.name}",
                    where=str(results),
                    fix="bench the very files that the bundle holds",
                )
            for metric in metrics:
                session.merge(metric_row(row, metric))
            self._record(session, "version.benchmarked", row, {"metrics": len(metrics)})
            return read_entries(session, [row])[0]

    def promote(self, bundle: str, version: str, stage: Stage) -> BundleVersion:
        """Move a version to a stage; the one that was in production before is archived.

        Raises:
            UsageError: If there is no such version, or the stage is "retired": see `retire`.
            GateFailedError: If the version is retired.
        """
        from sqlalchemy import select

        from edgekit.fleet.store.tables import VersionRow

        if stage is Stage.RETIRED:
            raise UsageError("a version is not promoted into retirement", fix="retire it")
        with self.database.write() as session:
            # All of them, always in one order: two that are promoted at once wait for each other.
            mine = select(VersionRow.id).where(VersionRow.bundle == bundle).order_by(VersionRow.id)
            session.execute(mine.with_for_update())
            row = require_row(session, bundle, version, change=True)
            before = Stage(row.stage)
            if before is Stage.RETIRED:
                raise GateFailedError(
                    f"{bundle} {version} is retired, and stays so", fix="register a new version"
                )
            if stage is before:
                return read_entries(session, [row])[0]
            archived = []
            if stage is Stage.PRODUCTION:
                running = select(VersionRow).where(
                    VersionRow.bundle == bundle, VersionRow.stage == Stage.PRODUCTION.value
                )
                for other in session.scalars(running.with_for_update()):
                    other.stage = Stage.ARCHIVED.value
                    archived.append(other.version)
            row.stage = stage.value
            detail = {"from": before.value, "to": stage.value, "archived": archived}
            self._record(session, "version.promoted", row, detail)
            return read_entries(session, [row])[0]

    def mark_retired(self, bundle: str, version: str, detail: dict[str, object]) -> BundleVersion:
        """Move a version to its last stage; `retirement` does what has to be done before.

        Raises:
            UsageError: If there is no such version.
        """
        with self.database.write() as session:
            row = require_row(session, bundle, version, change=True)
            if row.stage != Stage.RETIRED.value:
                row.stage = Stage.RETIRED.value
                self._record(session, "version.retired", row, detail)
            return read_entries(session, [row])[0]

    def deployments(
        self, bundle: str, version: str, *, newest: int = 100
    ) -> tuple[Deployment, ...]:
        """On which devices a version went live or failed, the newest first."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import DeploymentRow

        with self.database.read() as session:
            query = (
                select(DeploymentRow)
                .where(DeploymentRow.bundle == bundle, DeploymentRow.version == version)
                .order_by(DeploymentRow.at.desc(), DeploymentRow.id.desc())
                .limit(newest)
            )
            return tuple(
                Deployment(device=row.device_id, at=row.at, outcome=row.outcome, reason=row.reason)
                for row in session.scalars(query)
            )

    def _keep(self, bundle: Path, digest: str) -> None:
        name = f"{digest}{SUFFIX}"
        with contextlib.suppress(FileNotFoundError), self._files.opened(name) as known:
            if sha256_of(known) == digest:
                return
        self._files.put_file(name, bundle)

    def _record(
        self, session: Session, action: str, row: VersionRow, detail: Mapping[str, object]
    ) -> None:
        record(
            session,
            actor=self._actor,
            action=action,
            subject=f"{row.bundle}@{row.version}",
            detail=detail,
            clock=self._clock,
        )


def _require_same(known: VersionRow | None, digest: str, place: str) -> None:
    if known is not None and known.file_sha256 != digest:
        raise GateFailedError(
            f"{known.bundle} {known.version} is registered already with other content",
            where=place,
            fix="give the changed bundle a new version; a registered one never changes",
        )


def _require_tag(name: str, value: str) -> None:
    if not re.fullmatch(TAG_PATTERN, name):
        raise UsageError(
            f"{name[:80]!r} is no name of a tag",
            fix="use at most 64 letters, digits, dots, dashes, slashes, underscores",
        )
    if len(value) > MAX_TAG_VALUE or not value.isprintable():
        raise UsageError(
            f"the value of the tag {name!r} is longer than {MAX_TAG_VALUE} characters, "
            "or not printable"
        )
