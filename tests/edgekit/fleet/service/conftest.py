"""A broker for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.fleet.broker import RunningBroker, find_mosquitto, start_broker
from edgekit.fleet.devices.inventory import Inventory


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[RunningBroker]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with start_broker(tmp_path / "broker", prefer="mosquitto") as running:
        yield running


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A word for each time that somebody looks which devices there are."""
    found: list[str] = []
    labels = Inventory.labels

    def counted(self: Inventory):
        found.append("labels")
        return labels(self)

    monkeypatch.setattr(Inventory, "labels", counted)
    return found
