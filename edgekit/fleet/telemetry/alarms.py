"""When somebody must know: alarms that begin, last and end. Pure.

An alarm is about one harm of one version of a bundle. It begins when a limit is not kept by all
devices together, or by one device alone; it ends only when the limit has been kept for a while,
so that a value near its limit does not ring all the time. At most so many last at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from edgekit.fleet.telemetry.health import Fault, Harm, Health, Limits, find_faults, merge_health

MAX_ALARMS: Final = 1_000
_NAMED_DEVICES: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A limit that is not kept.

    Attributes:
        kind: Which harm.
        bundle: Of which bundle.
        version: Which version of it.
        device: The only device that it is about; empty for the fleet together.
        text: One sentence for people.
        features: Those that drifted, the worst first, with their index.
        devices: Where it shows, at most 50; for a device's alarm that device.
        began: When it began; seconds since 1970.
        seen: When the limit was last seen not kept.
    """

    kind: Harm
    bundle: str
    version: str
    device: str = ""
    text: str = ""
    features: Mapping[str, float] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    began: float = 0.0
    seen: float = 0.0

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it the same alarm."""
        return (self.kind.value, self.bundle, self.version, self.device)

    def to_json(self) -> dict[str, object]:
        """The alarm as others are told of it."""
        return {
            "kind": self.kind.value,
            "bundle": self.bundle,
            "version": self.version,
            "device": self.device,
            "text": self.text,
            "features": dict(self.features),
            "devices": list(self.devices),
            "began": self.began,
            "seen": self.seen,
        }


class Change(StrEnum):
    """What has become of an alarm."""

    BEGAN = "began"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What watching has found.

    Attributes:
        alarms: Those that last, by their key.
        changes: Those that began or ended now.
    """

    alarms: Mapping[tuple[str, ...], Alarm]
    changes: tuple[tuple[Change, Alarm], ...] = ()


def watch_version(
    bundle: str,
    version: str,
    health: Mapping[str, Health],
    limits: Limits,
    *,
    device_limits: Limits | None = None,
) -> tuple[Alarm, ...]:
    """What is wrong with a version now.

    Args:
        bundle: Its bundle.
        version: Which.
        health: By device, what it reported lately.
        limits: For all devices together.
        device_limits: For each alone; None to look at none alone.
    """
    found = [
        _alarm(fault, bundle, version, devices=_where(fault, health, limits))
        for fault in find_faults(limits, merge_health(health.values()))
    ]
    if device_limits is not None:
        found += [
            _alarm(fault, bundle, version, device=device, devices=(device,))
            for device, item in sorted(health.items())
            for fault in find_faults(device_limits, item)
        ]
    return tuple(found)


def follow_alarms(
    lasting: Mapping[tuple[str, ...], Alarm],
    found: tuple[Alarm, ...],
    *,
    now: float,
    quiet_seconds: float = 900.0,
) -> Watched:
    """Which alarms last, begin and end.

    Args:
        lasting: Those that last so far.
        found: What is wrong now.
        now: Seconds since 1970.
        quiet_seconds: An alarm ends after so long without its cause.
    """
    alarms = dict(lasting)
    changes: list[tuple[Change, Alarm]] = []
    for alarm in found:
        known = alarms.get(alarm.key)
        if known is not None:
            alarms[alarm.key] = replace(alarm, began=known.began, seen=now)
        elif len(alarms) < MAX_ALARMS:
            begun = replace(alarm, began=now, seen=now)
            alarms[alarm.key] = begun
            changes.append((Change.BEGAN, begun))
    for key, alarm in list(alarms.items()):
        if now - alarm.seen >= quiet_seconds:
            del alarms[key]
            changes.append((Change.ENDED, alarm))
    return Watched(alarms=alarms, changes=tuple(changes))


def _alarm(
    fault: Fault, bundle: str, version: str, *, device: str = "", devices: tuple[str, ...]
) -> Alarm:
    return Alarm(
        kind=fault.kind,
        bundle=bundle,
        version=version,
        device=device,
        text=f"{bundle} {version}" + (f" on {device}" if device else "") + f": {fault.text}",
        features=fault.features,
        devices=devices,
    )


def _where(fault: Fault, health: Mapping[str, Health], limits: Limits) -> tuple[str, ...]:
    """The devices that show it by themselves; all of them where none does alone."""
    alone = [
        device
        for device, item in sorted(health.items())
        if any(other.kind is fault.kind for other in find_faults(limits, item))
    ]
    return tuple((alone or sorted(health))[:_NAMED_DEVICES])
