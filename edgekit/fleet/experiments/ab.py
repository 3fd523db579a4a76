"""Which of two versions is better, asked as often as one likes. Pure.

The unit is the device: requests of one device resemble each other, so a thousand of them are not
a thousand witnesses. The question is answered when the confidence sequence of the difference
(`sequential`) leaves zero, or lies wholly within the margin below which a difference does not
matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Final

from edgekit.fleet.experiments.assignment import Arm
from edgekit.fleet.experiments.sequential import (
    Interval,
    RatioEstimate,
    difference_interval,
    ratio_estimate,
)
from edgekit.fleet.telemetry.health import Health
from edgekit.fleet.telemetry.sketches import LEAST_MS, RATIO
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.fields import FieldReader

# Of fewer events a share is too far from normal to be judged by its variance.
LEAST_EVENTS: Final = 10
LEAST_DEVICES: Final = 5
_ANYWHERE: Final = Interval(low=-math.inf, high=math.inf)


class Metric(StrEnum):
    """What is compared."""

    ACCURACY = "accuracy"
    ERRORS = "errors"
    LATENCY = "latency"

    @property
    def higher_is_better(self) -> bool:
        """Whether more of it is wanted."""
        return self is Metric.ACCURACY

    def shown(self, value: float) -> str:
        """A version's mean of it, for people."""
        return f"{value:.3g} ms" if self is Metric.LATENCY else f"{value:.2%}"


