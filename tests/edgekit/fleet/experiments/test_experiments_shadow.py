from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.experiments.shadow import (
    ShadowReport,
    ShadowVerdict,
    judge_shadow,
    merge_shadow,
    read_shadow,
)
from edgekit.fleet.telemetry.sketches import LatencySketch
from edgekit_runtime.fields import FieldReader


def report(compared: int, agreed: int) -> ShadowReport:
    return ShadowReport(
        active="1.0.0",
        candidate="2.0.0",
        compared=compared,
        agreed=agreed,
        gap=LatencySketch({40: compared}),
        latency=LatencySketch({80: compared}),
    )


@pytest.mark.parametrize(
    ("compared", "agreed", "verdict"),
    [
        (0, 0, ShadowVerdict.UNDECIDED),
        (50, 49, ShadowVerdict.UNDECIDED),
        (2_000, 1_990, ShadowVerdict.AGREES),
        (500, 300, ShadowVerdict.DIFFERS),
    ],
)
def test_verdicts(compared: int, agreed: int, verdict: ShadowVerdict) -> None:
    assert judge_shadow(report(compared, agreed), min_agreement=0.95).verdict is verdict


def test_reports_travel_and_add_up() -> None:
    reports = []
    for compared, agreed in ((10, 9), (30, 30)):
        reader = FieldReader(json.loads(json.dumps(report(compared, agreed).to_json())))
        reports.append(read_shadow(reader))
        assert not reader.faults
    total = merge_shadow(reports)
    assert total == report(40, 39)
    assert merge_shadow([]) is None


def test_more_agreement_than_comparisons_is_refused() -> None:
    reader = FieldReader(report(5, 6).to_json())
    read_shadow(reader)
    assert reader.faults == ["agreed: is more than was compared"]


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_interval_holds_what_was_seen(agreed: int, other: int) -> None:
    result = judge_shadow(report(agreed + other, agreed), min_agreement=0.9)
    assert 0 <= result.agreement.low <= result.agreement.high <= 1
    if agreed + other:
        assert result.agreement.low <= agreed / (agreed + other) <= result.agreement.high
