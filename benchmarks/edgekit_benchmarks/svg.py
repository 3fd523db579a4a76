"""Pictures as SVG text: scales, axes and marks, with no library.

Colours are CSS variables of the page, so that a picture follows its light or dark theme; every
mark has a title that a browser shows under the pointer and a screen reader reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

# Distinguishable with the common colour-vision deficiencies (Okabe and Ito, 2008).
COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_TICKS: Final = 5
_CHARACTER: Final = 6.6
_DECADES: Final = (1, 2, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A mapping from values to pixels.

    Attributes:
        low: The value at the start.
        high: The value at the end.
        start: Its pixel.
        end: Its pixel.
        logarithmic: Whether equal ratios are equal distances.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; those outside are held at the edge."""
        if self.logarithmic:
            value = min(max(value, self.low), self.high)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values between the ends."""
        # Within less than a decade there may be no 1, 2 or 5.
        if self.logarithmic and len(found := self._decades()) > 1:
            return found
        return self._steps()

    def _steps(self) -> list[float]:
        step = 10 ** math.floor(math.log10((self.high - self.low) / _TICKS))
        step = next(
            step * factor
            for factor in (1, 2, 5, 10)
            if (self.high - self.low) / (step * factor) <= _TICKS
        )
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _decades(self) -> list[float]:
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = [10.0**e * factor for e in exponents for factor in _DECADES]
        inside = [value for value in every if self.low <= value <= self.high]
        if len(inside) > 2 * _TICKS:
            inside = [v for v in inside if math.isclose(math.log10(v) % 1, 0, abs_tol=1e-9)]
        return inside


def padded(values: Sequence[float], *, start: float, end: float, logarithmic: bool) -> Scale:
    """A scale that shows all values with some room around them; from 0 if it is linear."""
    high = max(values, default=1.0) or 1.0
    if not logarithmic:
        return Scale(low=0.0, high=high * 1.05, start=start, end=end)
    low = min((value for value in values if value > 0), default=high / 10)
    if low == high:
        low, high = low / 2, high * 2
    room = (high / low) ** 0.06
    return Scale(low=low / room, high=high * room, start=start, end=end, logarithmic=True)


@dataclass(slots=True)
class Picture:
    """SVG elements on a canvas of so many pixels."""

    width: float
    height: float
    title: str
    _parts: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "start", muted: bool = False
    ) -> None:
        """Words; `anchor` is "start", "middle" or "end"."""
        kind = "muted" if muted else "ink"
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">'
            f"{escape(words)}</text>"
        )

    def line(
        self, points: Sequence[tuple[float, float]], *, colour: str, width: float = 1.5
    ) -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        )

    def area(self, points: Sequence[tuple[float, float]], *, colour: str, title: str = "") -> None:
        """A filled shape."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(
            f'<polygon points="{path}" fill="{colour}" fill-opacity="0.35" '
            f'stroke="{colour}">{_title(title)}</polygon>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, *, colour: str, title: str = ""
    ) -> None:
        """A filled rectangle."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.5, width):.1f}" '
            f'height="{height:.1f}" rx="1.5" fill="{colour}">{_title(title)}</rect>'
        )

    def dot(
        self, x: float, y: float, *, colour: str, title: str = "", hollow: bool = False
    ) -> None:
        """A point; a hollow one for what is less certain."""
        fill = "var(--paper)" if hollow else colour
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{colour}" '
            f'stroke-width="2">{_title(title)}</circle>'
        )

    def across(self, scale: Scale, *, top: float, bottom: float, label: str) -> None:
        """A horizontal axis with its grid, below."""
        for value in scale.ticks():
            x = scale.at(value)
            self._parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" class="grid"/>'
            )
            self.text(x, bottom + 15, number(value), anchor="middle", muted=True)
        self.text((scale.start + scale.end) / 2, bottom + 32, label, anchor="middle", muted=True)

    def upright(self, scale: Scale, *, left: float, right: float, label: str) -> None:
        """A vertical axis with its grid, to the left."""
        for value in scale.ticks():
            y = scale.at(value)
            self._parts.append(
                f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            )
            self.text(left - 6, y + 4, number(value), anchor="end", muted=True)
        self.text(left, min(scale.start, scale.end) - 10, label, muted=True)

    def render(self) -> str:
        """The picture as text."""
        return (
            f'<svg viewBox="0 0 {self.width:.0f} {self.height:.0f}" role="img" '
            f'aria-label="{escape(self.title, quote=True)}" '
            f'style="max-width:{self.width:.0f}px">{"".join(self._parts)}</svg>'
        )


def number(value: float) -> str:
    """A value on an axis: no more digits than it needs."""
    return f"{value:,.10g}" if abs(value) >= 1 else f"{value:.3g}"


def width_of(words: str) -> float:
    """About how wide words are drawn, in pixels."""
    return len(words) * _CHARACTER


def shortened(words: str, most: int) -> str:
    """Words with their middle left out if they are long."""
    if len(words) <= most:
        return words
    half = (most - 1) // 2
    return f"{words[:half]}…{words[-half:]}"


def _title(words: str) -> str:
    return f"<title>{escape(words)}</title>" if words else ""
