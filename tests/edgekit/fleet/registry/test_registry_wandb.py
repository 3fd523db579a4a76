"""Bundles in artifacts of W&B, behind the interface of its client."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from edgekit.fleet.registry.sources import import_bundle
from edgekit_runtime.errors import EnvironmentLackError, GateFailedError, UsageError

NAME = "acme/digits/model:v3"


class WandbError(Exception):
    """What its client raises when it does not get an answer."""


@dataclass
class Entry:
    file: Path
    size: int

    def download(self, root: str) -> str:
        return str(shutil.copy(self.file, root))


@dataclass
class Artifact:
    """As `wandb.Api().artifact` gives it."""

    files: dict[str, Entry]
    run: SimpleNamespace | None = None
    version: str = "v3"
    digest: str = "d41d8cd9"
    manifest: SimpleNamespace = field(init=False)

    def __post_init__(self) -> None:
        self.manifest = SimpleNamespace(entries=self.files)

    def get_entry(self, path: str) -> Entry:
        return self.files[path]

    def logged_by(self) -> SimpleNamespace | None:
        return self.run


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a client in place that has one artifact, or fails."""

    def put(artifact: Artifact | Exception) -> None:
        def find(name: str) -> Artifact:
            if isinstance(artifact, Exception):
                raise artifact
            assert name == NAME
            return artifact

        client = ModuleType("wandb")
        client.Api = lambda: SimpleNamespace(artifact=find)  # type: ignore[attr-defined]
        client.Error = WandbError  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "wandb", client)

    return put


def test_a_bundle_comes_with_the_figures_and_the_revision_of_its_run(
    registry, make_version, serve, tmp_path: Path
) -> None:
    bundle = make_version()
    weights = tmp_path / "weights.pt"
    summary = {"loss": 0.25, "epochs": 3, "name": "x", "done": True, "val_loss": float("nan")}
    run = SimpleNamespace(id="run7", commit="abc123", summary=summary)
    files = {"weights.pt": Entry(weights, 10), "out/digits.ekb": Entry(bundle, 10)}
    serve(Artifact(files, run))
    entry = import_bundle(registry, f"wandb:{NAME}", tags={"team": "vision"})
    assert (entry.name, entry.source) == ("digits@1.0.0", f"wandb:{NAME}")
    assert entry.tags == {
        "team": "vision",
        "origin/version": "v3",
        "origin/digest": "d41d8cd9",
        "origin/run": "run7",
        "origin/revision": "abc123",
    }
    added = {m.name: m.value for m in entry.metrics if m.name.startswith("wandb/")}
    assert added == {"wandb/loss": 0.25, "wandb/epochs": 3.0}


def test_an_artifact_that_no_run_logged(registry, make_version, serve) -> None:
    serve(Artifact({"digits.ekb": Entry(make_version(), 10)}))
    entry = import_bundle(registry, f"wandb:{NAME}")
    assert set(entry.tags) == {"origin/version", "origin/digest"}


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        (ValueError("Unable to fetch artifact"), UsageError, "Unable to fetch"),
        (WandbError("api_key not configured"), EnvironmentLackError, "api_key not configured"),
        (OSError("no network"), EnvironmentLackError, "no network"),
        (Artifact({"x.onnx": Entry(Path("x"), 1)}), UsageError, "0 bundles"),
        (Artifact({"x.ekb": Entry(Path("x"), 9 << 30)}), GateFailedError, "larger than 8 GiB"),
    ],
)
def test_what_is_not_there_is_said(registry, serve, found, error, message: str) -> None:
    serve(found)
    with pytest.raises(error, match=message):
        import_bundle(registry, f"wandb:{NAME}")
    assert registry.all() == ()


@pytest.mark.parametrize("name", ["model:v3", "acme/digits/model", "acme/digits/model:v3:x", ""])
def test_what_names_no_artifact_is_said(registry, name: str) -> None:
    with pytest.raises(UsageError, match="names no artifact"):
        import_bundle(registry, f"wandb:{name}")


def test_without_wandb_the_command_that_installs_it_is_said(registry, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(EnvironmentLackError) as caught:
        import_bundle(registry, f"wandb:{NAME}")
    assert caught.value.fix == 'pip install "edgekit[wandb]"'
