"""`/metrics`: how it goes, in Prometheus's text format 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/. Counters of models begin anew with
each server process, as Prometheus expects of a restart.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_agent.live_stats import LatencyHistogram, bucket_bound_ms

if TYPE_CHECKING:
    from edgekit_agent.hosted import HostedModel
    from edgekit_agent.telemetry.gauges import DeviceProbe
    from edgekit_runtime.telemetry import DeviceGauges

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# 1.1 ** 8 is 2.14: enough for a percentile, and few lines.
_BOUNDS: Final = tuple(range(32, 184, 8))
_MAX_STATUS_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metric:
    name: str
    kind: str
    help: str
    samples: Sequence[tuple[str, Mapping[str, str], float]]


def render_metrics(
    models: Iterable[HostedModel], *, gauges: DeviceGauges, status: Mapping[str, Any]
) -> bytes:
    """The whole page.

    Args:
        models: Of this server.
        gauges: Of the device, now.
        status: What the supervisor last wrote down; empty if nothing.
    """
    metrics = [*_of_models(list(models)), *_of_device(gauges), *_of_supervisor(status)]
    lines = []
    for metric in metrics:
        if not metric.samples:
            continue
        lines.append(f"# HELP {metric.name} {metric.help}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        for suffix, labels, value in metric.samples:
            inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            place = f"{metric.name}{suffix}" + (f"{{{inside}}}" if inside else "")
            lines.append(f"{place} {value:.10g}")
    return ("\n".join(lines) + "\n").encode()


def read_status_file(path: Path) -> dict[str, Any]:
    """What the supervisor last wrote; empty if there is nothing to read."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_STATUS_BYTES))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _of_models(models: list[HostedModel]) -> list[_Metric]:
    counted = [
        ({"model": m.plan.bundle, "version": m.plan.version, "variant": m.variant.id}, m.stats)
        for m in models
    ]

    def counter(name: str, help_text: str, field: str) -> _Metric:
        samples = [("", labels, float(getattr(stats, field))) for labels, stats in counted]
        return _Metric(name=name, kind="counter", help=help_text, samples=samples)

    latencies = _Metric(
        name="edgekit_model_latency_seconds",
        kind="histogram",
        help="Pre- and postprocessing and the model, without waiting and HTTP.",
        samples=[
            sample for labels, stats in counted for sample in _histogram(labels, stats.latency)
        ],
    )
    return [
        counter("edgekit_model_requests_total", "Requests that reached the model.", "requests"),
        counter("edgekit_model_errors_total", "Requests that the model did not answer.", "errors"),
        counter("edgekit_model_insane_total", "Answers with NaN or infinity.", "insane"),
        counter("edgekit_model_busy_total", "Requests told to come back later.", "busy"),
        _Metric(
            name="edgekit_model_nonfinite_values_total",
            kind="counter",
            help="NaN and infinity among the values that are counted for drift.",
            samples=[
                ("", {**labels, "feature": feature}, float(count))
                for labels, stats in counted
                for feature, count in stats.nonfinite.items()
            ],
        ),
        latencies,
    ]


def _histogram(
    labels: Mapping[str, str], latency: LatencyHistogram
) -> Iterable[tuple[str, Mapping[str, str], float]]:
    counts = dict(list(latency.counts.items()))
    for bound in _BOUNDS:
        below = sum(count for bucket, count in counts.items() if bucket < bound)
        yield "_bucket", {**labels, "le": f"{bucket_bound_ms(bound) / 1e3:.6g}"}, below
    total = sum(counts.values())
    yield "_bucket", {**labels, "le": "+Inf"}, total
    # The sum of what the buckets stand for: within 5 % of the true one.
    middle_ms = sum(count * bucket_bound_ms(bucket + 0.5) for bucket, count in counts.items())
    yield "_sum", labels, middle_ms / 1e3
    yield "_count", labels, total


def _of_device(gauges: DeviceGauges) -> list[_Metric]:
    found = [
        ("edgekit_device_cpu_share", "Of all processors, 0 to 1.", gauges.cpu_share),
        ("edgekit_device_memory_used_bytes", "Of all RAM.", gauges.memory_used_bytes),
        ("edgekit_device_disk_free_bytes", "Where the agent writes.", gauges.disk_free_bytes),
        ("edgekit_device_temperature_celsius", "The highest.", gauges.temperature_c),
    ]
    return [
        _Metric(name=name, kind="gauge", help=text, samples=[("", {}, float(value))])
        for name, text, value in found
        if value is not None
    ]


def _of_supervisor(status: Mapping[str, Any]) -> list[_Metric]:
    if not status:
        return []
    telemetry = status["telemetry"]
    drift = telemetry["drift"].items()
    phases = status["state"]["bundles"].items()

    def gauge(name: str, text: str, value: object, kind: str = "gauge") -> _Metric:
        samples: list[tuple[str, Mapping[str, str], float]] = [("", {}, float(str(value)))]
        return _Metric(name=name, kind=kind, help=text, samples=samples)

    return [
        gauge("edgekit_connected", "Whether the broker is reached.", int(status["connected"])),
        gauge("edgekit_order_version", "The order followed.", status["state"]["order_version"]),
        gauge(
            "edgekit_supervisor_resident_bytes",
            "Resident memory of the supervisor.",
            status["supervisor_rss_bytes"],
        ),
        gauge("edgekit_telemetry_waiting", "Windows not sent yet.", telemetry["waiting"]),
        gauge(
            "edgekit_telemetry_dropped_total",
            "Windows and events lost for want of room.",
            telemetry["dropped"],
            "counter",
        ),
        _Metric(
            name="edgekit_bundle_phase",
            kind="gauge",
            help="1 for the phase that the bundle is in.",
            samples=[
                ("", {"model": name, "phase": bundle["phase"]}, 1.0) for name, bundle in phases
            ],
        ),
        _Metric(
            name="edgekit_drift_psi",
            kind="gauge",
            help="Population stability index against the reference.",
            samples=[
                ("", {"model": name, "feature": feature}, each["psi"])
                for name, features in drift
                for feature, each in features.items()
            ],
        ),
    ]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class MetricsPage:
    """The page of one server process."""

    def __init__(self, status_file: Path, probe: DeviceProbe) -> None:
        """Render from these."""
        self._status_file = status_file
        self._probe = probe

    def render(self, models: Iterable[HostedModel]) -> bytes:
        """The page now."""
        return render_metrics(
            models,
            gauges=self._probe.look(agent_rss_bytes=0),
            status=read_status_file(self._status_file),
        )
