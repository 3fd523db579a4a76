"""Charts as SVG text, to stand inside a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK: Final = "#1f2933"
MUTED: Final = "#7b8794"
# Distinguishable with the common colour-vision deficiencies (Okabe and Ito, 2008).
COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "edgekit",  # the same figures give the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar.

    Attributes:
        label: Under it.
        value: Its length.
        text: At its end.
        low: Lower end of its band, where it has one.
        high: Upper end of its band.
        group: Bars of one group have one colour.
    """

    label: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A moment on a time axis: a line with a word."""

    at_s: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one colour."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def bar_chart(bars: Sequence[Bar], *, unit: str, logarithmic: bool = False) -> str:
    """Horizontal bars, the first on top, each with its figure and its band if it has one.

    On a logarithmic axis they are points.
    """
    with _figure(height=0.34 * len(bars) + 0.9) as (figure, axes):
        groups = list(dict.fromkeys(bar.group for bar in bars))
        for position, bar in enumerate(bars):
            colour = COLOURS[groups.index(bar.group) % len(COLOURS)]
            if logarithmic:
                # A bar's length means nothing where the axis has no zero.
                axes.plot(bar.value, position, "o", color=colour, markersize=8, zorder=3)
            else:
                axes.barh(position, bar.value, color=colour, height=0.62)
            end = bar.value
            if bar.low is not None and bar.high is not None:
                axes.plot([bar.low, bar.high], [position, position], color=INK, linewidth=1.4)
                axes.plot([bar.low, bar.high], [position, position], "|", color=INK, markersize=7)
                end = max(end, bar.high)
            axes.annotate(
                bar.text, (end, position), xytext=(5, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(unit)
        if logarithmic:
            axes.set_xscale("log")
        # Room for the figures at the ends of the bars.
        axes.margins(x=0.28)
        if not logarithmic:
            axes.set_xlim(left=0)
        return _svg(figure)


def timeline(series: Sequence[Series], marks: Sequence[Mark], *, y_label: str) -> str:
    """Points over time, with marked moments; time in seconds."""
    with _figure(height=3.4) as (figure, axes):
        for number, line in enumerate(series):
            axes.plot(
                line.x,
                line.y,
                ".",
                color=COLOURS[number % len(COLOURS)],
                markersize=4,
                label=line.name,
            )
        axes.set_yscale("log")
        for number, mark in enumerate(marks):
            axes.axvline(mark.at_s, color=MUTED, linewidth=0.9, linestyle="--")
            axes.annotate(
                mark.text,
                (mark.at_s, 1.0),
                xycoords=("data", "axes fraction"),
                # Neighbours stand on different lines, so that close moments stay readable.
                xytext=(3, -10 - 13 * (number % 3)),
                textcoords="offset points",
                fontsize=9,
                color=INK,
            )
        axes.set_xlabel("seconds")
        axes.set_ylabel(y_label)
        # Above the points, not on them.
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=len(series),
            frameon=False,
            markerscale=2,
        )
        return _svg(figure)


class _figure:  # noqa: N801 - used as a function
    """A figure in our style, as a context manager."""

    def __init__(self, *, height: float) -> None:
        self._height = height

    def __enter__(self) -> tuple[Figure, Axes]:
        matplotlib: Any = require("matplotlib", extra="report")
        from matplotlib.figure import Figure

        self._style = matplotlib.rc_context(_STYLE)
        self._style.__enter__()
        figure = Figure(figsize=(8.2, self._height), layout="constrained")
        return figure, figure.add_subplot()

    def __exit__(self, *exception: object) -> None:
        self._style.__exit__(*exception)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    # The XML head has no place inside a page.
    return text[text.index("<svg") :]
