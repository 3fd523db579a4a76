"""What is seen of the devices at one moment: all that the engine knows of the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from edgekit.fleet.rollouts.labels import Labels
from edgekit.fleet.telemetry.health import Health
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.reports import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One device, as far as the rollout's bundle is concerned.

    Attributes:
        labels: What queries can ask for.
        order_version: Of what the device was told last, by the director; 0 for nothing.
        ordered: What the order says of the bundle; None if it does not name it.
        follows: The order version that the device says it follows.
        phase: Of the bundle, as the device says.
        active: The version that serves, as the device says; empty for none.
        reason: Why the last candidate was given up, as the device says.
        health: Of the rollout's version since it went live there; None if nothing was reported.
    """

    labels: Labels = field(default_factory=dict)
    order_version: int = 0
    ordered: BundleOrder | None = None
    follows: int = 0
    phase: Phase = Phase.IDLE
    active: str = ""
    reason: str = ""
    health: Health | None = None


@runtime_checkable
class HealthKeeper(Protocol):
    """Observations that keep what the devices of a stage report together up to date."""

    def stage_health(self, stage: int, devices: Sequence[str]) -> Health:
        """As `merge_health` of these devices would have it."""
        ...


UNSEEN: Final = Observation()
Observations = Mapping[str, Observation]
