"""The quickstart's page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit.cli.render import milliseconds, percent, size
from edgekit.pages.charts import Bar, Mark, Series, bar_chart, timeline
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from edgekit.quickstart.figures import QuickstartFigures

_SHOWN_EVENTS: Final = {
    "update.fetching": "fetching",
    "update.staged": "verified",
    "update.trying": "proven",
    "update.active": "active",
}


def render_page(figures: QuickstartFigures) -> str:
    """The page as HTML; styles and pictures are inside.

    Raises:
        EnvironmentLackError: If jinja2 or matplotlib is not installed.
    """
    jinja2: Any = require("jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "size": size, "ms": milliseconds}
    text: str = environment.get_template("quickstart.html.j2").render(
        figures=figures,
        total_seconds=sum(figures.seconds.values()),
        charts=[
            ("Size of each file", "Read from the files.", _sizes(figures)),
            (
                "Accuracy on the held-out digits",
                "Measured here, on samples that neither training nor calibration saw. The axis "
                "does not begin at zero.",
                _accuracies(figures),
            ),
            (
                "Latency of one inference",
                "Measured here, one thread: the bar is the median, the line goes to the 90th "
                "percentile.",
                _latencies(figures),
            ),
            (
                "Latency on the device",
                "Not measured: the point is the prediction, the line its band, on a logarithmic "
                "axis. The table below says what each rests on.",
                _predictions(figures),
            ),
            (
                "The move to version 2 under traffic",
                "Each point is a request, coloured by the version that answered; latency as the "
                "application sees it.",
                _update(figures),
            ),
        ],
    )
    return text


def _sizes(figures: QuickstartFigures) -> str:
    return bar_chart(
        [
            Bar(
                label=_label(item),
                value=item.size_bytes / 1000,
                text=size(item.size_bytes),
                group=item.model,
            )
            for item in figures.variants
        ],
        unit="kB",
    )


def _accuracies(figures: QuickstartFigures) -> str:
    floor = min(item.accuracy for item in figures.variants) * 100 - 2
    return bar_chart(
        [
            Bar(
                label=_label(item),
                value=item.accuracy * 100 - floor,
                text=percent(item.accuracy),
                group=item.model,
            )
            for item in figures.variants
        ],
        unit=f"percentage points above {floor:.0f} %",
    )


def _latencies(figures: QuickstartFigures) -> str:
    return bar_chart(
        [
            Bar(
                label=_label(item),
                value=item.median_ms,
                text=milliseconds(item.median_ms),
                low=item.median_ms,
                high=item.p90_ms,
                group=item.model,
            )
            for item in figures.variants
        ],
        unit="milliseconds",
    )


def _predictions(figures: QuickstartFigures) -> str:
    return bar_chart(
        [
            Bar(
                label=f"{item.board}, {item.variant}",
                value=item.latency_ms,
                text=milliseconds(item.latency_ms),
                low=item.low_ms,
                high=item.high_ms,
                group=item.board,
            )
            for item in figures.predictions
        ],
        unit="milliseconds",
        logarithmic=True,
    )


def _update(figures: QuickstartFigures) -> str:
    start = min(request.at for request in figures.requests)
    end = max(request.at for request in figures.requests)
    versions = list(dict.fromkeys(request.version for request in figures.requests))
    return timeline(
        [
            Series(
                name=f"version {version}",
                x=[r.at - start for r in figures.requests if r.version == version],
                y=[r.latency_ms for r in figures.requests if r.version == version],
            )
            for version in versions
        ],
        _marks(figures, versions[-1:], start, end),
        y_label="latency in ms",
    )


def _marks(
    figures: QuickstartFigures, versions: Sequence[str], start: float, end: float
) -> list[Mark]:
    return [
        Mark(at_s=moment.at - start, text=_SHOWN_EVENTS[moment.kind])
        for moment in figures.moments
        if moment.kind in _SHOWN_EVENTS and moment.version in versions and start <= moment.at <= end
    ]


def _label(item: Any) -> str:
    return f"{item.model}, {item.variant}"
