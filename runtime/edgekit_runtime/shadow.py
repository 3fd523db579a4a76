"""What a device counts of a version that answers beside the one that serves, as it travels.

Counts of one run and one served version add up in any order, over windows and over devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from edgekit_runtime.fields import FieldReader
from edgekit_runtime.protocol import ID_PATTERN
from edgekit_runtime.versions import VERSION_PATTERN

MAX_OUTPUTS: Final = 16
MAX_SHADOWS: Final = 16
_MAX_BUCKETS: Final = 200
_MAX_NAME: Final = 256
_COUNTERS: Final = ("compared", "agreed", "failed", "insane", "dropped")

Buckets = Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputGaps:
    """How far apart two versions' answers lie in one output.

    Attributes:
        gaps: How many inputs had which largest absolute difference; buckets as of latencies, where
            a difference of 1 falls into that of 1 ms.
        largest: The largest absolute difference of all; it is no sum, and never gets smaller.
        relative: The largest difference of an input, divided by the largest absolute value of the
            answer that was served for it.
    """

    gaps: Buckets = field(default_factory=dict)
    largest: float = 0.0
    relative: float = 0.0

    def merge(self, other: OutputGaps) -> OutputGaps:
        """Both together."""
        return OutputGaps(
            gaps=add_buckets(self.gaps, other.gaps),
            largest=max(self.largest, other.largest),
            relative=max(self.relative, other.relative),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowCounts:
    """Answers of two versions to the same live inputs, compared.

    Attributes:
        run: Of which comparison.
        active: The version that served.
        compared: Inputs that the other version was given, answered or not.
        agreed: Those whose answers mean the same.
        failed: Those that it did not answer.
        insane: Those whose answer held NaN or infinity.
        dropped: Inputs that chance had chosen, and that it was not given: it was busy, or would
            have been given more than it may. Not counted as compared.
        outputs: How far apart the answers lie, by output.
        latency: The candidate's, [bucket, count] as in `ModelCounts`.
        active_latency: Of the version that served, for the same inputs.
    """

    run: str
    active: str
    compared: int = 0
    agreed: int = 0
    failed: int = 0
    insane: int = 0
    dropped: int = 0
    outputs: Mapping[str, OutputGaps] = field(default_factory=dict)
    latency: Buckets = field(default_factory=dict)
    active_latency: Buckets = field(default_factory=dict)

    def merge(self, other: ShadowCounts) -> ShadowCounts:
        """Both together; they must be of one run and one served version."""
        outputs = dict(self.outputs)
        for name, gaps in other.outputs.items():
            outputs[name] = outputs[name].merge(gaps) if name in outputs else gaps
        return replace(
            self,
            **{name: getattr(self, name) + getattr(other, name) for name in _COUNTERS},
            outputs=outputs,
            latency=add_buckets(self.latency, other.latency),
            active_latency=add_buckets(self.active_latency, other.active_latency),
        )

    def since(self, earlier: ShadowCounts) -> ShadowCounts:
        """What was added after `earlier`, which these counters once were.

        Counters that fell were begun anew: all of these were added.
        """
        if any(getattr(self, name) < getattr(earlier, name) for name in _COUNTERS):
            return self
        outputs = {
            name: replace(gaps, gaps=_less(gaps.gaps, earlier.outputs[name].gaps))
            if name in earlier.outputs
            else gaps
            for name, gaps in self.outputs.items()
        }
        return replace(
            self,
            **{name: getattr(self, name) - getattr(earlier, name) for name in _COUNTERS},
            outputs=outputs,
            latency=_less(self.latency, earlier.latency),
            active_latency=_less(self.active_latency, earlier.active_latency),
        )

    def to_json(self) -> dict[str, object]:
        """The counts as they travel and are stored."""
        return {
            "run": self.run,
            "active": self.active,
            **{name: getattr(self, name) for name in _COUNTERS},
            "outputs": {
                name: {
                    "gaps": _listed(gaps.gaps),
                    "largest": gaps.largest,
                    "relative": gaps.relative,
                }
                for name, gaps in self.outputs.items()
            },
            "latency": _listed(self.latency),
            "active_latency": _listed(self.active_latency),
        }


def merge_shadows(all_counts: Iterable[ShadowCounts]) -> tuple[ShadowCounts, ...]:
    """The sums, one for each run and served version."""
    found: dict[tuple[str, str], ShadowCounts] = {}
    for counts in all_counts:
        key = (counts.run, counts.active)
        found[key] = found[key].merge(counts) if key in found else counts
    return tuple(found.values())


def read_shadow(reader: FieldReader) -> ShadowCounts:
    """Read what `ShadowCounts.to_json` made, which may hold anything; faults gather."""
    entries = reader.nested("outputs", optional=True)
    names = entries.names()
    if len(names) > MAX_OUTPUTS or not all(len(name) <= _MAX_NAME for name in names):
        entries.fault("", f"must be at most {MAX_OUTPUTS}, with short names")
        names = []
    counts = ShadowCounts(
        run=reader.text("run", pattern=ID_PATTERN),
        active=reader.text("active", pattern=VERSION_PATTERN, most=128),
        compared=reader.integer("compared"),
        agreed=reader.integer("agreed"),
        failed=reader.integer("failed"),
        insane=reader.integer("insane"),
        dropped=reader.integer("dropped", default=0),
        outputs={name: _read_gaps(entries.nested(name)) for name in names},
        latency=read_buckets(reader, "latency"),
        active_latency=read_buckets(reader, "active_latency"),
    )
    if counts.agreed + counts.failed + counts.insane > counts.compared:
        reader.fault("agreed", "is more than was compared")
    return counts


def _read_gaps(reader: FieldReader) -> OutputGaps:
    return OutputGaps(
        gaps=read_buckets(reader, "gaps"),
        largest=reader.number("largest", least=0.0),
        relative=reader.number("relative", least=0.0),
    )


def read_buckets(reader: FieldReader, name: str) -> dict[int, int]:
    """Read [bucket, count] of every bucket; faults gather in the reader, and give none."""
    found: dict[int, int] = {}
    for item in reader.sequence(name, most=_MAX_BUCKETS):
        match item:
            case [int(bucket), int(count)] if 0 <= bucket < _MAX_BUCKETS and 0 <= count <= 2**53:
                found[bucket] = count
            case _:
                reader.fault(name, "must be a list of [bucket, count]")
                return {}
    return found


def _listed(buckets: Buckets) -> list[list[int]]:
    return [[bucket, count] for bucket, count in sorted(buckets.items())]


def add_buckets(first: Buckets, second: Buckets) -> dict[int, int]:
    """Everything that both hold."""
    total = dict(first)
    for bucket, count in second.items():
        total[bucket] = total.get(bucket, 0) + count
    return total


def _less(now: Buckets, before: Buckets) -> dict[int, int]:
    found = {bucket: count - before.get(bucket, 0) for bucket, count in now.items()}
    return {bucket: count for bucket, count in found.items() if count > 0}
