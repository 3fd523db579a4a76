"""What is to run beside what, and what its process is told: one JSON object on the command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from edgekit_agent.plans import ModelPlan
from edgekit_runtime.orders import ShadowOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A version to run beside the one that serves.

    Attributes:
        candidate: What is to be run.
        active: What serves.
        order: How it is to be run.
        seconds: How long it has been run already.
    """

    candidate: ModelPlan
    active: ModelPlan
    order: ShadowOrder
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPlan:
    """What the process of a version beside needs; the numbers are inherited file descriptors.

    Attributes:
        candidate: What to run.
        active: What serves, whose answers come along.
        run: Of which comparison.
        rate: The share of requests that it wants.
        max_per_second: How many it wants at most.
        tolerance: See `ShadowOrder`.
        place: The folder of the socket that the server finds it by.
        reports: A pipe to the supervisor, one JSON object a line.
        life: A pipe whose other end only the supervisor holds.
    """

    candidate: ModelPlan
    active: ModelPlan
    run: str
    rate: float
    max_per_second: float
    tolerance: float
    place: str
    reports: int
    life: int

    def to_json(self) -> str:
        """The plan as an argument."""
        return json.dumps(asdict(self), separators=(",", ":"))


def read_shadow_plan(text: str) -> ShadowPlan:
    """Read what `ShadowPlan.to_json` made; it comes from our own supervisor."""
    document = json.loads(text)
    candidate, active = (ModelPlan(**document.pop(name)) for name in ("candidate", "active"))
    return ShadowPlan(candidate=candidate, active=active, **document)
