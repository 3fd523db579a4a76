"""Two comparable groups of devices, decided once, the same way wherever it is computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum

from edgekit.fleet.rollouts.labels import Label, LabelQuery, Labels
from edgekit.fleet.rollouts.selection import rank


class Arm(StrEnum):
    """The two sides of a comparison: A is what is known, B what is tried."""

    A = "a"
    B = "b"


def assign_arms(
    experiment: str,
    devices: Mapping[str, Labels],
    query: LabelQuery,
    comparable_by: Sequence[str] = (),
) -> dict[str, Arm]:
    """Put every device that matches into one of two groups, by chance within pairs of equals.

    Within each stratum (devices that are equal in the labels named) the devices are paired by a
    hash, and a hash decides which of a pair is B: the groups differ by chance alone, and by at
    most one device in every stratum.

    Args:
        experiment: Its id; another one gives other groups.
        devices: The labels of every known device.
        query: Which of them take part.
        comparable_by: Labels in which the two groups shall be equal.
    """
    strata: dict[tuple[Label | None, ...], list[str]] = defaultdict(list)
    for device, labels in devices.items():
        if query.matches(labels):
            strata[tuple(labels.get(name) for name in comparable_by)].append(device)
    arms: dict[str, Arm] = {}
    for members in strata.values():
        members.sort(key=lambda device: (rank(experiment, device), device))
        for start in range(0, len(members), 2):
            pair = members[start : start + 2]
            first = Arm.B if rank(f"{experiment}/coin", pair[0]) % 2 else Arm.A
            arms[pair[0]] = first
            for other in pair[1:]:
                arms[other] = Arm.A if first is Arm.B else Arm.B
    return arms
