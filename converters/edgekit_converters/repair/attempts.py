"""What a search tried, what each try cost, and which ones are worth their cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from edgekit_converters.accuracy.paired import finite_or_none

if TYPE_CHECKING:
    from edgekit_converters.quantize.plan import QuantizationPlan

Ending = Literal["met", "exhausted", "time", "interrupted"]

_REASONS: Final = {
    "exhausted": "no repair that there is reaches it",
    "time": "the time was over before one was found",
    "interrupted": "the search was interrupted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model and a plan that together give one quantized model.

    Attributes:
        model: The normalised float `onnx.ModelProto`, perhaps equalized and corrected.
        plan: Of a static scheme, in the names of this model.
        repairs: What was done beside plain min-max int8, in plain words.
    """

    model: Any
    plan: QuantizationPlan
    repairs: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The repairs as one line."""
        return " + ".join(self.repairs) or "plain min-max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A candidate that was judged.

    Attributes:
        candidate: What was tried.
        drop: What it loses, as the budget counts it.
        size_bytes: Of the quantized model.
        latency_ms: Predicted on the device, where there is a profile.
    """

    candidate: Candidate
    drop: float
    size_bytes: int
    latency_ms: float | None

    @property
    def layers_beyond_int8(self) -> int:
        """How many layers have 16-bit activations or compute in float."""
        return len(self.candidate.plan.wide | self.candidate.plan.keep_float)

    @property
    def cost(self) -> tuple[float, int, int]:
        """What it costs on the device: time first, where it is known, then size.

        Where it is not, layers that are not in 8 bits stand for it: they are slower everywhere.
        """
        beyond = 0 if self.latency_ms is not None else self.layers_beyond_int8
        return (self.latency_ms or 0.0, beyond, self.size_bytes)

    def to_json(self) -> dict[str, object]:
        """The figures, without the model."""
        plan = self.candidate.plan
        return {
            "repairs": list(self.candidate.repairs),
            "scheme": plan.scheme.value,
            "drop": finite_or_none(self.drop),
            "size_bytes": self.size_bytes,
            "latency_ms": self.latency_ms,
            "wide": sorted(plan.wide),
            "keep_float": sorted(plan.keep_float),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The outcome of a search.

    Attributes:
        best: The cheapest attempt within the budget, or else the one that loses the least; both
            only of those that are fast enough, if any is.
        attempts: All of them, in their order.
        ending: Why it ended; "met" if the budget holds.
        sensitive: The layers that hurt the most when quantized, the worst first; empty where the
            search did not come to need them.
    """

    best: Attempt
    attempts: tuple[Attempt, ...]
    ending: Ending
    sensitive: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """Whether the budget holds."""
        return self.ending == "met"

    def verdict(self, budget: str) -> str:
        """The outcome in a sentence.

        Args:
            budget: What was allowed, as `AccuracyBudget.describe` says it.
        """
        lost = f"{100 * self.best.drop:.2f} %"
        found = f"{len(self.attempts)} attempt{'s' * (len(self.attempts) > 1)}"
        if self.met:
            return f"the budget of {budget} holds with {self.best.candidate.label}: {lost} lost"
        return (
            f"the budget of {budget} does not hold: {_REASONS[self.ending]}; the best of {found}, "
            f"{self.best.candidate.label}, loses {lost}"
        )

    def to_json(self) -> dict[str, object]:
        """What was found, and the curve of the best trades."""
        return {
            "best": self.best.to_json(),
            "ending": self.ending,
            "attempts": [attempt.to_json() for attempt in self.attempts],
            "trade_off": [attempt.to_json() for attempt in trade_off(self.attempts)],
            "sensitive": list(self.sensitive),
        }


def trade_off(attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """The attempts that no other beats in cost and drop alike, the cheapest first."""
    curve: list[Attempt] = []
    for attempt in sorted(attempts, key=lambda one: (one.cost, one.drop)):
        if not curve or attempt.drop < curve[-1].drop:
            curve.append(attempt)
    return tuple(curve)


def choose(
    attempts: Sequence[Attempt], budget: float, max_latency_ms: float | None = None
) -> Attempt:
    """The cheapest within the budget, or the one that loses the least.

    Args:
        attempts: At least one.
        budget: The largest drop allowed.
        max_latency_ms: Slower ones count only if there are no others.
    """
    fast = [one for one in attempts if is_fast(one, max_latency_ms)] or list(attempts)
    within = [one for one in fast if one.drop <= budget]
    if within:
        return min(within, key=lambda one: (one.cost, one.drop))
    return min(fast, key=lambda one: (one.drop, one.cost))


def is_fast(attempt: Attempt, max_latency_ms: float | None) -> bool:
    """Whether an attempt is fast enough; one whose latency is not known is."""
    return (
        max_latency_ms is None or attempt.latency_ms is None or attempt.latency_ms <= max_latency_ms
    )
