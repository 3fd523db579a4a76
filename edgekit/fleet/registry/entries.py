"""What the registry holds of a bundle version."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from edgekit_runtime.bundle.manifest import NAME_PATTERN, Manifest, parse_manifest
from edgekit_runtime.errors import UsageError
from edgekit_runtime.versions import Version

if TYPE_CHECKING:
    from edgekit.fleet.store.tables import VersionRow

TAG_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}"
METRIC_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}"
MAX_TAG_VALUE: Final = 256


class Stage(StrEnum):
    """How far a version is; at most one of a bundle is in production."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of a version.

    Attributes:
        name: "top1".
        value: In the metric's own unit.
        variant: Of which variant; empty for the whole version.
        origin: What it was measured on, or who added it.
    """

    name: str
    value: float
    variant: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleVersion:
    """A version in the registry.

    Attributes:
        bundle: Its name.
        version: Its semantic version.
        stage: How far it is.
        file_sha256: Of the `.ekb` file.
        size_bytes: Of the file.
        registered: When; seconds since 1970.
        registered_by: By whom.
        source: Where the file came from: a path or URL.
        note: For people.
        tags: Names with values, which may be empty.
        metrics: Figures of its variants and of the whole.
        manifest: What the bundle says of itself: lineage, golden samples, benchmarks, and more.
    """

    bundle: str
    version: str
    stage: Stage
    file_sha256: str
    size_bytes: int
    registered: float
    registered_by: str
    source: str
    note: str
    tags: dict[str, str]
    metrics: tuple[Metric, ...]
    manifest: Manifest

    @property
    def name(self) -> str:
        """As people and orders write it: "digits@1.2.0"."""
        return f"{self.bundle}@{self.version}"

    def summary(self) -> dict[str, Any]:
        """As JSON, without the manifest."""
        return {
            "bundle": self.bundle,
            "version": self.version,
            "stage": self.stage.value,
            "file_sha256": self.file_sha256,
            "size_bytes": self.size_bytes,
            "registered": self.registered,
            "registered_by": self.registered_by,
            "source": self.source,
            "note": self.note,
            "tags": self.tags,
            "metrics": [asdict(metric) for metric in self.metrics],
            "variants": [variant.id for variant in self.manifest.variants],
            "golden_samples": self.manifest.golden_samples,
        }

    def to_json(self) -> dict[str, Any]:
        """As JSON, whole."""
        return self.summary() | {"manifest": json.loads(self.manifest.to_json())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A version went live on a device, or was taken off.

    Attributes:
        device: The device's id.
        at: When the control plane heard of it; seconds since 1970.
        outcome: "active", "rejected" or "rolled_back".
        reason: Why, where it failed.
    """

    device: str
    at: float
    outcome: str
    reason: str


def parse_name(text: str) -> tuple[str, str]:
    """Read NAME@VERSION.

    Raises:
        UsageError: If it is none.
    """
    bundle, at, version = text.partition("@")
    if not at or not re.fullmatch(NAME_PATTERN, bundle):
        raise UsageError(f"{text!r} names no bundle version", fix="write it as NAME@VERSION")
    return bundle, str(Version.parse(version))


def entry_of_row(row: VersionRow, tags: dict[str, str], metrics: list[Metric]) -> BundleVersion:
    """Put together what the tables hold."""
    where = f"{row.bundle}@{row.version} in the registry"
    return BundleVersion(
        bundle=row.bundle,
        version=row.version,
        stage=Stage(row.stage),
        file_sha256=row.file_sha256,
        size_bytes=row.size_bytes,
        registered=row.registered,
        registered_by=row.registered_by,
        source=row.source,
        note=row.note,
        tags=tags,
        metrics=tuple(metrics),
        manifest=parse_manifest(json.dumps(row.manifest).encode(), where=where),
    )
