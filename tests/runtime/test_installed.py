"""Versions of distributions, told from the names of folders."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from edgekit_agent.release import AGENT_VERSION
from edgekit_runtime.installed import installed_version


@pytest.mark.parametrize("name", ["edgekit", "numpy", "paho-mqtt", "ai-edge-litert", "Paho.MQTT"])
def test_the_version_is_that_of_the_metadata(name: str) -> None:
    assert installed_version(name) == importlib.metadata.version(name)


def test_what_is_not_there_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_version("not-there") == ""
    (tmp_path / "not_there-2.1.dist-info").mkdir()
    (tmp_path / "not_there_too-9.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "nowhere"), str(tmp_path)])
    assert installed_version("not-there") == "2.1"


def test_the_agent_knows_its_own() -> None:
    assert importlib.metadata.version("edgekit") == AGENT_VERSION
