"""When a candidate may go live: the conditions of an order, and an agent that keeps to them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_agent.conditions import Surroundings, look_around, why_not_yet
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.orders import (
    BundleOrder,
    Conditions,
    Window,
    parse_order,
    parse_window,
)
from tests.simulators.local_agent import RunningAgent
from tests.simulators.signed_fleet import quick_order
from tests.simulators.tiny_bundles import affine_bundle


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


# A Wednesday.
NOON = at("2026-11-25T12:00")
QUIET = Surroundings(time=NOON, battery_percent=None, on_mains=True, load=0.1)


def window(text: str) -> Window:
    found = parse_window(text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "time", "holds"),
    [
        ("daily 11:30-12:30", "2026-11-25T12:00", True),
        ("daily 12:00-12:01", "2026-11-25T12:00", True),
        ("daily 11:00-12:00", "2026-11-25T12:00", False),
        ("wed 00:00-24:00", "2026-11-25T23:59", True),
        ("thu,fri 00:00-24:00", "2026-11-25T12:00", False),
        ("wed 22:00-04:00", "2026-11-25T23:00", True),
        ("wed 22:00-04:00", "2026-11-26T03:59", True),
        ("wed 22:00-04:00", "2026-11-26T04:00", False),
        ("wed 22:00-04:00", "2026-11-25T03:00", False),
        ("sun 22:00-04:00", "2026-11-30T01:00", True),
    ],
)
def test_windows(text: str, time: str, holds: bool) -> None:
    assert window(text).holds(at(time)) is holds


@given(
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(0, 1440),
)
def test_a_window_is_read_as_it_was_written(days: set[int], start: int, end: int) -> None:
    if start != end:
        made = Window(days=tuple(sorted(days)), start=start, end=end)
        assert parse_window(str(made)) == made


@pytest.mark.parametrize(
    "text",
    ["", "daily", "daily 24:00-04:00", "daily 10:60-11:00", "daily 10:00-25:00", "cat 1:00-2:00",
     "mon, 10:00-11:00", "daily 10:00-10:00", "daily 10:00-11:00 ", "DAILY 10:00-11:00"],
)  # fmt: skip
def test_other_windows_are_refused(text: str) -> None:
    assert parse_window(text) is None
    order = BundleOrder(bundle="m", version="1.0.0")
    custom = order.to_custom() | {"conditions": {"windows": [text]}}
    with pytest.raises(VerificationError, match=r"conditions\.windows"):
        parse_order(order.target_path, custom)


def test_conditions_travel_in_the_order() -> None:
    conditions = Conditions(
        not_before=NOON,
        deadline=NOON + 86_400,
        windows=(window("daily 22:00-04:00"), window("sat,sun 00:00-24:00")),
        min_battery_percent=40,
        max_load=0.75,
    )
    order = BundleOrder(bundle="m", version="1.0.0", conditions=conditions)
    assert parse_order(order.target_path, order.to_custom()) == order
    assert parse_order(order.target_path, {"bundle": "m", "version": "1.0.0"}) == replace(
        order, conditions=Conditions()
    )


@pytest.mark.parametrize(
    ("conditions", "around", "words"),
    [
        (Conditions(), QUIET, ""),
        (Conditions(not_before=NOON + 60), QUIET, "not go live before 2026-11-25 12:01"),
        (Conditions(not_before=NOON), QUIET, ""),
        (Conditions(windows=(window("thu 00:00-24:00"),)), QUIET, "maintenance window (thu"),
        (Conditions(windows=(window("thu 00:00-24:00"), window("wed 11:00-13:00"))), QUIET, ""),
        (Conditions(windows=(window("thu 00:00-24:00"),), deadline=NOON), QUIET, ""),
        (Conditions(windows=(window("thu 00:00-24:00"),), deadline=NOON + 1), QUIET, "window"),
        (Conditions(min_battery_percent=50), QUIET, ""),
        (
            Conditions(min_battery_percent=50, deadline=1),
            replace(QUIET, battery_percent=49, on_mains=False),
            "the battery is at 49 %",
        ),
        (Conditions(min_battery_percent=50), replace(QUIET, battery_percent=9), ""),
        (Conditions(max_load=0.5), replace(QUIET, load=0.6), "the load is 0.60"),
        (Conditions(max_load=0.5, deadline=1), replace(QUIET, load=0.6), ""),
    ],
)
def test_what_is_waited_for(conditions: Conditions, around: Surroundings, words: str) -> None:
    reason = why_not_yet(conditions, around)
    assert words in reason
    assert bool(reason) == bool(words)


def test_batteries_and_mains_are_read_from_the_kernels_files(tmp_path: Path) -> None:
    def supply(name: str, **files: str) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        for file, text in files.items():
            (tmp_path / name / file).write_text(f"{text}\n")

    assert look_around(5.0, supplies=tmp_path / "none").on_mains
    supply("BAT0", type="Battery", capacity="41", status="Discharging")
    supply("mouse", type="Battery", scope="Device", capacity="99", status="Full")
    around = look_around(5.0, supplies=tmp_path)
    assert (around.time, around.battery_percent, around.on_mains) == (5.0, 41, False)
    supply("AC", type="Mains", online="1")
    assert look_around(5.0, supplies=tmp_path).on_mains
    supply("AC", type="Mains", online="0")
    supply("BAT0", status="Charging", capacity="odd")
    around = look_around(5.0, supplies=tmp_path)
    assert (around.battery_percent, around.on_mains) == (None, True)


def test_an_agent_fetches_at_once_and_goes_live_when_it_may(
    agent: RunningAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit_agent.proofs._HELD_SECONDS", 0.05)
    agent.install("1.0.0", 2.0)
    around = replace(QUIET, battery_percent=10, on_mains=False)
    assert agent.supervisor
    proofs = agent.supervisor._updates.proofs
    monkeypatch.setattr(proofs, "_look_around", lambda: around)
    agent.release("double", "2.0.0", affine_bundle("double", "2.0.0", 3.0))
    order = replace(quick_order("double", "2.0.0"), conditions=Conditions(min_battery_percent=30))
    agent.order(order)
    agent.wait_for_phase("staged")
    agent.wait_for(lambda: "battery is at 10 %" in agent.bundle()["reason"])
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
    assert sum("battery" in detail for detail in agent.details("update.waiting")) == 1
    around = replace(around, on_mains=True)
    agent.wait_for(lambda: agent.bundle()["active"] == "2.0.0" and agent.is_active("double"))
    assert agent.answer() == [3.0, 6.0, 9.0, 12.0]


def test_bundles_of_one_order_go_their_own_ways(agent: RunningAgent) -> None:
    for name, scale in (("double", 2.0), ("triple", 3.0)):
        agent.release(name, "1.0.0", affine_bundle(name, "1.0.0", scale))
    held = replace(
        quick_order("triple", "1.0.0"), conditions=Conditions(not_before=at("2999-01-01T00:00"))
    )
    agent.order(quick_order("double", "1.0.0"), held)
    agent.wait_for(lambda: agent.is_active("double"))
    agent.wait_for_phase("staged", "triple")
    assert "2999" in agent.bundle("triple")["reason"]
    agent.order(quick_order("double", "1.0.0"), quick_order("triple", "1.0.0"))
    # The same version under other conditions goes on with what is there.
    agent.wait_for(lambda: agent.is_active("triple"))
    assert agent.answer("triple") == [3.0, 6.0, 9.0, 12.0]
