"""Python in process, and batches."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import edgekit_agent
from edgekit_agent.batch import find_files, run_batch
from edgekit_agent.cli import cli
from edgekit_agent.local import LocalModel
from edgekit_agent.telemetry.spool import take_counted
from edgekit_runtime.bundle.archive import write_bundle
from edgekit_runtime.bundle.manifest import parse_manifest
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from tests.simulators.local_agent import RunningAgent
from tests.simulators.tiny_bundles import affine_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    files = affine_bundle("double", "1.0.0", 2.0)
    path = tmp_path / "double.ekb"
    manifest = files.pop("manifest.json")
    write_bundle(path, parse_manifest(manifest, where="test"), files)
    return path


def test_a_bundle_file_is_loaded_and_leaves_nothing_behind(bundle: Path) -> None:
    with edgekit_agent.load(bundle) as model:
        outputs = model.infer({"x": np.ones((1, 4), np.float32)})
        folder = Path(model._hosted.plan.folder)
        assert (model.variant, model.stats.requests) == ("plain", 1)
        assert folder.exists()
    assert outputs["y"].tolist() == [[2, 2, 2, 2]]
    assert not folder.exists()


def test_what_the_agent_serves_is_loaded_by_its_name(agent: RunningAgent) -> None:
    agent.install("1.0.0", 3.0)
    config = agent.config.data.parent / "agent.toml"
    config.write_text(
        'device = "device-1"\nfleet = "test"\nimage_root = "i"\ndirector_root = "d"\n'
        '[broker]\nhost = "h"\n'
    )
    with edgekit_agent.load("double", config=config) as model:
        assert model.manifest.version == "1.0.0"
        assert model.infer({"x": np.ones((1, 4), np.float32)})["y"][0, 0] == 3
    # The agent reports it with its own.
    assert len(list((agent.config.data / "local").glob("*.json"))) == 1
    (agent.config.data / "local" / "junk.json").write_text("{")
    taken = take_counted(agent.config.data)
    assert [(plan.bundle, stats.requests) for plan, stats in taken] == [("double", 1)]
    assert not list((agent.config.data / "local").iterdir())
    with pytest.raises(UsageError, match="serves no bundle 'triple'") as caught:
        edgekit_agent.load("triple", config=config)
    assert caught.value.fix == "there are: double; or give the path of an .ekb file"


def test_a_batch_that_somebody_ends_keeps_what_was_answered(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 4), np.float32))
    np.save(tmp_path / "b.npy", np.ones((3, 4), np.float32))
    out = tmp_path / "answers.jsonl"
    infer = LocalModel.infer
    asked: list[object] = []

    def stop_in_the_second_file(self: Any, inputs: Any) -> Any:
        asked.append(inputs)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return infer(self, inputs)

    monkeypatch.setattr(LocalModel, "infer", stop_in_the_second_file)
    files = [str(tmp_path / name) for name in ("a.npy", "b.npy")]
    done = CliRunner().invoke(
        cli, ["batch", str(bundle), *files, "--output", str(out)], standalone_mode=False
    )
    assert done.return_value == 130
    assert "4 answers from 1 of 2 files" in done.output
    assert f"interrupted: {out} ends with a whole line" in done.output
    assert [json.loads(line)["index"] for line in out.read_text().splitlines()] == [0, 1, 2, 0]


def test_what_a_batch_cannot_use_is_named(bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 4), np.float32))
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    for arguments, error, text in (
        ([str(bundle), "--output", "/proc/none/x"], EnvironmentLackError, "cannot write"),
        ([str(model)], UsageError, "this is no bundle file"),
    ):
        done = CliRunner().invoke(
            cli, ["batch", *arguments, str(tmp_path / "a.npy")], standalone_mode=False
        )
        assert isinstance(done.exception, error)
        assert text in str(done.exception)


def test_a_batch_answers_what_it_can_and_names_the_rest(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.save(folder / "a.npy", rows)
    np.savez(folder / "b.npz", x=np.ones((1, 4), np.float32))
    np.savez(folder / "c.npz", z=rows)
    np.save(folder / "d.npy", np.ones((1, 5), np.float32))
    np.save(folder / "e.npy", np.array([["text"] * 4]))
    (folder / "notes.txt").write_text("not an input")
    (folder / "f.png").write_bytes(b"damaged")
    output, seen = io.StringIO(), []
    with edgekit_agent.load(bundle) as model:
        summary = run_batch(model, find_files([folder]), output, progress=seen.append)
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [Path(line["file"]).name for line in lines] == [
        *("a.npy", "a.npy", "b.npz", "c.npz", "d.npy", "e.npy", "f.png")
    ]
    assert [line["outputs"]["y"] for line in lines[:3]] == [
        [[0, 2, 4, 6]],
        [[8, 10, 12, 14]],
        [[2, 2, 2, 2]],
    ]
    assert "no array for x" in lines[3]["error"]
    assert "has shape [1, 5]" in lines[4]["error"]
    assert "Cannot cast" in lines[5]["error"]
    assert "does not say how a picture" in lines[6]["error"]
    assert (summary.files, summary.answers, summary.failed) == (6, 3, 4)
    assert len(seen) == 6
    assert summary.median_ms > 0


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        find_files([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="no pictures, sounds or arrays"):
        find_files([tmp_path])


def test_the_command_writes_lines_and_a_summary(bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 4), np.float32))
    np.save(tmp_path / "bad.npy", np.ones((1, 9), np.float32))
    output = tmp_path / "answers.jsonl"
    command = [sys.executable, "-m", "edgekit_agent.cli", "batch", str(bundle)]
    done = subprocess.run(
        [*command, str(tmp_path / "x.npy"), "--output", str(output), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["answers"] == 3
    assert len(output.read_text().splitlines()) == 3
    done = subprocess.run(
        [*command, str(tmp_path / "bad.npy")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "has shape [1, 9]" in json.loads(done.stdout)["error"]
    assert "1 failed" in done.stderr
