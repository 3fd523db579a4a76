"""Pictures of the fleet's page, drawn at every request: SVG text, made in well under a millisecond.

matplotlib takes a tenth of a second a chart, which is too long for a page that looks live.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from edgekit.pages.charts import COLOURS, INK, MUTED

# What a word means is the same in every picture, and told by more than its colour: the words
# stand beside the bars.
MEANINGS: Final[Mapping[str, str]] = {
    "active": "#009e73",
    "restored": "#56b4e9",
    "ordered": "#0072b2",
    "ordering": "#56b4e9",
    "trying": "#0072b2",
    "staged": "#56b4e9",
    "fetching": "#56b4e9",
    "returning": "#e69f00",
    "restoring": "#e69f00",
    "failed": "#d55e00",
    "rejected": "#d55e00",
    "rolled_back": "#d55e00",
    "stranded": "#d55e00",
    "vanished": "#7b8794",
    "skipped": "#cbd2d9",
    "overridden": "#cbd2d9",
    "idle": "#cbd2d9",
    "waiting": "#e4e7eb",
    "untouched": "#e4e7eb",
    "online": "#009e73",
    "offline": "#cbd2d9",
}
# For what has no meaning of its own: no green and no red, which look like one.
_PLACES: Final = ("#0072b2", "#56b4e9", "#cc79a7", "#e69f00", "#7b8794")
# Their writing shrinks and grows with them: 400 units are legible on a phone of 390 pixels.
_WIDTH: Final = 400
_LEFT: Final = 48
_NAMES_A_ROW: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a whole; `place` tells apart those whose names mean nothing."""

    name: str
    count: int
    place: int = 0

    @property
    def colour(self) -> str:
        """By its meaning; by its place among others if it has none."""
        return MEANINGS.get(self.name, _PLACES[self.place % len(_PLACES)])


def share_bar(parts: Sequence[Part], *, label: str) -> str:
    """One bar, divided; the figures stand beside it in words, so it may be small."""
    total = sum(part.count for part in parts)
    pieces = []
    at = 0.0
    for part in parts:
        if not part.count:
            continue
        width = _WIDTH * part.count / total
        pieces.append(
            f'<rect x="{at:.2f}" y="0" width="{width:.2f}" height="14" fill="{part.colour}">'
            f"<title>{escape(part.name)}: {part.count}</title></rect>"
        )
        at += width
    words = ", ".join(f"{part.count} {part.name}" for part in parts if part.count) or "none"
    return (
        f'<svg class="bar" viewBox="0 0 {_WIDTH} 14" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}: {escape(words)}">'
        f'<rect x="0" y="0" width="{_WIDTH}" height="14" fill="#e4e7eb"/>{"".join(pieces)}</svg>'
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a chart: its name and its points."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(lines: Sequence[Line], *, label: str, unit: str) -> str:
    """Lines over time, from zero up; the largest value is written at the top."""
    known = [point for line in lines for point in line.points]
    if not known:
        return ""
    start, end = min(x for x, _ in known), max(x for x, _ in known)
    top = max([y for _, y in known] + [1e-12])
    height = 120

    def place(point: tuple[float, float]) -> str:
        x = _LEFT + (_WIDTH - _LEFT - 10) * (
            (point[0] - start) / (end - start) if end > start else 0.5
        )
        return f"{x:.1f},{height - (height - 20) * point[1] / top:.1f}"

    drawn = []
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        if len(line.points) == 1:
            x, y = place(line.points[0]).split(",")
            drawn.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        else:
            path = " ".join(place(point) for point in line.points)
            drawn.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
        drawn.append(
            f'<text x="{_LEFT + 115 * (number % _NAMES_A_ROW)}" '
            f'y="{height + 22 + 14 * (number // _NAMES_A_ROW)}" '
            f'font-size="12" fill="{colour}">{escape(line.name)}</text>'
        )
    rows = -(-len(lines) // _NAMES_A_ROW)
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height + 14 + 14 * rows}" role="img" '
        f'aria-label="{escape(label)}">'
        f'<line x1="{_LEFT}" y1="{height}" x2="{_WIDTH - 10}" y2="{height}" stroke="{MUTED}"/>'
        f'<line x1="{_LEFT}" y1="20" x2="{_WIDTH - 10}" y2="20" stroke="#e4e7eb"/>'
        f'<text x="0" y="24" font-size="12" fill="{INK}">{_axis_number(top)}</text>'
        f'<text x="0" y="{height}" font-size="12" fill="{INK}">0</text>'
        f'<text x="0" y="10" font-size="11" fill="{MUTED}">{escape(unit)}</text>'
        f"{''.join(drawn)}</svg>"
    )


