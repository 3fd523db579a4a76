"""Shadow comparison: a candidate answers beside the version that serves, and is not served. Pure.

The unit is the device, as for A/B: requests of one device resemble each other. Where too few have
reported for that, the answer is about those devices' inputs alone, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

from edgekit.fleet.experiments.ab import LEAST_DEVICES
from edgekit.fleet.experiments.sequential import (
    Interval,
    RatioEstimate,
    difference_interval,
    ratio_estimate,
    share_interval,
)
from edgekit.fleet.telemetry.sketches import LatencySketch
from edgekit_runtime.errors import UsageError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.orders import Budget, ShadowOrder
from edgekit_runtime.shadow import ShadowCounts

_MEGABYTE: Final = 1 << 20
# A mean without a variance: what the share of agreement is compared with is known.
_ZERO: Final = RatioEstimate(value=0.0, variance=0.0, clusters=1.0, units=0.0)
# The size of a difference that matters, for the test to be quickest at: a point of agreement.
_SCALE: Final = 0.01
# What is known of a run before anything was reported.
NOTHING: Final = ShadowCounts(run="", active="")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSettings:
    """How a candidate is run beside, and what is asked of it; fixed before the first look.

    Attributes:
        rate: The share of requests that it is given, above 0, to 1.
        max_per_second: No more requests than that, on each device.
        seconds: How long it runs on each device.
        memory_bytes: What its process may take.
        free_bytes: It ends where less memory than that is left.
        tolerance: See `ShadowOrder`.
        min_agreement: The share of inputs on which both must say the same.
        alpha: The probability of a wrong answer.
    """

    rate: float = 0.1
    max_per_second: float = 5.0
    seconds: float = 86_400.0
    memory_bytes: int = 512 * _MEGABYTE
    free_bytes: int = 64 * _MEGABYTE
    tolerance: float = 0.05
    min_agreement: float = 0.95
    alpha: float = 0.05

    def order(self, run: str, version: str) -> ShadowOrder:
        """What a device is told."""
        return ShadowOrder(
            run=run,
            version=version,
            rate=self.rate,
            max_per_second=self.max_per_second,
            seconds=self.seconds,
            free_bytes=self.free_bytes,
            tolerance=self.tolerance,
            budget=Budget(memory_bytes=self.memory_bytes),
        )

    def to_json(self) -> dict[str, object]:
        """The settings as they are kept."""
        return asdict(self)


class ShadowVerdict(StrEnum):
    """What a shadow comparison says."""

    UNDECIDED = "undecided"
    AGREES = "agrees"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowResult:
    """What is known of a candidate that runs beside.

    Attributes:
        verdict: Whether it agrees often enough.
        agreement: Where its true share of agreement is, at all looks together.
        devices: Devices that have compared anything.
        of_devices: Whether the interval knows how devices differ: there were enough of them. Else
            it is about the inputs of these devices alone.
        total: Everything that was reported, whichever version served.
        min_agreement: What was asked.
        alpha: What was asked.
    """

    verdict: ShadowVerdict
    agreement: Interval
    devices: int
    of_devices: bool
    total: ShadowCounts
    min_agreement: float
    alpha: float

    @property
    def sentence(self) -> str:
        """The answer for people."""
        total = self.total
        if not total.compared:
            return "nothing was compared yet"
        where = (
            f"both say the same on {_percent(self.agreement.low)} to "
            f"{_percent(self.agreement.high)} of inputs ({1 - self.alpha:.0%} sure); "
            f"{_percent(self.min_agreement)} are asked for"
        )
        what = {
            ShadowVerdict.UNDECIDED: f"undecided so far: {where}",
            ShadowVerdict.AGREES: f"it agrees: {where}",
            ShadowVerdict.DIFFERS: f"it differs: {where}",
        }[self.verdict]
        if self.of_devices:
            return what
        few = "one device" if self.devices == 1 else f"{self.devices} devices"
        return f"{what}. This is of the inputs of {few} alone, and says nothing of others"

    def to_json(self) -> dict[str, object]:
        """The answer as JSON."""
        total = self.total
        latency, active = LatencySketch(total.latency), LatencySketch(total.active_latency)
        return {
            "verdict": self.verdict.value,
            "sentence": self.sentence,
            "agreement": [self.agreement.low, self.agreement.high],
            "of_devices": self.of_devices,
            "devices": self.devices,
            "compared": total.compared,
            "agreed": total.agreed,
            "failed": total.failed,
            "insane": total.insane,
            "dropped": total.dropped,
            "latency_ms": {"p50": latency.quantile_ms(0.5), "p90": latency.quantile_ms(0.9)},
            "active_latency_ms": {"p50": active.quantile_ms(0.5), "p90": active.quantile_ms(0.9)},
            "outputs": {
                name: {
                    "median_difference": LatencySketch(gaps.gaps).quantile_ms(0.5),
                    "p90_difference": LatencySketch(gaps.gaps).quantile_ms(0.9),
                    "largest_difference": gaps.largest,
                    "largest_relative_difference": gaps.relative,
                }
                for name, gaps in sorted(total.outputs.items())
            },
        }


def judge_shadow(
    devices: Iterable[tuple[int, int]], total: ShadowCounts, settings: ShadowSettings
) -> ShadowResult:
    """Say whether a candidate agrees with what serves, asked as often as one likes.

    An input that it did not answer, or not with numbers, is one on which both do not agree.

    Args:
        devices: On how many inputs each device agreed, and how many it has compared.
        total: Everything that they have reported of the run.
        settings: What was asked.
    """
    known = [(agreed, compared) for agreed, compared in devices if compared]
    inputs = share_interval(total.agreed, total.compared - total.agreed, alpha=settings.alpha)
    spread = _of_devices(known, total, settings.alpha) if len(known) >= LEAST_DEVICES else None
    # Devices that happen to resemble each other do not make it surer than their inputs do.
    interval = inputs
    if spread is not None:
        interval = Interval(low=min(spread.low, inputs.low), high=max(spread.high, inputs.high))
    if interval.low >= settings.min_agreement:
        verdict = ShadowVerdict.AGREES
    elif interval.high < settings.min_agreement:
        verdict = ShadowVerdict.DIFFERS
    else:
        verdict = ShadowVerdict.UNDECIDED
    return ShadowResult(
        verdict=verdict,
        agreement=interval,
        devices=len(known),
        of_devices=spread is not None,
        total=total,
        min_agreement=settings.min_agreement,
        alpha=settings.alpha,
    )


def settings_from_json(document: object, *, where: str) -> ShadowSettings:
    """Read what `ShadowSettings.to_json` made, or what a person asked for.

    Raises:
        UsageError: If it is invalid; every field is named.
    """
    reader = FieldReader(document)
    usual = ShadowSettings()
    settings = ShadowSettings(
        rate=reader.number("rate", least=1e-6, default=usual.rate),
        max_per_second=reader.number("max_per_second", least=0.001, default=usual.max_per_second),
        seconds=reader.number("seconds", least=1.0, default=usual.seconds),
        memory_bytes=reader.integer("memory_bytes", least=1, default=usual.memory_bytes),
        free_bytes=reader.integer("free_bytes", default=usual.free_bytes),
        tolerance=reader.number("tolerance", least=0.0, default=usual.tolerance),
        min_agreement=reader.number("min_agreement", least=1e-6, default=usual.min_agreement),
        alpha=reader.number("alpha", least=1e-6, default=usual.alpha),
    )
    for name, most in (("rate", 1.0), ("min_agreement", 1.0), ("alpha", 0.5)):
        if getattr(settings, name) > most:
            reader.fault(name, f"is above {most:g}")
    if reader.faults:
        raise UsageError("the settings are invalid: " + "; ".join(reader.faults), where=where)
    return settings


def _of_devices(
    devices: Sequence[tuple[int, int]], total: ShadowCounts, alpha: float
) -> Interval | None:
    """The interval by how devices differ; None where they do not tell."""
    estimate = ratio_estimate([(float(agreed), float(compared)) for agreed, compared in devices])
    if estimate is None:
        return None
    # The variance that there would be if devices did not differ: it cannot be less.
    share = (total.agreed + 1) / (total.compared + 2)
    floor = share * (1 - share) / total.compared
    found = difference_interval(_ZERO, estimate, alpha=alpha, scale=_SCALE, floor=floor)
    return found and Interval(low=max(0.0, found.low), high=min(1.0, found.high))


def _percent(share: float) -> str:
    return f"{share:.1%}"
