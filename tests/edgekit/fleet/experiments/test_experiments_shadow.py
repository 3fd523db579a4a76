from __future__ import annotations

import functools
import json
import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.experiments.shadow import (
    NOTHING,
    ShadowResult,
    ShadowSettings,
    ShadowVerdict,
    judge_shadow,
    settings_from_json,
)
from edgekit_runtime.errors import UsageError
from edgekit_runtime.shadow import OutputGaps, ShadowCounts

ASKED = ShadowSettings(min_agreement=0.95)


def counts(compared: int, agreed: int, *, failed: int = 0, active: str = "1.0.0") -> ShadowCounts:
    return ShadowCounts(
        run="r",
        active=active,
        compared=compared,
        agreed=agreed,
        failed=failed,
        outputs={"y": OutputGaps(gaps={100: compared}, largest=2.5, relative=0.5)},
        latency={80: compared},
        active_latency={70: compared},
    )


def judged(devices: Mapping[str, ShadowCounts]) -> ShadowResult:
    """What is said of everything that these devices report."""
    total = functools.reduce(ShadowCounts.merge, devices.values(), NOTHING)
    return judge_shadow([(c.agreed, c.compared) for c in devices.values()], total, ASKED)


@pytest.mark.parametrize(
    ("compared", "agreed", "verdict"),
    [
        (0, 0, ShadowVerdict.UNDECIDED),
        (50, 49, ShadowVerdict.UNDECIDED),
        (2_000, 1_990, ShadowVerdict.AGREES),
        (500, 300, ShadowVerdict.DIFFERS),
    ],
)
def test_one_device_is_judged_by_its_inputs_and_that_is_said(
    compared: int, agreed: int, verdict: ShadowVerdict
) -> None:
    result = judged({"d1": counts(compared, agreed)})
    assert result.verdict is verdict
    assert not result.of_devices
    if compared:
        assert "inputs of one device alone" in result.sentence
    else:
        assert result.sentence == "nothing was compared yet"


def test_devices_that_agree_alike_are_judged_together() -> None:
    result = judged({f"d{n}": counts(500, 497 + n % 3) for n in range(20)})
    assert (result.verdict, result.of_devices, result.devices) == (ShadowVerdict.AGREES, True, 20)
    assert "alone" not in result.sentence


def test_devices_that_differ_among_themselves_leave_it_open() -> None:
    # By their inputs alone this would be an answer: 98.4 % of 10,000.
    devices = {f"d{n}": counts(1_000, 1_000) for n in range(9)} | {"odd": counts(1_000, 840)}
    result = judged(devices)
    assert result.verdict is ShadowVerdict.UNDECIDED
    assert result.agreement.low < 0.95 < result.agreement.high


def test_what_was_not_answered_is_no_agreement() -> None:
    result = judged({"d1": counts(1_000, 500, failed=500)})
    assert result.verdict is ShadowVerdict.DIFFERS


def test_the_answer_holds_every_figure() -> None:
    devices = {"d1": counts(10, 9), "d2": counts(30, 30, active="1.1.0"), "d3": counts(0, 0)}
    document = json.loads(json.dumps(judged(devices).to_json()))
    assert (document["compared"], document["agreed"], document["devices"]) == (40, 39, 2)
    assert document["latency_ms"]["p50"] > document["active_latency_ms"]["p50"] > 0
    assert document["outputs"]["y"]["largest_difference"] == 2.5
    assert document["outputs"]["y"]["largest_relative_difference"] == 0.5


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 8))
def test_the_interval_holds_what_was_seen(agreed: int, other: int, devices: int) -> None:
    said = {f"d{n}": counts(agreed + other, agreed) for n in range(devices)}
    result = judged(said)
    assert 0 <= result.agreement.low <= result.agreement.high <= 1
    if agreed + other:
        assert result.agreement.low <= agreed / (agreed + other) <= result.agreement.high


def test_looking_all_the_time_gives_few_false_answers() -> None:
    """Devices whose own shares vary around just what is asked for: either answer is wrong."""
    chance = random.Random(7)  # noqa: S311
    wrong = 0
    for _ in range(100):
        # Means of 0.95 by construction: Beta(19, 1).
        shares = [chance.betavariate(19, 1) for _ in range(10)]
        said = {n: [0, 0] for n in range(10)}
        for _look in range(8):
            for n, share in enumerate(shares):
                said[n][0] += sum(chance.random() < share for _ in range(20))
                said[n][1] += 20
            devices = {str(n): counts(total, agreed) for n, (agreed, total) in said.items()}
            if judged(devices).verdict is not ShadowVerdict.UNDECIDED:
                wrong += 1
                break
    assert wrong <= 5


def test_settings_are_kept_and_told() -> None:
    asked = ShadowSettings(rate=0.5, seconds=60.0, memory_bytes=1 << 20, min_agreement=0.9)
    assert settings_from_json(json.loads(json.dumps(asked.to_json())), where="x") == asked
    order = asked.order("r", "2.0.0")
    assert (order.run, order.version, order.rate) == ("r", "2.0.0", 0.5)
    assert (order.seconds, order.budget.memory_bytes) == (60.0, 1 << 20)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rate", 0.0),
        ("rate", 1.5),
        ("max_per_second", 0),
        ("seconds", 0.0),
        ("memory_bytes", 0),
        ("free_bytes", -1),
        ("min_agreement", 1.1),
        ("alpha", 0.7),
        ("tolerance", float("nan")),
    ],
)
def test_settings_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=field):
        settings_from_json({field: value}, where="x")
