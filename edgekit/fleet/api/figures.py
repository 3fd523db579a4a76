"""The fleet in figures for Prometheus: no device as a label, and a bounded number of series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.devices.activity import count_fleet
from edgekit.fleet.folder import Fleet
from edgekit.fleet.store.telemetry import hourly_counts
from edgekit.fleet.telemetry.feedback import recent_feedback
from edgekit_runtime.errors import EdgekitError

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# Of one figure. What is beyond is added up under "other": a fleet of a thousand versions must not
# take the monitoring down.
MAX_SERIES: Final = 200
_OTHER: Final = "other"


def prometheus_text(plane: ControlPlane) -> bytes:
    """All figures in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_FleetCollector(plane))
    return generate_latest(registry)


class _FleetCollector(Collector):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def collect(self) -> Iterator[GaugeMetricFamily]:
        counts = count_fleet(self._plane.database)
        hours = hourly_counts(self._plane.database, since=self._plane.now - 3_600)
        yield _gauge("edgekit_devices", "Devices that are known", [], {(): counts.devices})
        yield _gauge("edgekit_devices_online", "Devices online", [], {(): counts.online})
        yield _gauge(
            "edgekit_bundle_devices",
            "Devices by bundle, serving version, and phase of the newest order",
            ["bundle", "version", "phase"],
            {(v.bundle, v.version or "none", v.phase): v.devices for v in counts.versions},
        )
        yield _gauge(
            "edgekit_alarms_open",
            "Alarms that last",
            ["kind"],
            {(kind,): count for kind, count in counts.open_alarms.items()},
        )
        yield _gauge(
            "edgekit_rollouts",
            "Rollouts by phase",
            ["phase"],
            {(phase,): count for phase, count in self._plane.rollouts.phases().items()},
        )
        yield _gauge(
            "edgekit_signature_ends",
            "When what was signed ends, in seconds since 1970",
            ["repository", "role"],
            _signature_ends(self._plane.fleet),
        )
        requests: dict[tuple[str, ...], float]
        errors: dict[tuple[str, ...], float]
        requests = {key: sum(hour.requests for hour in of) for key, of in hours.items()}
        errors = {key: sum(hour.errors for hour in of) for key, of in hours.items()}
        feedback = recent_feedback(self._plane.database, since=self._plane.now - 3_600)
        judged: dict[tuple[str, ...], float]
        right: dict[tuple[str, ...], float]
        judged = {key: item.right + item.wrong for key, item in feedback.items()}
        right = {key: item.right for key, item in feedback.items()}
        for name, text, figures in (
            ("requests", "Requests to models that devices reported in this hour and the last",
             requests),
            ("errors", "Requests that failed, reported in this hour and the last", errors),
            ("feedback", "Answers of which it became known within an hour whether they were right",
             judged),
            ("right", "Those of them that were right", right),
        ):  # fmt: skip
            yield _gauge(
                f"edgekit_recent_{name}",
                text,
                ["bundle", "version"],
                figures,
            )


def _signature_ends(fleet: Fleet) -> dict[tuple[str, ...], float]:
    from edgekit.fleet.key_state import root_states

    try:
        return {
            (state.repository.value, state.role): state.expires.timestamp()
            for state in root_states(fleet)
        }
    except EdgekitError:
        # No keys yet, or damage, which whoever signs is told of: the other figures are shown.
        return {}


def _gauge(
    name: str, text: str, labels: list[str], values: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in _bounded(values.items(), len(labels)):
        family.add_metric(key, value)
    return family


def _bounded(
    values: Iterable[tuple[tuple[str, ...], float]], width: int
) -> Iterable[tuple[tuple[str, ...], float]]:
    ordered: list[tuple[tuple[str, ...], Any]] = sorted(values, key=lambda item: (-item[1], item))
    if len(ordered) <= MAX_SERIES:
        return ordered
    rest = sum(value for _, value in ordered[MAX_SERIES - 1 :])
    return [*ordered[: MAX_SERIES - 1], ((_OTHER,) * width, rest)]
