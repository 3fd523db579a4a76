"""Shadow comparison: a candidate answers beside the version that serves, and is not served. Pure.

What a device reports (`ShadowReport`), once in each telemetry batch, of a sample of live inputs:

    {"active": "1.0.0", "candidate": "2.0.0", "compared": 120, "agreed": 117,
     "failed": 0, "insane": 0, "gap": [[bucket, count], ...],
     "latency": [[bucket, count], ...]}

`agreed` counts inputs whose answers mean the same: the same largest class for a classifier, within
the golden samples' tolerance for anything else. `gap` is the largest absolute difference of any
output of an input, `latency` the candidate's, both in the buckets of `LatencySketch` (a gap of 1
falls where 1 ms would). Reports of one pair of versions add up in any order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from edgekit.fleet.experiments.sequential import Interval, share_interval
from edgekit.fleet.telemetry.sketches import LatencySketch, merge_latencies, read_sketch
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.versions import VERSION_PATTERN


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowReport:
    """Answers of two versions to the same live inputs, compared.

    Attributes:
        active: The version that served.
        candidate: The version that watched.
        compared: Inputs that both were given.
        agreed: Those whose answers mean the same.
        failed: Those that the candidate did not answer.
        insane: Those whose answer of the candidate held NaN or infinity.
        gap: Largest absolute difference of any output, of each input.
        latency: Of the candidate.
    """

    active: str
    candidate: str
    compared: int = 0
    agreed: int = 0
    failed: int = 0
    insane: int = 0
    gap: LatencySketch = field(default_factory=LatencySketch)
    latency: LatencySketch = field(default_factory=LatencySketch)

    def to_json(self) -> dict[str, object]:
        """The report as it travels."""
        return {
            "active": self.active,
            "candidate": self.candidate,
            "compared": self.compared,
            "agreed": self.agreed,
            "failed": self.failed,
            "insane": self.insane,
            "gap": self.gap.to_json(),
            "latency": self.latency.to_json(),
        }


class ShadowVerdict(StrEnum):
    """What a shadow comparison says."""

    UNDECIDED = "undecided"
    AGREES = "agrees"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowResult:
    """What is known of a candidate that watches.

    Attributes:
        verdict: Whether it agrees often enough.
        agreement: Where its true share of agreement is, at all looks together.
        total: Everything that was reported.
    """

    verdict: ShadowVerdict
    agreement: Interval
    total: ShadowReport


def read_shadow(reader: FieldReader) -> ShadowReport:
    """Read a report, which may hold anything; faults gather in the reader."""
    report = ShadowReport(
        active=reader.text("active", pattern=VERSION_PATTERN),
        candidate=reader.text("candidate", pattern=VERSION_PATTERN),
        compared=reader.integer("compared"),
        agreed=reader.integer("agreed"),
        failed=reader.integer("failed", default=0),
        insane=reader.integer("insane", default=0),
        gap=read_sketch(reader, "gap"),
        latency=read_sketch(reader, "latency"),
    )
    if report.agreed + report.failed > report.compared:
        reader.fault("agreed", "is more than was compared")
    return report


def merge_shadow(reports: Iterable[ShadowReport]) -> ShadowReport | None:
    """The sum of reports of the same two versions; None of none."""
    known = list(reports)
    if not known:
        return None
    return ShadowReport(
        active=known[0].active,
        candidate=known[0].candidate,
        compared=sum(item.compared for item in known),
        agreed=sum(item.agreed for item in known),
        failed=sum(item.failed for item in known),
        insane=sum(item.insane for item in known),
        gap=merge_latencies(item.gap for item in known),
        latency=merge_latencies(item.latency for item in known),
    )


def judge_shadow(total: ShadowReport, *, min_agreement: float, alpha: float = 0.05) -> ShadowResult:
    """Say whether a candidate agrees with the active version, asked as often as one likes.

    Inputs are taken as independent: the interval is too narrow where one device sees the same
    again and again, so a person should look at how many devices have reported.

    Args:
        total: Everything that was reported.
        min_agreement: The share of inputs on which they must agree.
        alpha: The probability of a wrong verdict.
    """
    interval = share_interval(total.agreed, total.compared - total.agreed, alpha=alpha)
    if interval.low >= min_agreement:
        verdict = ShadowVerdict.AGREES
    elif interval.high < min_agreement:
        verdict = ShadowVerdict.DIFFERS
    else:
        verdict = ShadowVerdict.UNDECIDED
    return ShadowResult(verdict=verdict, agreement=interval, total=total)
