"""Bring bundles into the registry from elsewhere, and take them there."""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.fleet.registry.dvc_source import SOURCE as DVC
from edgekit.fleet.registry.dvc_source import fetch_from_dvc
from edgekit.fleet.registry.entries import METRIC_PATTERN, BundleVersion
from edgekit.fleet.registry.fetched import Fetched, Progress
from edgekit.fleet.registry.mlflow_source import EXPERIMENT, export_to_mlflow, fetch_from_mlflow
from edgekit.fleet.registry.mlflow_source import SOURCE as MLFLOW
from edgekit.fleet.registry.remote_file import fetch_url, send_file
from edgekit.fleet.registry.wandb_source import SOURCE as WANDB
from edgekit.fleet.registry.wandb_source import fetch_from_wandb
from edgekit_runtime.bundle.archive import SUFFIX

if TYPE_CHECKING:
    from edgekit.fleet.registry.catalogue import Registry


def import_bundle(
    registry: Registry,
    source: str,
    *,
    tags: dict[str, str] | None = None,
    note: str = "",
    progress: Progress = lambda _done, _total: None,
) -> BundleVersion:
    """Register a bundle from elsewhere.

    From MLflow and W&B the figures of its run come too, as `mlflow/NAME` or `wandb/NAME`; those
    that the bundle measured itself stay as they are. What tells exactly which file it was, a
    revision, a hash, a run, becomes tags `origin/…`, and stands in the audit log.

    Args:
        registry: Where to.
        source: `models:/NAME/VERSION` or `runs:/RUN/PATH` of MLflow,
            `dvc:REPOSITORY#PATH@REVISION`, `wandb:ENTITY/PROJECT/ARTIFACT:VERSION`, or a URL that
            fsspec reads: `s3://`, `gs://`, `az://`, `https://`, `file://`.
        tags: For the new entry.
        note: For people.
        progress: Told how far a download is.

    Raises:
        UsageError: If there is nothing, or not exactly one bundle.
        EnvironmentLackError: If a package is missing, or the place cannot be reached.
        GateFailedError: As `Registry.add`; or if it is larger than 8 GiB.
        VerificationError: If what came is not what the source says it is.
    """
    # Nothing half fetched is left, however this ends.
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        fetched = _fetch(source, Path(folder), progress)
        entry = registry.add(
            fetched.path,
            source=_without_secrets(source),
            tags=tags,
            note=note,
            origin=dict(fetched.origin),
        )
    for name, value in fetched.metrics.items():
        # A run that diverged says NaN of its loss: that is no figure to choose by.
        if re.fullmatch(METRIC_PATTERN, name) and math.isfinite(value):
            entry = registry.add_metric(entry.bundle, entry.version, name, value)
    return entry


def export_bundle(registry: Registry, bundle: str, version: str, target: str) -> str:
    """Take a version's file elsewhere.

    Args:
        registry: Where from.
        bundle: Its name.
        version: Its version.
        target: `mlflow:EXPERIMENT`, for a run with metrics, lineage and the file, and a new
            version of the registered model of the bundle's name; or a URL that fsspec writes,
            ending in "/" for a folder.

    Returns:
        Where it is now: a URL, or `models:/NAME/VERSION`.

    Raises:
        UsageError: If there is no such version, or the target is none.
        EnvironmentLackError: If a package is missing, or the place cannot be reached.
    """
    entry = registry.get(bundle, version)
    with registry.opened(entry) as file:
        if target.startswith(EXPERIMENT):
            return export_to_mlflow(entry, file, target.removeprefix(EXPERIMENT))
        url = f"{target}{bundle}-{version}{SUFFIX}" if target.endswith("/") else target
        send_file(file, url)
    return url


def _without_secrets(source: str) -> str:
    """The source as others may read it: no password, no signature of a web address."""
    scheme, found, rest = source.partition("://")
    if not found:
        return source
    if scheme in {"http", "https"}:
        rest = rest.partition("?")[0]
    place, slash, path = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def _fetch(source: str, folder: Path, progress: Progress) -> Fetched:
    if MLFLOW.match(source):
        return fetch_from_mlflow(source, folder)
    if source.startswith(DVC):
        return fetch_from_dvc(source, folder, progress=progress)
    if source.startswith(WANDB):
        return fetch_from_wandb(source, folder)
    return fetch_url(source, folder, progress=progress)
