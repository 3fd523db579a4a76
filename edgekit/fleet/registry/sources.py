"""Bring bundles into the registry from elsewhere, and take them there: URLs, and MLflow."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from edgekit.fleet.registry.entries import METRIC_PATTERN, BundleVersion
from edgekit.fleet.storage.remote import remote_errors
from edgekit_runtime.bundle.archive import SUFFIX
from edgekit_runtime.errors import EnvironmentLackError, GateFailedError, UsageError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from edgekit.fleet.registry.catalogue import Registry

MAX_BYTES: Final = 8 << 30
_BLOCK: Final = 1 << 20
_MLFLOW: Final = re.compile(r"(models|runs):/+(?=[^/])")
_EXPERIMENT: Final = "mlflow:"


def import_bundle(
    registry: Registry, source: str, *, tags: dict[str, str] | None = None, note: str = ""
) -> BundleVersion:
    """Register a bundle from elsewhere.

    From MLflow the metrics of its run come too, as `mlflow/NAME`; those that the bundle measured
    itself stay as they are.

    Args:
        registry: Where to.
        source: `models:/NAME/VERSION`, `runs:/RUN/PATH`, or a URL that fsspec reads: `s3://`,
            `gs://`, `az://`, `https://`, `file://`.
        tags: For the new entry.
        note: For people.

    Raises:
        UsageError: If there is nothing, or not exactly one bundle.
        EnvironmentLackError: If a package is missing, or the place cannot be reached.
        GateFailedError: As `Registry.add`; or if it is larger than 8 GiB.
    """
    with tempfile.TemporaryDirectory() as folder:
        if _MLFLOW.match(source):
            bundle, metrics = _from_mlflow(source, Path(folder))
        else:
            bundle, metrics = _download(source, Path(folder)), {}
        entry = registry.add(bundle, source=source, tags=tags, note=note)
    for name, value in metrics.items():
        if re.fullmatch(METRIC_PATTERN, f"mlflow/{name}"):
            entry = registry.add_metric(entry.bundle, entry.version, f"mlflow/{name}", value)
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
        if target.startswith(_EXPERIMENT):
            return _to_mlflow(entry, file, target.removeprefix(_EXPERIMENT))
        url = f"{target}{bundle}-{version}{SUFFIX}" if target.endswith("/") else target
        with _opened(url, "wb") as there, file.open("rb") as here:
            while block := here.read(_BLOCK):
                there.write(block)
    return url


def _download(url: str, folder: Path) -> Path:
    path = folder / f"bundle{SUFFIX}"
    size = 0
    with _opened(url, "rb") as there, path.open("wb") as here:
        while block := there.read(_BLOCK):
            size += len(block)
            if size > MAX_BYTES:
                raise GateFailedError(f"it is larger than {MAX_BYTES >> 30} GiB", where=url)
            here.write(block)
    return path


@contextmanager
def _opened(url: str, mode: str) -> Iterator[IO[bytes]]:
    fsspec: Any = require("fsspec", extra="remote")
    try:
        with remote_errors(url), fsspec.open(url, mode) as file:
            yield file
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError("there is no such file", where=url) from error


def _from_mlflow(source: str, folder: Path) -> tuple[Path, dict[str, float]]:
    require("mlflow", extra="mlflow")
    import mlflow.artifacts
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    kind, _, rest = source.partition(":")
    parts = rest.strip("/").split("/")
    try:
        client = MlflowClient()
        run = _run_of_model(client, parts, source) if kind == "models" else parts[0]
        mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(folder))
        metrics = dict(client.get_run(run).data.metrics) if run else {}
    except MlflowException as error:
        raise UsageError(
            f"MLflow does not give it: {error.message}",
            where=source,
            fix="check MLFLOW_TRACKING_URI, and the name",
        ) from error
    found = sorted(folder.rglob(f"*{SUFFIX}"))
    if len(found) != 1:
        raise UsageError(
            f"it holds {len(found)} bundles ({SUFFIX}), one is needed",
            where=source,
            fix="name the bundle's own path: runs:/RUN/PATH; other models are made into bundles "
            "by: edgekit convert, edgekit bundle create",
        )
    return found[0], metrics


def _run_of_model(client: Any, parts: list[str], source: str) -> str:
    if len(parts) != 2:  # noqa: PLR2004 - name and version
        raise UsageError(
            "this names no version of a model", where=source, fix="models:/NAME/VERSION"
        )
    return str(client.get_model_version(*parts).run_id or "")


def _to_mlflow(entry: BundleVersion, file: Path, experiment: str) -> str:
    require("mlflow", extra="mlflow")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if not experiment:
        raise UsageError("no experiment is named", fix="write the target as mlflow:EXPERIMENT")
    try:
        client = MlflowClient()
        known = client.get_experiment_by_name(experiment)
        number = known.experiment_id if known else client.create_experiment(experiment)
        run = client.create_run(number, run_name=entry.name, tags=_tags(entry))
        for metric in entry.metrics:
            name = f"{metric.variant}/{metric.name}" if metric.variant else metric.name
            client.log_metric(run.info.run_id, name, metric.value)
        with tempfile.TemporaryDirectory() as folder:
            # The registry names files by their content; people want another name.
            named = Path(folder) / f"{entry.bundle}-{entry.version}{SUFFIX}"
            shutil.copyfile(file, named)
            client.log_artifact(run.info.run_id, str(named))
        client.set_terminated(run.info.run_id)
        if not client.search_registered_models(f"name='{entry.bundle}'"):
            client.create_registered_model(entry.bundle)
        made = client.create_model_version(
            entry.bundle, run.info.artifact_uri, run.info.run_id, description=entry.note
        )
    except MlflowException as error:
        raise EnvironmentLackError(
            f"MLflow does not take it: {error.message}",
            where=experiment,
            fix="check MLFLOW_TRACKING_URI",
        ) from error
    return f"models:/{entry.bundle}/{made.version}"


def _tags(entry: BundleVersion) -> dict[str, str]:
    lineage = entry.manifest.lineage
    facts = {
        "bundle": entry.bundle,
        "version": entry.version,
        "stage": entry.stage.value,
        "sha256": entry.file_sha256,
    } | {name: str(lineage[name]) for name in ("source", "revision", "data") if name in lineage}
    return {f"edgekit.{name}": value[:5000] for name, value in facts.items()} | entry.tags