class Answer(StrEnum):
    """What an experiment says."""

    UNDECIDED = "undecided"
    A_BETTER = "a is better"
    B_BETTER = "b is better"
    NO_DIFFERENCE = "no difference that matters"
    TOO_SHORT = "not decided within its time"
    STOPPED = "stopped before it was decided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked; fixed before the first look.

    Attributes:
        metric: What is compared: shares of right answers, of errors, or the latency.
        margin: The least difference that matters: a share, or for the latency a ratio less one
            (0.1 is ten percent).
        alpha: The probability of a wrong "is better".
        most_seconds: After so long the answer is what is known then.
    """

    metric: Metric
    margin: float
    alpha: float = 0.05
    most_seconds: float = 30 * 86_400.0

    @property
    def scale(self) -> float:
        """The margin on the scale that is tested: the logarithm, for the latency."""
        return math.log1p(self.margin) if self.metric is Metric.LATENCY else self.margin

    def to_json(self) -> dict[str, object]:
        """The question as it is kept."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What is known so far; the next look starts from it.

    Attributes:
        answer: What may be said now. One that was given stays.
        difference: B less A; on the scale of `Question.scale`.
        interval: Where the true difference is, at all looks together.
        a: Mean of the metric; for the latency the geometric mean in ms.
        b: The same of the other.
        devices_a: Devices that have served it.
        devices_b: The same of the other.
        looks: How often somebody has looked.
    """

    answer: Answer = Answer.UNDECIDED
    difference: float = 0.0
    interval: Interval = _ANYWHERE
    a: float = 0.0
    b: float = 0.0
    devices_a: int = 0
    devices_b: int = 0
    looks: int = 0

    def to_json(self) -> dict[str, object]:
        """What is known, as it is kept; an interval without an end has None there."""
        document = asdict(self)
        document["interval"] = [
            value if math.isfinite(value) else None
            for value in (self.interval.low, self.interval.high)
        ]
        return document

    def sentence(self, question: Question) -> str:
        """The answer for people."""
        low, high = (_shown(question, value) for value in (self.interval.low, self.interval.high))
        where = f"b less a is between {low} and {high} ({1 - question.alpha:.0%} sure)"
        if not math.isfinite(self.interval.low):
            where = f"not enough is known of the {question.metric.value}"
        match self.answer:
            case Answer.UNDECIDED if not math.isfinite(self.interval.low):
                return f"{where} yet"
            case Answer.UNDECIDED:
                return f"undecided so far: {where}"
            case Answer.NO_DIFFERENCE:
                margin = _shown(question, question.scale)
                return f"no difference of {question.metric.value} larger than {margin}: {where}"
            case Answer.TOO_SHORT | Answer.STOPPED:
                return f"{self.answer.value}: {where}"
            case _:
                return f"{self.answer.value}: of the {question.metric.value}, {where}"


def look(
    question: Question,
    before: Looked,
    arms: Mapping[str, Arm],
    health: Mapping[str, Health],
    *,
    seconds: float,
) -> Looked:
    """Look once more.

    Args:
        question: What is asked.
        before: What the last look gave, or `Looked()`.
        arms: Which device is in which group.
        health: By device, everything since the experiment began, of the version that its group
            is to run; other versions' is left out.
        seconds: Since the experiment began.
    """
    looks = before.looks + 1
    if before.answer is not Answer.UNDECIDED:
        return replace(before, looks=looks)
    samples = {
        arm: [
            _sample(question.metric, health[device])
            for device, assigned in arms.items()
            if assigned is arm and device in health
        ]
        for arm in Arm
    }
    a, b = (ratio_estimate(samples[arm]) for arm in (Arm.A, Arm.B))
    counted = {arm: sum(units > 0 for _, units in samples[arm]) for arm in Arm}
    now = replace(before, looks=looks, devices_a=counted[Arm.A], devices_b=counted[Arm.B])
    if a is not None and b is not None:
        exponential = question.metric is Metric.LATENCY
        now = replace(
            now,
            difference=b.value - a.value,
            a=math.exp(a.value) if exponential else a.value,
            b=math.exp(b.value) if exponential else b.value,
        )
        if min(counted.values()) >= LEAST_DEVICES and _tells(question, samples.values()):
            interval = difference_interval(
                a,
                b,
                alpha=question.alpha,
                scale=question.scale,
                floor=_floor(question, a, b),
            )
            if interval is not None:
                now = replace(now, interval=interval.intersect(before.interval))
    return replace(now, answer=_answer(question, now, seconds))


def question_from_json(document: object, *, where: str) -> Question:
    """Read what `Question.to_json` made.

    Raises:
        UsageError: If it is invalid; every field is named.
    """
    reader = FieldReader(document)
    metric = reader.text("metric", pattern="|".join(Metric))
    question = Question(
        metric=Metric(metric) if metric in set(Metric) else Metric.ERRORS,
        margin=reader.number("margin", least=1e-6),
        alpha=reader.number("alpha", least=1e-6, default=0.05),
        most_seconds=reader.number("most_seconds", least=1.0, default=30 * 86_400.0),
    )
    if not question.alpha < 0.5:  # noqa: PLR2004
        reader.fault("alpha", "must be below 0.5")
    if reader.faults:
        raise UsageError("the question is invalid: " + "; ".join(reader.faults), where=where)
    return question


def looked_from_json(document: object, *, where: str) -> Looked:
    """Read what `Looked.to_json` made.

    Raises:
        VerificationError: If it is damaged.
    """
    reader = FieldReader(document)
    answer = reader.text("answer", pattern="|".join(Answer))
    match reader.raw("interval"):
        case [(None | int() | float()) as low, (None | int() | float()) as high]:
            interval = Interval(
                low=-math.inf if low is None else float(low),
                high=math.inf if high is None else float(high),
            )
        case _:
            interval = _ANYWHERE
            reader.fault("interval", "must be two numbers")
    looked = Looked(
        answer=Answer(answer) if answer in set(Answer) else Answer.UNDECIDED,
        difference=reader.number("difference"),
        interval=interval,
        a=reader.number("a"),
        b=reader.number("b"),
        devices_a=reader.integer("devices_a"),
        devices_b=reader.integer("devices_b"),
        looks=reader.integer("looks"),
    )
    if reader.faults:
        raise VerificationError(
            "what is known of the experiment is damaged: " + "; ".join(reader.faults), where=where
        )
    return looked


def _sample(metric: Metric, health: Health) -> tuple[float, float]:
    match metric:
        case Metric.ACCURACY:
            return float(health.right), float(health.feedback)
        case Metric.ERRORS:
            return float(health.errors), float(health.requests)
        case Metric.LATENCY:
            # The logarithm: latencies multiply, and a bucket is a step on that scale.
            total = sum(
                count * (math.log(LEAST_MS) + (at + 0.5) * math.log(RATIO))
                for at, count in health.latency.counts.items()
            )
            return total, float(health.latency.count)


def _tells(question: Question, samples: Iterable[list[tuple[float, float]]]) -> bool:
    if question.metric is Metric.LATENCY:
        return True
    known = [item for arm in samples for item in arm]
    events = sum(top for top, _ in known)
    return min(events, sum(units for _, units in known) - events) >= LEAST_EVENTS


def _floor(question: Question, a: RatioEstimate, b: RatioEstimate) -> float:
    """The variance that there would be if devices did not differ: it cannot be less."""
    if question.metric is Metric.LATENCY:
        return 0.0
    events = a.value * a.units + b.value * b.units
    share = (events + 1) / (a.units + b.units + 2)
    return share * (1 - share) * (1 / a.units + 1 / b.units)


def _answer(question: Question, now: Looked, seconds: float) -> Answer:
    low, high = now.interval.low, now.interval.high
    if low > 0 or high < 0:
        more = Answer.B_BETTER if question.metric.higher_is_better else Answer.A_BETTER
        less = Answer.A_BETTER if question.metric.higher_is_better else Answer.B_BETTER
        return more if low > 0 else less
    if -question.scale < low and high < question.scale:
        return Answer.NO_DIFFERENCE
    return Answer.TOO_SHORT if seconds >= question.most_seconds else Answer.UNDECIDED


def _shown(question: Question, value: float) -> str:
    if not math.isfinite(value):
        return "anything"
    if question.metric is Metric.LATENCY:
        return f"{math.expm1(value) * 100:+.1f} %"
    return f"{value * 100:+.2f} points"
