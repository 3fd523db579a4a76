from __future__ import annotations

import pytest

from edgekit.fleet.rollouts import fleet_view
from edgekit.fleet.rollouts.fleet_view import FleetView
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import DeviceEvent, DeviceState

TOPICS = Topics("plant-7")


def say(view: FleetView, device: str, ram: int, *, online: bool = True) -> None:
    hardware = {"architecture": "aarch64", "ram_bytes": ram}
    state = DeviceState(device=device, online=online, time=1.0, agent="0.1.0", hardware=hardware)
    view.take(TOPICS.state(device), state.to_json())


def test_devices_of_one_kind_share_what_they_say_of_their_hardware() -> None:
    view = FleetView(TOPICS)
    for number in range(100):
        say(view, f"d{number}", 1 << (30 + number % 2))
    assert len({id(state.hardware) for state in view.states.values()}) == 2
    assert view.states["d6"].hardware == {"architecture": "aarch64", "ram_bytes": 1 << 30}
    assert view.states["d7"].hardware == {"architecture": "aarch64", "ram_bytes": 1 << 31}


def test_more_kinds_than_are_remembered_are_still_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet_view, "_MOST_KINDS", 3)
    view = FleetView(TOPICS)
    for number in range(20):
        say(view, f"d{number}", number % 7 + 1)
    assert [view.states[f"d{number}"].hardware["ram_bytes"] for number in range(20)] == [
        number % 7 + 1 for number in range(20)
    ]
    assert len(view._hardware) <= 3


def test_what_is_of_another_device_or_none_is_counted_and_changes_nothing() -> None:
    heard: list[DeviceEvent] = []
    view = FleetView(TOPICS, on_event=heard.append)
    say(view, "d1", 5)
    event = DeviceEvent(device="d2", sequence=1, time=1.0, kind="update.active")
    view.take(TOPICS.events("d1"), event.to_json())
    view.take(TOPICS.state("d1"), b"{")
    view.take("somebody/else", b"{}")
    assert (view.faulty, len(view.faults), heard) == (3, 3, [])
    assert list(view.states) == ["d1"]
    view.take(TOPICS.events("d2"), event.to_json())
    assert heard == [event]
    view.take(TOPICS.state("d1"), b"")
    assert not view.states
