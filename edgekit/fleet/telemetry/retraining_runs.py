"""A call for retraining as a run in MLflow, which waits for whoever trains.

The run is scheduled, not running: a job that searches for "tags.`edgekit.notice` = 'retrain' and
attributes.status = 'SCHEDULED'" takes it up, and logs the new model into it.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from edgekit.fleet.telemetry.notices import Notice

NOTICE_FILE: Final = "notice.json"
SAMPLES_FILE: Final = "samples.json"
# What MLflow takes as a key: https://mlflow.org/docs/latest/ml/tracking/.
_NO_KEY: Final = re.compile(r"[^A-Za-z0-9_. /-]")
_MOST_TAG: Final = 4_000
_MOST_FEATURES: Final = 100


def schedule_run(notice: Notice, *, experiment: str, tracking_uri: str = "") -> str:
    """Make a run that carries a notice: its facts as tags, drift as metrics, samples as artifact.

    Args:
        notice: Of any kind; of `retrain` with what drifted, and where samples are.
        experiment: Its name; made if it is missing.
        tracking_uri: Of the server; "" for MLFLOW_TRACKING_URI, or MLflow's own default.

    Returns:
        The run's id.

    Raises:
        EnvironmentLackError: If MLflow is not installed, or does not take it.
    """
    require("mlflow", extra="mlflow")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri or None)
        known = client.get_experiment_by_name(experiment)
        number = known.experiment_id if known else client.create_experiment(experiment)
        name = " ".join(str(notice.data[k]) for k in ("bundle", "version") if k in notice.data)
        run = client.create_run(number, run_name=f"{notice.kind} {name}", tags=_tags(notice))
        identifier = str(run.info.run_id)
        try:
            for key, value in _drift(notice).items():
                client.log_metric(identifier, key, value)
            client.log_text(identifier, notice.to_json().decode(), NOTICE_FILE)
            client.log_dict(identifier, {"samples": notice.data.get("samples", [])}, SAMPLES_FILE)
            with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
                notice.write_files(Path(folder))
                if any(Path(folder).iterdir()):
                    client.log_artifacts(identifier, folder, "samples")
            # Last: whoever takes it up finds all of it.
            client.update_run(identifier, status="SCHEDULED")
        except (MlflowException, OSError):
            # It is tried again with a run of its own.
            with contextlib.suppress(MlflowException, OSError):
                client.set_terminated(identifier, "FAILED")
            raise
    except (MlflowException, OSError) as error:
        raise EnvironmentLackError(
            f"MLflow does not take it: {error}", where=experiment, fix="check MLFLOW_TRACKING_URI"
        ) from error
    return identifier


def _tags(notice: Notice) -> dict[str, str]:
    facts = {"notice": notice.kind, "fleet": notice.fleet} | {
        name: str(notice.data[name]) for name in ("bundle", "version") if name in notice.data
    }
    tags = {f"edgekit.{name}": value for name, value in facts.items()}
    return tags | {"mlflow.note.content": notice.text[:_MOST_TAG]}


def _drift(notice: Notice) -> dict[str, float]:
    features: Any = notice.data.get("features", {})
    if not isinstance(features, dict):
        return {}
    named = list(features.items())[:_MOST_FEATURES]
    return {f"drift/{_NO_KEY.sub('_', name)[:200]}": float(psi) for name, psi in named}
