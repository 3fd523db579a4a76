"""A call for retraining that MLflow keeps, in a store of files as the library makes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.fleet.telemetry.messenger import Messenger
from edgekit.fleet.telemetry.notices import Notice, Target, read_targets
from edgekit.fleet.telemetry.retraining_runs import schedule_run
from edgekit_runtime.errors import EnvironmentLackError, UsageError

NOTICE = Notice(
    kind="retrain",
    fleet="plant-7",
    time=5_000.0,
    text="digits 2.0.0 should be trained again",
    data={
        "bundle": "digits",
        "version": "2.0.0",
        "features": {"input:light": 0.61, "output:what?": 0.3},
        "samples": ["edgekit-samples://plant-7/d1/digits/2.0.0?until=5000"],
    },
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("mlflow", reason="mlflow is not installed: edgekit[mlflow]")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "runs").as_uri()


@pytest.fixture
def runs(store: str) -> Callable[[], list[Any]]:
    def find() -> list[Any]:
        from mlflow import MlflowClient

        client = MlflowClient(store)
        known = client.get_experiment_by_name("retraining")
        wanted = "tags.`edgekit.notice` = 'retrain' and attributes.status = 'SCHEDULED'"
        return list(client.search_runs([known.experiment_id], wanted))

    return find


@pytest.mark.filterwarnings("ignore")
def test_a_call_for_retraining_waits_as_a_scheduled_run(store: str, runs, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    notice = replace(NOTICE, files={"d1/1-digits.npz": b"sample", "../x": b"out"})
    identifier = schedule_run(notice, experiment="retraining", tracking_uri=store)
    (run,) = runs()
    assert run.info.run_id == identifier
    assert run.data.tags["edgekit.bundle"] == "digits"
    assert run.data.tags["edgekit.version"] == "2.0.0"
    assert run.data.tags["mlflow.note.content"] == NOTICE.text
    assert run.data.metrics == {"drift/input_light": 0.61, "drift/output_what_": 0.3}
    client = MlflowClient(store)
    folder = Path(client.download_artifacts(identifier, "", str(tmp_path)))
    assert json.loads((folder / "notice.json").read_text()) == json.loads(NOTICE.to_json())
    assert json.loads((folder / "samples.json").read_text())["samples"] == NOTICE.data["samples"]
    assert (folder / "samples" / "d1" / "1-digits.npz").read_bytes() == b"sample"
    assert not [path for path in folder.rglob("x") if path.is_file()]


@pytest.mark.filterwarnings("ignore")
def test_the_messenger_makes_the_run(store: str, runs) -> None:
    target = Target(kinds=("retrain",), experiment="retraining", tracking_uri=store)
    messenger = Messenger([target], fleet="plant-7")
    messenger.tell(NOTICE)
    messenger.close()
    assert (messenger.sent, messenger.lost, len(runs())) == (1, 0, 1)


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_could_not_be_filled_is_not_left_waiting(
    store: str, runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(MlflowClient, "log_dict", full)
    with pytest.raises(EnvironmentLackError, match="no space left"):
        schedule_run(NOTICE, experiment="retraining", tracking_uri=store)
    assert runs() == []


def test_a_server_that_is_none_is_counted(store: str) -> None:
    target = Target(kinds=("retrain",), experiment="x", tracking_uri="eggs://nowhere")
    messenger = Messenger([target], fleet="plant-7", pause=lambda _seconds: None)
    messenger.tell(NOTICE)
    messenger.close()
    assert (messenger.sent, messenger.lost) == (0, 1)


def test_the_experiment_is_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "notices.toml"
    path.write_text('[[mlflow]]\nexperiment = "retraining"\nkinds = ["retrain"]\n')
    assert read_targets(path) == (Target(kinds=("retrain",), experiment="retraining"),)
    path.write_text('[[mlflow]]\nexperiment = " "\nkinds = []\n')
    with pytest.raises(UsageError, match="experiment: must name an experiment"):
        read_targets(path)
