"""The pictures of a bench report: one question each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.predict import ANCHORED, PREDICTED
from edgekit_benchmarks.svg import COLOURS, Picture, Scale, padded, shortened, width_of

if TYPE_CHECKING:
    from edgekit_benchmarks.bench import ModelBench
    from edgekit_benchmarks.measure import Measurement
    from edgekit_benchmarks.predict import Prediction
    from edgekit_benchmarks.timeline import Step

_WIDTH: Final = 860.0
_MOST_LABEL: Final = 44
_BINS: Final = 48
_MOST_BARS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One bar: a name, what it costs, and a word about it."""

    name: str
    milliseconds: float
    kind: str


def distributions(measurements: Sequence[tuple[str, Measurement]]) -> str:
    """How long single inferences took: one hill a model, on one axis."""
    labels = [name for name, _ in measurements]
    left = _left(labels)
    row = 64.0
    bottom = 12 + row * len(measurements)
    picture = Picture(_WIDTH, bottom + 44, "Distribution of the latencies of single inferences")
    values = [
        value for _, found in measurements for value in (found.percentiles_ms[0], _shown(found))
    ]
    scale = padded(values, start=left, end=_WIDTH - 20, logarithmic=True)
    picture.across(scale, top=8, bottom=bottom, label="milliseconds")
    for position, (name, found) in enumerate(measurements):
        base = 12 + row * (position + 1) - 8
        colour = COLOURS[position % len(COLOURS)]
        latency = found.latency
        tip = (
            f"{name}: median {latency.median_ms:.4g} ms, p90 {latency.p90_ms:.4g} ms, "
            f"p99 {latency.p99_ms:.4g} ms, {latency.runs} runs"
        )
        picture.area(_hill(found, scale, base, row - 16), colour=colour, title=tip)
        x = scale.at(latency.median_ms)
        picture.line([(x, base), (x, base - row + 16)], colour=colour, width=2)
        picture.text(left - 8, base - 8, shortened(name, _MOST_LABEL), anchor="end")
    return picture.render()


def _shown(found: Measurement) -> float:
    """The 99th percentile: the rare longest run would squeeze all others together."""
    return found.percentiles_ms[99]


def _hill(
    found: Measurement, scale: Scale, base: float, height: float
) -> list[tuple[float, float]]:
    """The density over the logarithm of time, from the percentiles."""
    edges = [scale.start + (scale.end - scale.start) * bin_ / _BINS for bin_ in range(_BINS + 1)]
    counts = [0.0] * _BINS
    positions = [scale.at(value) for value in found.percentiles_ms]
    for low, high in itertools.pairwise(positions):
        # A hundredth of the runs lies between two percentiles: spread it over the bins between.
        begin = min(_BINS - 1, int((low - scale.start) / (scale.end - scale.start) * _BINS))
        end = min(_BINS - 1, int((high - scale.start) / (scale.end - scale.start) * _BINS))
        for bin_ in range(begin, end + 1):
            counts[bin_] += 1 / (end - begin + 1)
    top = max(counts)
    points = [(edges[0], base)]
    for bin_, count in enumerate(counts):
        middle = (edges[bin_] + edges[bin_ + 1]) / 2
        points.append((middle, base - height * count / top))
    return [*points, (edges[-1], base)]


