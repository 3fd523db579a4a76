"""What each page shows, gathered from the control plane as this person may see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from edgekit.cli.render import size
from edgekit.fleet.access import Access, Role
from edgekit.fleet.api.control_plane import ControlPlane, shown_id
from edgekit.fleet.api.rollout_routes import summary
from edgekit.fleet.devices.activity import FleetCounts, VersionCount
from edgekit.fleet.devices.benching import measurements_of
from edgekit.fleet.devices.certificates import certificates_of
from edgekit.fleet.devices.inventory import Device
from edgekit.fleet.rollouts.plan import Criteria, Stage
from edgekit.fleet.rollouts.selection import stage_bounds
from edgekit.fleet.rollouts.state import ENDED, Phase, RolloutState, Status
from edgekit.fleet.rollouts.store import StoredRollout
from edgekit.pages.fleet_pictures import Part, share_bar
from edgekit.wording import plural

_GOOD: Final = (Phase.COMPLETED, Phase.RUNNING)
_BAD: Final = (Phase.PAUSED, Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.ABORTED)
_TROUBLES: Final = (Status.FAILED, Status.VANISHED, Status.STRANDED)
_TROUBLED_PHASES: Final = ("rejected", "rolled_back")
_SHOWN_TROUBLES: Final = 50


def online_view(counts: FleetCounts) -> dict[str, Any]:
    """How many devices are online, as a picture."""
    parts = [
        Part(name="online", count=counts.online),
        Part(name="offline", count=counts.devices - counts.online),
    ]
    return {"parts": parts, "picture": share_bar(parts, label="Devices")}


def bundle_views(versions: Iterable[VersionCount]) -> list[dict[str, Any]]:
    """For each bundle, which versions serve on how many devices."""
    bundles: dict[str, Counter[str]] = {}
    troubled: Counter[str] = Counter()
    for item in versions:
        name = item.version or "none yet"
        bundles.setdefault(item.bundle, Counter())[name] += item.devices
        if item.phase in _TROUBLED_PHASES:
            troubled[item.bundle] += item.devices
    views = []
    for bundle, counts in bundles.items():
        # By name, not by count: while a rollout goes on no version changes its colour.
        parts = [
            Part(name=name, count=counts[name], place=place)
            for place, name in enumerate(sorted(counts, reverse=True))
        ]
        views.append(
            {
                "name": bundle,
                "parts": parts,
                "picture": share_bar(parts, label=f"Versions of {bundle}"),
                "troubled": troubled[bundle],
            }
        )
    return views


def device_view(access: Access, device: Device) -> dict[str, Any]:
    """A device in one row."""
    hardware = device.hardware
    ram = hardware.get("ram_bytes")
    facts = [str(hardware.get("architecture", ""))]
    facts += [size(ram)] if isinstance(ram, int) and ram > 0 else []
    return {
        "id": shown_id(access, device),
        "online": device.online,
        "last_seen": device.last_seen,
        "first_seen": device.first_seen,
        "machine": ", ".join(fact for fact in facts if fact),
        "labels": " ".join(f"{name}={value}" for name, value in device.labels.items()),
        "bundles": [
            {
                "name": name,
                **bundle,
                "tone": "bad" if bundle.get("phase") in _TROUBLED_PHASES else "",
            }
            for name, bundle in sorted(device.bundles.items())
        ],
    }


def holdings_view(plane: ControlPlane, access: Access, device: Device) -> dict[str, Any]:
    """What a device holds and owes: its certificate, open requests, and its last measurement."""
    now = plane.now
    held = certificates_of(plane.database, device.id)
    newest = held[0] if held else None
    asked = plane.requests(access).of(device.id)
    measured = next(measurements_of(plane.database, device.id), None)
    shut_out = newest is not None and newest.revoked is not None
    return {
        "certificate": newest,
        "certificate_tone": "bad" if shut_out or (newest and newest.ends <= now) else "",
        "certificate_text": ""
        if newest is None
        else "revoked"
        if shut_out
        else "over"
        if newest.ends <= now
        else "valid",
        "requests": [
            {
                "kind": item.kind.value,
                "standing": item.standing(now),
                "created": item.created,
                # Who asks is for those who may ask.
                "created_by": item.created_by if access.role.includes(Role.OPERATOR) else "",
                "expires": item.expires,
            }
            for item in asked
            if item.standing(now) in ("waiting", "sent")
        ],
        "bench": measured,
    }


def rollout_view(stored: StoredRollout) -> dict[str, Any]:
    """A rollout in one card."""
    state = stored.state
    counts = Counter(device.status.value for device in state.devices.values())
    parts = _parts(state, counts, len(state.members) - len(state.devices))
    tone = "good" if state.phase in _GOOD else "bad" if state.phase in _BAD else "muted"
    figures = summary(stored)
    return {
        "id": figures["id"],
        "bundle": figures["bundle"],
        "version": figures["version"],
        "phase": figures["phase"],
        "reason": figures["reason"],
        "stage": figures["stage"],
        "tone": tone,
        "parts": parts,
        "picture": share_bar(parts, label="Devices of the rollout"),
    }


def stage_views(stored: StoredRollout) -> list[dict[str, Any]]:
    """How far each stage is."""
    plan, state = stored.plan, stored.state
    bounds = stage_bounds(plan.stages, len(state.members))
    views = []
    for number, stage in enumerate(plan.stages):
        own = [device for device in state.devices.values() if device.stage == number]
        size_ = bounds[number] - (bounds[number - 1] if number else 0)
        counts = Counter(device.status.value for device in own)
        parts = _parts(state, counts, max(0, size_ - len(own)))
        present = number == state.stage and state.phase not in ENDED and state.phase != Phase.NEW
        views.append(
            {
                "name": stage.name,
                "size": _size_text(stage),
                "present": present,
                "parts": parts,
                "picture": share_bar(parts, label=f"Devices of stage {stage.name}"),
                "criteria": _criteria_text(stage),
            }
        )
    return views


def trouble_views(stored: StoredRollout) -> list[dict[str, str]]:
    """The devices of a rollout that somebody should look at, and why."""
    found = [
        {
            "device": name,
            "status": device.status.value,
            "reason": device.reason,
        }
        for name, device in stored.state.devices.items()
        if device.status in _TROUBLES
    ]
    return found[:_SHOWN_TROUBLES]


def buttons_for(access: Access, stored: StoredRollout) -> list[str]:
    """What this person may do to a rollout now."""
    if not access.role.includes(Role.OPERATOR):
        return []
    phase = stored.state.phase
    buttons = ["pause"] if phase is Phase.RUNNING else []
    stoppable = phase not in (Phase.NEW, Phase.ROLLED_BACK, Phase.ROLLING_BACK)
    return [*buttons, "stop"] if stoppable else buttons


def _parts(state: RolloutState, counts: Mapping[str, int], rest: int) -> list[Part]:
    """Devices by how they are; those whose turn has not come wait, or were never touched."""
    parts = [
        Part(name=status.value, count=counts[status.value])
        for status in Status
        if counts.get(status.value)
    ]
    over = state.phase in ENDED or state.phase is Phase.ROLLING_BACK
    return (
        [*parts, Part(name="untouched" if over else "waiting", count=rest)] if rest > 0 else parts
    )


def _size_text(stage: Stage) -> str:
    return (
        f"up to {stage.size} of the group"
        if stage.percent
        else f"up to {plural(stage.count or 0, 'device')}"
    )


def _criteria_text(stage: Stage) -> str:
    criteria: Criteria = stage.criteria
    texts = [
        f"at least {criteria.min_installed_share:.0%} installed",
        f"at most {criteria.max_failed_share:.0%} failed",
        f"errors at most {criteria.max_error_share:.1%}",
        f"{criteria.min_seconds:g} s",
    ]
    if criteria.min_requests:
        texts.append(plural(criteria.min_requests, "request"))
    if criteria.max_p90_ms:
        texts.append(f"p90 at most {criteria.max_p90_ms:g} ms")
    if criteria.max_drift:
        texts.append(f"drift at most {criteria.max_drift:g}")
    if criteria.min_accuracy:
        texts.append(f"accuracy at least {criteria.min_accuracy:.1%}")
    if stage.needs_approval:
        texts.append("needs a second person's approval")
    return "; ".join(texts)
