from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from edgekit.fleet.experiments.ab import (
    LEAST_DEVICES,
    Answer,
    Looked,
    Metric,
    Question,
    look,
    looked_from_json,
    question_from_json,
)
from edgekit.fleet.experiments.assignment import Arm, assign_arms
from edgekit.fleet.experiments.sequential import share_interval, student_of_normal
from edgekit.fleet.rollouts.labels import parse_query
from edgekit.fleet.telemetry.health import Health
from edgekit.fleet.telemetry.sketches import LatencySketch, bucket_of
from edgekit_runtime.errors import UsageError, VerificationError

ACCURACY = Question(metric=Metric.ACCURACY, margin=0.03)


def arms_of(devices: int) -> dict[str, Arm]:
    return {f"{arm}{n}": arm for arm in Arm for n in range(devices)}


def simulate(
    question: Question,
    rng: np.random.Generator,
    shares: tuple[float, float],
    *,
    devices: int,
    looks: int,
    spread: float,
    per_look: int = 20,
) -> Looked:
    """Devices that differ among themselves, with traffic that differs too; a look at every step."""
    arms = arms_of(devices)
    centres = np.repeat([math.log(p / (1 - p)) for p in shares], devices)
    rates = 1 / (1 + np.exp(-(centres + rng.normal(0.0, spread, 2 * devices))))
    traffic = rng.gamma(2.0, per_look / 2, 2 * devices)
    units = rng.poisson(traffic, (looks, 2 * devices))
    tops = rng.binomial(units, rates).cumsum(axis=0)
    units = units.cumsum(axis=0)
    looked = Looked()
    for step in range(looks):
        pairs = zip(tops[step].tolist(), units[step].tolist(), strict=True)
        if question.metric is Metric.ACCURACY:
            health = [Health(right=top, feedback=count) for top, count in pairs]
        else:
            health = [Health(errors=top, requests=count) for top, count in pairs]
        looked = look(
            question, looked, arms, dict(zip(arms, health, strict=True)), seconds=float(step)
        )
        if looked.answer is not Answer.UNDECIDED:
            break
    return looked


@pytest.mark.parametrize(
    ("question", "share", "devices", "spread"),
    [
        (ACCURACY, 0.9, 12, 0.0),
        (ACCURACY, 0.9, 20, 0.6),
        (Question(metric=Metric.ERRORS, margin=0.01), 0.02, 15, 0.5),
    ],
)
def test_a_thousand_null_tests_looked_at_all_the_time(
    question: Question, share: float, devices: int, spread: float
) -> None:
    rng = np.random.default_rng(7)
    answers = [
        simulate(question, rng, (share, share), devices=devices, looks=30, spread=spread).answer
        for _ in range(1_000)
    ]
    false_alarms = answers.count(Answer.A_BETTER) + answers.count(Answer.B_BETTER)
    assert false_alarms < 0.05 * 1_000
    # The opposite fault, a test that never says anything, is what the next tests exclude.
    assert answers.count(Answer.UNDECIDED) < 1_000


def test_a_thousand_null_tests_of_the_latency() -> None:
    """Of devices that differ in speed and traffic, as few as are judged at all."""
    rng = np.random.default_rng(7)
    question = Question(metric=Metric.LATENCY, margin=0.1)
    arms = arms_of(LEAST_DEVICES)
    shape = np.array([0.1, 0.25, 0.3, 0.25, 0.1])
    false_alarms = 0
    for _ in range(1_000):
        fastest = 60 + rng.integers(0, 4, len(arms))
        traffic = rng.gamma(2.0, 10.0, len(arms))
        counts = np.zeros((len(arms), len(shape)), dtype=int)
        looked = Looked()
        for step in range(15):
            counts += rng.multinomial(rng.poisson(traffic), shape)
            health = {
                device: Health(
                    latency=LatencySketch(dict(enumerate(of.tolist(), start=int(first))))
                )
                for device, first, of in zip(arms, fastest, counts, strict=True)
            }
            looked = look(question, looked, arms, health, seconds=float(step))
        false_alarms += looked.answer in (Answer.A_BETTER, Answer.B_BETTER)
    assert false_alarms < 0.05 * 1_000


def test_the_same_looks_with_a_test_for_one_look_would_raise_many_false_alarms() -> None:
    """What the sequential test is for: the simulation does punish peeking."""
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(300):
        steps = rng.normal(0.0, 1.0, 30).cumsum() / np.sqrt(np.arange(1, 31))
        alarms += bool((abs(steps) > 1.96).any())
    assert alarms > 0.15 * 300


@pytest.mark.parametrize(
    ("shares", "answer"), [((0.86, 0.94), Answer.B_BETTER), ((0.94, 0.86), Answer.A_BETTER)]
)
def test_a_real_difference_decides_for_the_better(
    shares: tuple[float, float], answer: Answer
) -> None:
    rng = np.random.default_rng(3)
    answers = [
        simulate(ACCURACY, rng, shares, devices=20, looks=60, spread=0.3).answer for _ in range(40)
    ]
    assert answers.count(answer) >= 38
    assert set(answers) <= {answer, Answer.UNDECIDED}