def predictions(found: Sequence[tuple[str, Prediction]]) -> str:
    """Latency on boards with its band: what is certain is filled, what is not is hollow."""
    models = list(dict.fromkeys(name for name, _ in found))
    labels = [_board(prediction) for _, prediction in found]
    left = _left(labels)
    row = 26.0
    bottom = 12 + row * len(found) + 22 * (len(models) > 1) * len(models)
    picture = Picture(_WIDTH, bottom + 44, "Predicted latency on boards, with the 90 % band")
    values = [v for _, p in found for v in (max(p.low_ms, p.high_ms / 1e4), p.high_ms)]
    scale = padded(values, start=left, end=_WIDTH - 20, logarithmic=True)
    picture.across(scale, top=8, bottom=bottom, label="milliseconds")
    y = 8.0
    for position, model in enumerate(models):
        colour = COLOURS[position % len(COLOURS)]
        if len(models) > 1:
            y += 22
            picture.text(8, y - 4, shortened(model, 60))
        for name, prediction in found:
            if name != model:
                continue
            y += row
            middle = y - row / 2
            tip = (
                f"{model} on {_board(prediction)}: {prediction.latency_ms:.3g} ms, from "
                f"{prediction.low_ms:.2g} to {prediction.high_ms:.2g} ms ({prediction.kind})"
            )
            low, high = scale.at(prediction.low_ms), scale.at(prediction.high_ms)
            picture.box(low, middle - 3, high - low, 6, colour="var(--band)", title=tip)
            certain = prediction.kind in {ANCHORED, PREDICTED}
            x = scale.at(prediction.latency_ms)
            picture.dot(x, middle, colour=colour, title=tip, hollow=not certain)
            label = shortened(_board(prediction), _MOST_LABEL)
            picture.text(left - 8, middle + 4, label, anchor="end")
    return picture.render()


def _board(prediction: Prediction) -> str:
    return f"{prediction.board}, {prediction.threads} thread{'s' * (prediction.threads > 1)}"


def costs(bars: Sequence[Cost], *, title: str) -> str:
    """The most expensive operators, longest first, and all others in one bar."""
    ranked = sorted(bars, key=lambda bar: -bar.milliseconds)
    shown = ranked[:_MOST_BARS]
    rest = sum(bar.milliseconds for bar in ranked[_MOST_BARS:])
    if rest:
        others = len(ranked) - _MOST_BARS
        shown.append(Cost(name=f"{others} others", milliseconds=rest, kind=""))
    total = sum(bar.milliseconds for bar in bars) or 1.0
    kinds = list(dict.fromkeys(bar.kind for bar in shown if bar.kind))
    left = _left([bar.name for bar in shown])
    row = 20.0
    bottom = 10 + row * len(shown)
    picture = Picture(_WIDTH, bottom + 44 + 18, title)
    scale = padded(
        [bar.milliseconds for bar in shown], start=left, end=_WIDTH - 130, logarithmic=False
    )
    picture.across(scale, top=6, bottom=bottom, label="milliseconds")
    for position, bar in enumerate(shown):
        y = 8 + row * position
        colour = COLOURS[kinds.index(bar.kind) % len(COLOURS)] if bar.kind else "var(--band)"
        words = f"{bar.milliseconds:.3g} ms, {bar.milliseconds / total:.0%}"
        end = scale.at(bar.milliseconds)
        picture.box(left, y, end - left, row - 6, colour=colour, title=f"{bar.name}: {words}")
        picture.text(end + 6, y + 11, words, muted=True)
        picture.text(left - 8, y + 11, shortened(bar.name, _MOST_LABEL), anchor="end")
    _legend(picture, kinds, left=left, y=bottom + 54)
    return picture.render()


def _legend(picture: Picture, names: Sequence[str], *, left: float, y: float) -> None:
    """Names with their colours, in as many lines as they need; the picture grows by those."""
    start = min(left, _WIDTH / 4)
    x = start
    for position, name in enumerate(names):
        if x > start and x + 30 + width_of(name) > _WIDTH:
            x, y = start, y + 18
            picture.height += 18
        picture.box(x, y - 9, 10, 10, colour=COLOURS[position % len(COLOURS)])
        picture.text(x + 15, y, name, muted=True)
        x += 30 + width_of(name)


