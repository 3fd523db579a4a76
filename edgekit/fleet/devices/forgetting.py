"""What a rollout and other records keep of a device that is deleted: its pseudonym. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from edgekit.fleet.device_mentions import rename_mentions
from edgekit.fleet.rollouts.plan import RolloutPlan
from edgekit.fleet.rollouts.selection import stage_bounds
from edgekit.fleet.rollouts.state import ENDED, DeviceProgress, RolloutState, Status

_DELETED: Final = "it was deleted"
# Of these nothing more is expected, whatever becomes of the rollout.
_OVER: Final = frozenset({Status.SKIPPED, Status.OVERRIDDEN, Status.RESTORED})


def renaming(device: str, pseudonym: str) -> Callable[[str], str]:
    """What puts the pseudonym into queries, and texts that quote them."""

    def rename(text: str) -> str:
        return rename_mentions(text, lambda name: pseudonym if name == device else name)

    return rename


def forget_in_rollout(
    plan: RolloutPlan, state: RolloutState, device: str, pseudonym: str, now: float
) -> RolloutState:
    """The state with the pseudonym in the device's place.

    In a rollout under way nothing is expected of it any more: who was not told yet is skipped,
    and who was told is neither judged nor told to go back.

    Args:
        plan: Of the rollout.
        state: Where it stands.
        device: Who is deleted.
        pseudonym: What stands in its place.
        now: Seconds since 1970.
    """
    rename = renaming(device, pseudonym)
    devices = {
        (pseudonym if name == device else name): progress
        for name, progress in state.devices.items()
    }
    if device in state.members and state.phase not in ENDED:
        known = state.devices.get(device)
        if known is None:
            bounds = stage_bounds(plan.stages, len(state.members))
            place = state.members.index(device)
            for stage, bound in enumerate(bounds):
                if place < bound:
                    devices[pseudonym] = DeviceProgress(
                        stage=stage, status=Status.SKIPPED, since=now, reason=_DELETED
                    )
                    break
        elif known.status not in _OVER:
            devices[pseudonym] = replace(
                known, status=Status.OVERRIDDEN, since=now, reason=_DELETED
            )
    return replace(
        state,
        members=tuple(pseudonym if name == device else name for name in state.members),
        devices=devices,
        reason=rename(state.reason),
        decisions=tuple(replace(d, reason=rename(d.reason)) for d in state.decisions),
    )


def forget_in_setting(document: Any, device: str, pseudonym: str) -> Any:
    """What the control plane keeps for itself (lasting alarms, calls that wait), without a device.

    What is about the device alone goes; elsewhere its pseudonym stands.
    """
    if isinstance(document, dict):
        return {
            key: _forget_in_field(key, value, device, pseudonym) for key, value in document.items()
        }
    if isinstance(document, list):
        return [
            forget_in_setting(item, device, pseudonym)
            for item in document
            if not _is_about(item, device)
        ]
    return document


def _forget_in_field(key: str, value: Any, device: str, pseudonym: str) -> Any:
    if key == "device" and value == device:
        return pseudonym
    if key == "text" and isinstance(value, str):
        return re.sub(rf"(?<![\w.-]){re.escape(device)}(?![\w.-])", pseudonym, value)
    return forget_in_setting(value, device, pseudonym)


def _is_about(item: Any, device: str) -> bool:
    match item:
        case str():
            # Or where its samples are: edgekit-samples://plant/oven-001/….
            return item == device or f"/{device}/" in item
        case [first, *_]:
            return bool(first == device)
        case {"device": named}:
            return bool(named == device)
        case _:
            return False