def test_fewer_errors_are_better() -> None:
    question = Question(metric=Metric.ERRORS, margin=0.01)
    looked = simulate(
        question, np.random.default_rng(1), (0.08, 0.02), devices=20, looks=60, spread=0.2
    )
    assert looked.answer is Answer.B_BETTER
    assert looked.sentence(question).startswith("b is better: of the errors, b less a is between")


def test_no_difference_says_so() -> None:
    rng = np.random.default_rng(5)
    answers = [
        simulate(
            replace(ACCURACY, margin=0.04), rng, (0.9, 0.9), devices=30, looks=120, spread=0.1
        ).answer
        for _ in range(20)
    ]
    assert answers.count(Answer.NO_DIFFERENCE) >= 18


def latency_health(rng: np.random.Generator, median_ms: float, count: int) -> Health:
    counts: dict[int, int] = {}
    for value in rng.lognormal(math.log(median_ms), 0.3, count).tolist():
        counts[bucket_of(value)] = counts.get(bucket_of(value), 0) + 1
    return Health(requests=count, latency=LatencySketch(counts))


def test_latency_is_compared_as_a_ratio() -> None:
    rng = np.random.default_rng(2)
    question = Question(metric=Metric.LATENCY, margin=0.1)
    arms = arms_of(20)
    health = {
        device: latency_health(rng, 10.0 if arm is Arm.A else 7.0, 200)
        for device, arm in arms.items()
    }
    looked = look(question, Looked(), arms, health, seconds=60.0)
    assert looked.answer is Answer.B_BETTER
    assert looked.a == pytest.approx(10.0, rel=0.05)
    assert looked.b == pytest.approx(7.0, rel=0.05)
    assert looked.interval.low < math.log(0.7) < looked.interval.high


def test_an_answer_stays_and_a_late_one_says_what_is_known() -> None:
    arms = arms_of(6)
    decided = Looked(answer=Answer.B_BETTER, looks=3)
    again = look(ACCURACY, decided, arms, {}, seconds=1.0)
    assert again == replace(decided, looks=4)
    assert look(ACCURACY, Looked(), arms, {}, seconds=1.0).answer is Answer.UNDECIDED
    late = look(ACCURACY, Looked(), arms, {}, seconds=ACCURACY.most_seconds)
    assert late.answer is Answer.TOO_SHORT


def test_a_few_devices_decide_nothing() -> None:
    arms = arms_of(4)
    health = {
        device: Health(feedback=10_000, right=9_900 if arm is Arm.A else 5_000)
        for device, arm in arms.items()
    }
    looked = look(ACCURACY, Looked(), arms, health, seconds=1.0)
    assert looked.answer is Answer.UNDECIDED
    assert looked.devices_a == 4
    assert looked.sentence(ACCURACY) == "not enough is known of the accuracy yet"


def test_what_is_kept_can_be_read_again() -> None:
    looked = simulate(
        ACCURACY, np.random.default_rng(1), (0.9, 0.9), devices=8, looks=5, spread=0.1
    )
    for item in (looked, Looked()):
        document = json.loads(json.dumps(item.to_json()))
        assert looked_from_json(document, where="test") == item
    assert question_from_json(ACCURACY.to_json(), where="test") == ACCURACY
    with pytest.raises(VerificationError, match="interval: must be two numbers"):
        looked_from_json(looked.to_json() | {"interval": "x"}, where="test")
    with pytest.raises(UsageError, match="metric"):
        question_from_json({"metric": "beauty", "margin": 0.1}, where="test")


def test_arms_are_comparable_and_decided_once() -> None:
    devices = {
        f"d{n}": {"site": "berlin", "arch": ("aarch64", "armv7l", "x86")[n % 3]} for n in range(90)
    }
    devices["far"] = {"site": "paris", "arch": "x86"}
    arms = assign_arms("e1", devices, parse_query("site=berlin"), ("arch",))
    assert set(arms) == set(devices) - {"far"}
    for arch in ("aarch64", "armv7l", "x86"):
        of_b = sum(devices[d]["arch"] == arch and arm is Arm.B for d, arm in arms.items())
        assert of_b == 15
    assert arms == assign_arms(
        "e1", dict(reversed(devices.items())), parse_query("site=berlin"), ("arch",)
    )
    assert arms != assign_arms("e2", devices, parse_query("site=berlin"), ("arch",))


def test_share_intervals_hold_the_truth_at_all_times_together() -> None:
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(400):
        hits = rng.random(300) < 0.9
        counts = hits.cumsum()
        for n in range(1, 301, 6):
            interval = share_interval(int(counts[n - 1]), int(n - counts[n - 1]), alpha=0.05)
            if not interval.low <= 0.9 <= interval.high:
                wrong += 1
                break
    assert wrong < 0.05 * 400


def test_student_of_normal_agrees_with_tables() -> None:
    # Two-sided 5 %: t of 10 and of 30 degrees of freedom.
    assert student_of_normal(1.959964, 10) == pytest.approx(2.228, rel=2e-3)
    assert student_of_normal(1.959964, 30) == pytest.approx(2.042, rel=1e-3)
    # Two-sided 0.1 %.
    assert student_of_normal(3.290527, 10) == pytest.approx(4.587, rel=5e-3)