def _axis_number(value: float) -> str:
    """Three digits in the 48 units beside a chart: 0.125, 950, 16.5k, 2M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit * 0.9995:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A value against a limit."""

    name: str
    value: float
    limit: float

    @property
    def exceeded(self) -> bool:
        """Whether it is above the limit."""
        return self.value > self.limit


def limit_bars(measures: Sequence[Measure], *, label: str) -> str:
    """Bars with a mark at the limit; above it they change their colour and say so."""
    if not measures:
        return ""
    top = max(*(m.value for m in measures), *(m.limit * 1.5 for m in measures), 1e-12)
    rows = []
    for number, measure in enumerate(measures):
        y = 22 * number
        scale = (_WIDTH - 250) / top
        colour = "#d55e00" if measure.exceeded else "#0072b2"
        sign = " ▲" if measure.exceeded else ""
        rows.append(
            f'<text x="0" y="{y + 14}" font-size="12" fill="{INK}">{escape(measure.name[:28])}'
            "</text>"
            f'<rect x="180" y="{y + 3}" width="{measure.value * scale:.1f}" height="14" '
            f'fill="{colour}"/>'
            f'<line x1="{180 + measure.limit * scale:.1f}" y1="{y}" '
            f'x2="{180 + measure.limit * scale:.1f}" y2="{y + 20}" stroke="{INK}" '
            'stroke-dasharray="3 2"/>'
            f'<text x="{186 + max(measure.value, measure.limit) * scale:.1f}" y="{y + 14}" '
            f'font-size="12" fill="{INK}">{measure.value:.3f}{sign}</text>'
        )
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {22 * len(measures) + 2}" role="img" '
        f'aria-label="{escape(label)}">{"".join(rows)}</svg>'
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """An interval around zero, with the margin within which nothing matters."""

    low: float
    high: float
    value: float
    margin: float


def interval_picture(span: Span, *, label: str) -> str:
    """Where a difference lies: left of zero, right of it, or not known."""
    reach = max(abs(span.low), abs(span.high), span.margin) * 1.1 or 1.0

    def x(value: float) -> float:
        return _WIDTH / 2 + value / reach * (_WIDTH / 2 - 10)

    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} 56" role="img" aria-label="{escape(label)}">'
        f'<rect x="{x(-span.margin):.1f}" y="6" width="{x(span.margin) - x(-span.margin):.1f}" '
        'height="30" fill="#e4e7eb"><title>differences that do not matter</title></rect>'
        f'<line x1="{x(0):.1f}" y1="2" x2="{x(0):.1f}" y2="40" stroke="{INK}"/>'
        f'<line x1="{x(span.low):.1f}" y1="21" x2="{x(span.high):.1f}" y2="21" '
        'stroke="#0072b2" stroke-width="4"/>'
        f'<circle cx="{x(span.value):.1f}" cy="21" r="6" fill="#0072b2"/>'
        f'<text x="2" y="52" font-size="12" fill="{MUTED}">a has more</text>'
        f'<text x="{_WIDTH - 2}" y="52" font-size="12" text-anchor="end" fill="{MUTED}">'
        "b has more</text></svg>"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Where a share lies, and the one that is asked for."""

    low: float
    high: float
    value: float
    mark: float


def share_picture(band: Band, *, label: str) -> str:
    """The band of a share against the one that is asked for; from just below the lower to all."""
    start = max(0.0, min(band.low, band.mark) * 1.05 - 0.05)

    def x(share: float) -> float:
        return 10 + (share - start) / (1 - start) * (_WIDTH - 20)

    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} 56" role="img" aria-label="{escape(label)}">'
        f'<rect x="{x(band.mark):.1f}" y="6" width="{x(1.0) - x(band.mark):.1f}" height="30" '
        'fill="#e4e7eb"><title>what is asked for</title></rect>'
        f'<line x1="{x(band.low):.1f}" y1="21" x2="{x(band.high):.1f}" y2="21" '
        'stroke="#0072b2" stroke-width="4"/>'
        f'<circle cx="{x(band.value):.1f}" cy="21" r="6" fill="#0072b2"/>'
        f'<text x="2" y="52" font-size="12" fill="{MUTED}">{start:.0%} of inputs agree</text>'
        f'<text x="{_WIDTH - 2}" y="52" font-size="12" text-anchor="end" fill="{MUTED}">'
        "all agree</text></svg>"
    )
