"""How a version does in live use, from what one device or several report of it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from edgekit.fleet.telemetry.drift import FeatureSum, drifted, largest, merge_features
from edgekit.fleet.telemetry.sketches import LatencySketch, merge_latencies
from edgekit_runtime.telemetry import FeatureCounts, ModelCounts

# A 90th percentile of fewer answers says nothing.
LEAST_LATENCIES: Final = 20
_NAMED_FEATURES: Final = 5


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
class Limits:
    """What a version in live use must keep to; see `Criteria` of a rollout for each.

    Attributes:
        min_requests: Shares are judged against at least so many requests.
        max_error_share: Of requests.
        max_insane_share: Of answers.
        max_p90_ms: 0 for no limit.
        max_drift: Population stability index; 0 for no limit.
        min_accuracy: 0 for no limit.
        min_feedback: Answers with feedback before the accuracy is judged.
        accepted_drift: Features whose drift is known.
    """

    min_requests: int = 0
    max_error_share: float = 0.01
    max_insane_share: float = 0.0
    max_p90_ms: float = 0.0
    max_drift: float = 0.25
    min_accuracy: float = 0.0
    min_feedback: int = 1
    accepted_drift: Collection[str] = ()


class Harm(StrEnum):
    """A way in which a version does badly."""

    ERRORS = "errors"
    INSANE = "insane"
    LATENCY = "latency"
    DRIFT = "drift"
    ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A limit that is not kept.

    Attributes:
        kind: Which.
        text: One sentence for people.
        features: Those that drifted, the worst first, with their index.
    """

    kind: Harm
    text: str
    features: Mapping[str, float] = field(default_factory=dict)


def health_of(counts: ModelCounts, *, feedback: int = 0, right: int = 0) -> Health:
    """The health that a window's counts show."""
    return Health(
        requests=counts.requests,
        errors=counts.errors,
        insane=counts.insane,
        latency=LatencySketch(counts.latency),
        drift=counts.features,
        feedback=feedback,
        right=right,
    )


def merge_health(items: Iterable[Health]) -> Health:
    """What several devices report together."""
    known = list(items)
    if len(known) == 1:
        return known[0]
    return Health(
        requests=sum(item.requests for item in known),
        errors=sum(item.errors for item in known),
        insane=sum(item.insane for item in known),
        latency=merge_latencies(item.latency for item in known),
        drift=merge_features(item.drift for item in known),
        feedback=sum(item.feedback for item in known),
        right=sum(item.right for item in known),
    )


class HealthSum:
    """What many devices report together, kept up to date one by one: as `merge_health` has it."""

    def __init__(self) -> None:
        self._items: dict[str, Health] = {}
        self._totals = [0, 0, 0, 0, 0]
        self._latency: Counter[int] = Counter()
        # By feature and reference.
        self._drift: dict[str, dict[tuple[float, ...], FeatureSum]] = {}

    def update(self, items: Iterable[tuple[str, Health | None]]) -> Health:
        """Take these devices, and no others; what they report together.

        Args:
            items: Device and health; one that is the very same object as before costs nothing.
        """
        gone = dict(self._items)
        for device, health in items:
            known = gone.pop(device, None)
            if health is known:
                continue
            if known is not None:
                self._add(known, -1)
                del self._items[device]
            if health is not None:
                self._add(health, 1)
                self._items[device] = health
        for device, health in gone.items():
            self._add(health, -1)
            del self._items[device]
        requests, errors, insane, feedback, right = self._totals
        return Health(
            requests=requests,
            errors=errors,
            insane=insane,
            latency=LatencySketch({at: count for at, count in self._latency.items() if count}),
            drift={name: largest(sums.values()) for name, sums in self._drift.items() if sums},
            feedback=feedback,
            right=right,
        )

    def _add(self, health: Health, sign: int) -> None:
        counts = (health.requests, health.errors, health.insane, health.feedback, health.right)
        for place, count in enumerate(counts):
            self._totals[place] += sign * count
        for bucket, count in health.latency.counts.items():
            self._latency[bucket] += sign * count
        for name, feature in health.drift.items():
            sums = self._drift.setdefault(name, {})
            if feature.expected not in sums:
                sums[feature.expected] = FeatureSum(feature)
            sums[feature.expected].add(feature, sign=sign)
            if not sums[feature.expected].members:
                del sums[feature.expected]


def find_faults(limits: Limits, health: Health) -> tuple[Fault, ...]:
    """Every limit that a version does not keep; nothing if it does well."""
    base = max(health.requests, limits.min_requests)
    faults = []
    if health.errors > limits.max_error_share * base:
        faults.append(
            Fault(
                kind=Harm.ERRORS,
                text=f"{health.errors} of {health.requests} requests failed, "
                f"a share of {limits.max_error_share:g} is allowed",
            )
        )
    if health.insane > limits.max_insane_share * base:
        faults.append(
            Fault(
                kind=Harm.INSANE,
                text=f"{health.insane} of {health.requests} answers held NaN or infinity, "
                f"a share of {limits.max_insane_share:g} is allowed",
            )
        )
    enough = health.latency.count >= max(LEAST_LATENCIES, limits.min_requests)
    p90_ms = health.latency.quantile_ms(0.9) if limits.max_p90_ms and enough else 0.0
    if p90_ms > limits.max_p90_ms:
        faults.append(
            Fault(
                kind=Harm.LATENCY,
                text=f"the 90th percentile of its latency is {p90_ms:.3g} ms, "
                f"{limits.max_p90_ms:g} ms are allowed",
            )
        )
    if limits.max_drift:
        faults += _drift(limits, health)
    if (
        limits.min_accuracy
        and health.feedback >= max(1, limits.min_feedback)
        and health.right < limits.min_accuracy * health.feedback
    ):
        faults.append(
            Fault(
                kind=Harm.ACCURACY,
                text=f"{health.right} of {health.feedback} answers with feedback were right, "
                f"a share of {limits.min_accuracy:g} is needed",
            )
        )
    return tuple(faults)


def _drift(limits: Limits, health: Health) -> list[Fault]:
    live = {name: item for name, item in health.drift.items() if name not in limits.accepted_drift}
    found = drifted(live, limit=limits.max_drift)
    if not found:
        return []
    named = ", ".join(f"{name} ({psi:.2f})" for name, psi in list(found.items())[:_NAMED_FEATURES])
    more = len(found) - _NAMED_FEATURES
    text = f"the data has drifted from the reference beyond {limits.max_drift:g}: {named}"
    if more > 0:
        text += f" and {more} more"
    return [Fault(kind=Harm.DRIFT, text=text, features=found)]
