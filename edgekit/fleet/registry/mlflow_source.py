"""Bundles in MLflow: versions of registered models, and artifacts of runs."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from edgekit.fleet.registry.entries import BundleVersion
from edgekit.fleet.registry.fetched import Fetched, only_bundle
from edgekit_runtime.bundle.archive import SUFFIX
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.extras import require

SOURCE: Final = re.compile(r"(models|runs):/+(?=[^/])")
#: What the target of an export begins with.
EXPERIMENT: Final = "mlflow:"


def fetch_from_mlflow(source: str, folder: Path) -> Fetched:
    """Fetch the one bundle of `models:/NAME/VERSION` or `runs:/RUN/PATH`, and its run's metrics.

    Raises:
        UsageError: If there is none, or not exactly one.
        EnvironmentLackError: If MLflow is not installed.
    """
    require("mlflow", extra="mlflow")
    import mlflow.artifacts
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    kind, _, rest = source.partition(":")
    parts = rest.strip("/").split("/")
    if kind == "models" and len(parts) != 2:  # noqa: PLR2004 - name and version
        # Before MLflow is asked: where no server is named it makes a database in this folder.
        raise UsageError(
            "this names no version of a model", where=source, fix="write it as models:/NAME/VERSION"
        )
    try:
        client = MlflowClient()
        run = _run_of_model(client, *parts) if kind == "models" else parts[0]
        mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(folder))
        data = client.get_run(run).data if run else None
    except MlflowException as error:
        raise UsageError(
            f"MLflow does not give it: {error.message}",
            where=source,
            fix="check MLFLOW_TRACKING_URI, and the name",
        ) from error
    origin = {"run": run} if run else {}
    revision = data.tags.get("mlflow.source.git.commit") if data else None
    return Fetched(
        path=only_bundle(folder, source),
        metrics={f"mlflow/{name}": value for name, value in data.metrics.items()} if data else {},
        origin=origin | ({"revision": revision} if revision else {}),
    )


def _run_of_model(client: Any, name: str, version: str) -> str:
    return str(client.get_model_version(name, version).run_id or "")


def export_to_mlflow(entry: BundleVersion, file: Path, experiment: str) -> str:
    """Log a version as a run, and register it as a version of the model of the bundle's name.

    Returns:
        `models:/NAME/VERSION`.

    Raises:
        UsageError: If no experiment is named.
        EnvironmentLackError: If MLflow is not installed, or does not take it.
    """
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
