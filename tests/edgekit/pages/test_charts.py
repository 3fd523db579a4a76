"""Charts: valid, searchable, reproducible."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from edgekit.pages.charts import Bar, Mark, Series, bar_chart, timeline

BARS = [
    Bar(label="first <one>", value=2.0, text="2 ms", low=1.0, high=3.0, group="a"),
    Bar(label="second", value=5.0, text="5 ms", group="b"),
]


def test_bars_say_their_names_and_figures_as_text() -> None:
    svg = bar_chart(BARS, unit="milliseconds")
    ET.fromstring(svg)
    for text in ("first &lt;one&gt;", "second", "2 ms", "5 ms", "milliseconds"):
        assert text in svg


def test_the_same_figures_are_the_same_bytes() -> None:
    assert bar_chart(BARS, unit="ms") == bar_chart(BARS, unit="ms")


def test_a_timeline_names_series_and_marks() -> None:
    svg = timeline(
        [Series(name="version 1", x=[0, 1], y=[0.5, 0.6]), Series(name="version 2", x=[2], y=[1])],
        [Mark(at_s=1.5, text="proven")],
        y_label="latency",
    )
    ET.fromstring(svg)
    for text in ("version 1", "version 2", "proven", "latency", "seconds"):
        assert text in svg
