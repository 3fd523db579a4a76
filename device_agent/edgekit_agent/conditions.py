"""When a candidate may go live: windows, times, battery and load, as the order says; pure."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edgekit_runtime.orders import Conditions

POWER_SUPPLIES: Final = Path("/sys/class/power_supply")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What conditions are judged by.

    Attributes:
        time: Seconds since 1970, as well as is known.
        battery_percent: Of the fullest battery; None without one.
        on_mains: Whether power comes from outside; true without a battery.
        load: Average number of running processes over a minute, for each processor.
    """

    time: float
    battery_percent: int | None
    on_mains: bool
    load: float


def why_not_yet(conditions: Conditions, around: Surroundings) -> str:
    """What a candidate waits for; empty for nothing.

    After the deadline only the battery is still waited for: losing power in the middle of a trial
    helps nobody.
    """
    if around.time < conditions.not_before:
        return f"it may not go live before {_text(conditions.not_before)}"
    battery = around.battery_percent
    if battery is not None and not around.on_mains and battery < conditions.min_battery_percent:
        return f"the battery is at {battery} %, and {conditions.min_battery_percent} % are wanted"
    if conditions.deadline and around.time >= conditions.deadline:
        return ""
    windows = conditions.windows
    if windows and not any(window.holds(around.time) for window in windows):
        times = ", ".join(str(window) for window in windows)
        return f"it waits for its maintenance window ({times}, UTC)"
    if conditions.max_load and around.load > conditions.max_load:
        return f"the load is {around.load:.2f}, and at most {conditions.max_load:g} is wanted"
    return ""


def look_around(time: float, *, supplies: Path = POWER_SUPPLIES) -> Surroundings:
    """What this device's kernel says."""
    batteries = []
    mains = False
    for supply in sorted(supplies.iterdir()) if supplies.is_dir() else []:
        kind = _read(supply / "type")
        if kind == "Battery" and _read(supply / "scope") != "Device":
            capacity = _read(supply / "capacity")
            if capacity.isdigit():
                batteries.append(int(capacity))
            mains = mains or _read(supply / "status") in ("Charging", "Full")
        elif kind in ("Mains", "USB"):
            mains = mains or _read(supply / "online") == "1"
    return Surroundings(
        time=time,
        battery_percent=max(batteries, default=None),
        on_mains=mains or not batteries,
        load=os.getloadavg()[0] / (os.cpu_count() or 1),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _text(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC"