def memory_course(steps: Sequence[Step], *, planned_bytes: int) -> str:
    """What activations hold at each operator, and the arena that covers it."""
    left, bottom = 70.0, 190.0
    picture = Picture(_WIDTH, bottom + 44, "Memory of activations over the model's operators")
    across = Scale(low=0, high=max(1, len(steps)), start=left, end=_WIDTH - 20)
    values = [step.live_bytes / 1e6 for step in steps] + [planned_bytes / 1e6]
    upright = padded(values, start=bottom, end=24, logarithmic=False)
    picture.upright(upright, left=left, right=_WIDTH - 20, label="MB")
    picture.across(across, top=24, bottom=bottom, label="operators, in order")
    points = [(across.at(0), bottom)]
    for position, step in enumerate(steps):
        y = upright.at(step.live_bytes / 1e6)
        points += [(across.at(position), y), (across.at(position + 1), y)]
    peak = max(steps, key=lambda step: step.live_bytes)
    tip = f"most at {peak.name}: {peak.live_bytes / 1e6:.3g} MB"
    picture.area([*points, (across.at(len(steps)), bottom)], colour=COLOURS[0], title=tip)
    y = upright.at(planned_bytes / 1e6)
    picture.line([(left, y), (_WIDTH - 20, y)], colour=COLOURS[5], width=1.5)
    words = f"planned arena, {planned_bytes / 1e6:.3g} MB"
    picture.text(_WIDTH - 24, y - 5, words, anchor="end")
    return picture.render()


def course(measurements: Sequence[tuple[str, Measurement]]) -> str:
    """The latency under sustained load: does the machine hold its speed?"""
    left, bottom = 70.0, 200.0
    picture = Picture(_WIDTH, bottom + 62, "Latency over time under sustained load")
    points = [point for _, found in measurements for point in found.curve]
    across = Scale(low=0, high=max(at for at, _ in points), start=left, end=_WIDTH - 20)
    upright = padded([value for _, value in points], start=bottom, end=24, logarithmic=False)
    picture.upright(upright, left=left, right=_WIDTH - 20, label="ms")
    picture.across(across, top=24, bottom=bottom, label="seconds at full load")
    for position, (_, found) in enumerate(measurements):
        line = [(across.at(at), upright.at(value)) for at, value in found.curve]
        picture.line(line, colour=COLOURS[position % len(COLOURS)], width=2)
    _legend(picture, [name for name, _ in measurements], left=left, y=bottom + 54)
    return picture.render()


def trade_off(models: Sequence[ModelBench], accuracies: Mapping[str, float]) -> str:
    """Where each variant stands: to the left is quicker, up is more accurate."""
    points = []
    for entry in models:
        accuracy = accuracies.get(entry.model)
        if accuracy is None:
            continue
        if entry.measurement:
            points.append((entry.model, entry.measurement.latency.median_ms, accuracy))
        elif entry.predictions:
            points.append((entry.model, entry.predictions[0].latency_ms, accuracy))
    left, bottom = 70.0, 240.0
    picture = Picture(_WIDTH, bottom + 44, "Latency against accuracy")
    across = padded(
        [latency for _, latency, _ in points], start=left, end=_WIDTH - 160, logarithmic=True
    )
    shares = [accuracy * 100 for _, _, accuracy in points]
    room = max(0.5, (max(shares) - min(shares)) * 0.2)
    upright = Scale(low=min(shares) - room, high=max(shares) + room, start=bottom, end=24)
    picture.upright(upright, left=left, right=_WIDTH - 20, label="accuracy, %")
    picture.across(across, top=24, bottom=bottom, label="milliseconds")
    for position, (model, latency, accuracy) in enumerate(points):
        x, y = across.at(latency), upright.at(accuracy * 100)
        colour = COLOURS[position % len(COLOURS)]
        tip = f"{Path(model).name}: {latency:.3g} ms, {accuracy:.2%}"
        picture.dot(x, y, colour=colour, title=tip)
        picture.text(x + 10, y + 4, shortened(Path(model).name, 30))
    return picture.render()


def _left(labels: Sequence[str]) -> float:
    return 20 + max(width_of(shortened(label, _MOST_LABEL)) for label in labels)
