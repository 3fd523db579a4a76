"""How models do in the field, for the page: errors, latency, drift, experiments."""

from __future__ import annotations

import math
from typing import Any, Final

from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.experiments.ab import Answer
from edgekit.fleet.store.experiments import Experiment
from edgekit.fleet.store.telemetry import hourly_counts, recent_counts
from edgekit.fleet.telemetry.drift import noise
from edgekit.fleet.telemetry.feedback import recent_feedback
from edgekit.fleet.telemetry.sketches import LatencySketch
from edgekit.pages.fleet_pictures import (
    Line,
    Measure,
    Span,
    interval_picture,
    limit_bars,
    line_chart,
)
from edgekit_runtime.telemetry import ModelCounts

_DAY: Final = 86_400.0
_DRIFT_LIMIT: Final = 0.25
_SHOWN_MODELS: Final = 12
_SHOWN_FEATURES: Final = 16


def model_views(plane: ControlPlane) -> list[dict[str, Any]]:
    """The versions that most requests went to within a day, each with its drift."""
    recent = recent_counts(plane.database, since=plane.now - _DAY)
    feedback = recent_feedback(plane.database, since=plane.now - _DAY)
    busiest = sorted(recent.items(), key=lambda item: -item[1].requests)[:_SHOWN_MODELS]
    views = []
    for (bundle, version), counts in busiest:
        latency = LatencySketch(counts.latency)
        views.append(
            {
                "bundle": bundle,
                "version": version,
                "requests": counts.requests,
                "errors": counts.errors,
                "insane": counts.insane,
                "nonfinite": nonfinite_of(counts),
                "median_ms": latency.quantile_ms(0.5),
                "p90_ms": latency.quantile_ms(0.9),
                "feedback": feedback.get((bundle, version)),
                "drift": limit_bars(
                    drift_of(counts), label=f"Drift of the features of {bundle} {version}"
                ),
            }
        )
    return views


def nonfinite_of(counts: ModelCounts) -> list[tuple[str, float]]:
    """The features among whose values there are NaN or infinity, and their share; worst first."""
    shares = [(name, each.nonfinite_share) for name, each in counts.features.items()]
    found = [item for item in shares if item[1] > 0]
    return sorted(found, key=lambda item: -item[1])[:_SHOWN_FEATURES]


def drift_of(counts: ModelCounts) -> list[Measure]:
    """The features that moved furthest, each beside the limit that chance leaves it."""
    measures = []
    for name, feature in counts.features.items():
        if feature.total:
            limit = _DRIFT_LIMIT + noise(feature)
            measures.append(Measure(name=name, value=feature.psi(), limit=limit))
    measures.sort(key=lambda measure: -measure.value / measure.limit)
    return measures[:_SHOWN_FEATURES]


def traffic_charts(plane: ControlPlane) -> list[dict[str, str]]:
    """Requests and errors by hour within a day, a line a version."""
    hours = hourly_counts(plane.database, since=plane.now - _DAY)
    charts = []
    for bundle in sorted({bundle for bundle, _ in hours})[:_SHOWN_MODELS]:
        own = {version: of for (name, version), of in hours.items() if name == bundle}
        requests = [
            Line(name=version, points=[(item.hour, item.requests) for item in of])
            for version, of in own.items()
        ]
        shares = [
            Line(
                name=version,
                points=[
                    (item.hour, 100 * item.errors / item.requests) for item in of if item.requests
                ],
            )
            for version, of in own.items()
        ]
        for title, lines, unit in (
            (f"{bundle}: requests an hour", requests, "requests"),
            (f"{bundle}: share of errors by hour", shares, "%"),
        ):
            charts.append({"title": title, "picture": line_chart(lines, label=title, unit=unit)})
    return charts


def experiment_views(plane: ControlPlane) -> list[dict[str, Any]]:
    """The newest experiments, each with its answer and where the difference lies."""
    return [_experiment_view(item) for item in plane.experiments.all()]


def _experiment_view(item: Experiment) -> dict[str, Any]:
    looked, question = item.looked, item.question
    low, high = looked.interval.low, looked.interval.high
    known = math.isfinite(low) and math.isfinite(high)
    decided = looked.answer in (Answer.A_BETTER, Answer.B_BETTER, Answer.NO_DIFFERENCE)
    picture = ""
    if known:
        span = Span(low=low, high=high, value=looked.difference, margin=question.scale)
        picture = interval_picture(span, label=looked.sentence(question))
    return {
        "id": item.id,
        "bundle": item.bundle,
        "a": item.version_a,
        "b": item.version_b,
        "answer": looked.answer.value,
        "tone": "good" if decided else "muted",
        "because": _because(looked.answer, looked.sentence(question)),
        "picture": picture,
        "metric": question.metric.value,
        "value_a": question.metric.shown(looked.a) if looked.devices_a else "-",
        "value_b": question.metric.shown(looked.b) if looked.devices_b else "-",
        "devices_a": looked.devices_a,
        "devices_b": looked.devices_b,
        "looks": looked.looks,
        "query": item.query,
        "created": item.created,
        "created_by": item.created_by,
    }


def _because(answer: Answer, sentence: str) -> str:
    """The sentence without the answer, where it begins with it: the page shows that before."""
    head, colon, rest = sentence.partition(": ")
    return rest if colon and head.startswith(answer.value) else sentence
