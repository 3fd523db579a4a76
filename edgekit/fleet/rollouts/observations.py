"""What is seen of the devices at one moment: all that the engine knows of the world."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from edgekit.fleet.rollouts.labels import Labels
from edgekit.fleet.telemetry.drift import merge_features
from edgekit.fleet.telemetry.sketches import LatencySketch, merge_latencies
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.reports import Phase
from edgekit_runtime.telemetry import FeatureCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a device, or several, report of one version in live use.

    Attributes:
        requests: Requests that reached the model.
        errors: Those that it did not answer.
        insane: Those whose answer held NaN or infinity.
        latency: Of the model.
        drift: By feature, live values in the bins of the reference.
        feedback: Answers of which it became known whether they were right.
        right: Those that were.
    """

    requests: int = 0
    errors: int = 0
    insane: int = 0
    latency: LatencySketch = field(default_factory=LatencySketch)
    drift: Mapping[str, FeatureCounts] = field(default_factory=dict)
    feedback: int = 0
    right: int = 0


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


UNSEEN: Final = Observation()
Observations = Mapping[str, Observation]


def merge_health(items: Iterable[Health]) -> Health:
    """What several devices report together."""
    known = list(items)
    return Health(
        requests=sum(item.requests for item in known),
        errors=sum(item.errors for item in known),
        insane=sum(item.insane for item in known),
        latency=merge_latencies(item.latency for item in known),
        drift=merge_features(item.drift for item in known),
        feedback=sum(item.feedback for item in known),
        right=sum(item.right for item in known),
    )
