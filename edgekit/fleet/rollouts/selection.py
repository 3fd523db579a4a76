"""Which devices come in which stage: decided once, the same way wherever it is computed.

Every device gets a rank from a hash of the rollout's id and its own, so that the same few devices
are not the canaries of every rollout. Within each stratum (devices that are equal in the labels
named by the plan) the ranks are spread evenly over the whole, so every stage is a scaled-down
picture of the group: systematic sampling from a stratified frame (Cochran, Sampling Techniques,
3rd ed., section 8.5).
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from edgekit.fleet.rollouts.labels import Label, LabelQuery, Labels
from edgekit.fleet.rollouts.plan import Stage


def rank(rollout: str, device: str) -> int:
    """A number that looks random and is always the same for a rollout and a device."""
    return int.from_bytes(hashlib.sha256(f"{rollout}\0{device}".encode()).digest()[:8])


def choose_members(
    rollout: str,
    devices: Mapping[str, Labels],
    query: LabelQuery,
    comparable_by: Sequence[str] = (),
) -> tuple[str, ...]:
    """The devices that a rollout is for, in the order in which their turn comes.

    Args:
        rollout: Its id.
        devices: The labels of every known device.
        query: Which of them are meant.
        comparable_by: Labels in whose shares every stage shall resemble the whole.
    """
    strata: dict[tuple[Label | None, ...], list[tuple[int, str]]] = defaultdict(list)
    for device, labels in devices.items():
        if query.matches(labels):
            stratum = tuple(labels.get(name) for name in comparable_by)
            strata[stratum].append((rank(rollout, device), device))
    places = []
    for stratum, members in strata.items():
        members.sort()
        # A random start inside the interval, the stratum's own, as systematic sampling wants it:
        # without it, the single members of many small strata would all come at the same point.
        start = rank(rollout, repr(stratum)) / 2**64
        places += [
            ((position + start) / len(members), hashed, device)
            for position, (hashed, device) in enumerate(members)
        ]
    return tuple(device for _, _, device in sorted(places))


def stage_bounds(stages: Sequence[Stage], members: int) -> tuple[int, ...]:
    """How many members are updated after each stage; never less than after the one before."""
    bounds: list[int] = []
    for stage in stages:
        wanted = stage.count if stage.count is not None else _share(stage.percent or 0.0, members)
        bounds.append(max(min(wanted, members), bounds[-1] if bounds else 0))
    return tuple(bounds)


def _share(percent: float, members: int) -> int:
    # Never fewer than one; and 10 % of 30 are 3, although 0.1 * 30 is a little more.
    return max(1, math.ceil(round(percent * members / 100, 9)))
