"""Pictures of the fleet's page: what is written on them."""

from __future__ import annotations

import re

import pytest

from edgekit.pages.fleet_pictures import Line, line_chart


@pytest.mark.parametrize(
    ("largest", "written"),
    [(0.125, "0.125"), (42, "42"), (999, "999"), (999.9, "1k"), (16_500, "16.5k"), (2e6, "2M")],
)
def test_the_largest_value_is_written_short_and_plain(largest: float, written: str) -> None:
    drawn = line_chart(
        [Line(name="1.0.0", points=[(0, 0), (60, largest)])], label="requests", unit="a minute"
    )
    assert re.findall(r">([^<]+)</text>", drawn) == [written, "0", "a minute", "1.0.0"]
