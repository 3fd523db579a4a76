"""Counters of a model in live use, in fixed memory, and their sum over server processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

from edgekit_runtime.fields import FieldReader

# Buckets of a fixed ratio from 1 µs on: any quantile is right within 5 %.
_LEAST_MS: Final = 0.001
_RATIO: Final = 1.1
_BUCKETS: Final = 200
_MAX_BINS: Final = 1024
_LOG_RATIO: Final = math.log(_RATIO)


def bucket_bound_ms(bucket: float) -> float:
    """The latency at which a bucket begins, in ms; halves are the middle of one."""
    return float(_LEAST_MS * _RATIO**bucket)


@dataclass(slots=True)
class LatencyHistogram:
    """How often which latency was seen."""

    counts: dict[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many latencies it holds."""
        return sum(self.counts.values())

    def add(self, milliseconds: float) -> None:
        """Note one latency."""
        position = int(math.log(max(milliseconds, _LEAST_MS) / _LEAST_MS) / _LOG_RATIO)
        position = min(position, _BUCKETS - 1)
        self.counts[position] = self.counts.get(position, 0) + 1

    def merge(self, other: LatencyHistogram) -> None:
        """Add all that another one holds."""
        for position, count in list(other.counts.items()):
            self.counts[position] = self.counts.get(position, 0) + count

    def quantile_ms(self, share: float) -> float:
        """The latency that `share` of all stay below, in ms; 0 where there are none."""
        wanted = share * self.count
        seen = 0
        for position in sorted(self.counts):
            seen += self.counts[position]
            if seen >= wanted:
                # The middle of the bucket on the scale that it is regular on.
                return bucket_bound_ms(position + 0.5)
        return 0.0


@dataclass(slots=True)
class LiveStats:
    """What one version has done since it went live in one process, or in several.

    Attributes:
        requests: Requests that reached the model.
        errors: Those that it did not answer, through no fault of the client.
        insane: Those whose answer held NaN or infinity; not counted as errors.
        busy: Requests turned away because too many waited already; not counted as requests.
        latency: Of the model with its pre- and postprocessing, without the waiting and HTTP.
        values: Of inputs and outputs, how many fell into which bin of the reference.
        nonfinite: Of the same, how many were NaN or infinity and fell into none; no zeros.
    """

    requests: int = 0
    errors: int = 0
    insane: int = 0
    busy: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    values: dict[str, list[int]] = field(default_factory=dict)
    nonfinite: dict[str, int] = field(default_factory=dict)

    def ended(self) -> LiveStats:
        """The same without requests that are still being computed, of a process that lives.

        A request is counted when it begins and its latency when it ends: what happened between
        two looks would otherwise hold more latencies than requests.
        """
        return replace(self, requests=min(self.requests, self.errors + self.latency.count))

    def merge(self, other: LiveStats) -> None:
        """Add what happened elsewhere."""
        self.requests += other.requests
        self.errors += other.errors
        self.insane += other.insane
        self.busy += other.busy
        self.latency.merge(other.latency)
        for name, counts in other.values.items():
            mine = self.values.get(name, [0] * len(counts))
            # Other bins belong to another reference, and cannot be added.
            if len(mine) == len(counts):
                self.values[name] = [a + b for a, b in zip(mine, counts, strict=True)]
        for name, count in other.nonfinite.items():
            self.nonfinite[name] = self.nonfinite.get(name, 0) + count

    def since(self, earlier: LiveStats) -> LiveStats:
        """What was added after `earlier`, which these counters once were.

        Counters that fell were begun anew: all of these were added.
        """
        if self.requests < earlier.requests or self.busy < earlier.busy:
            return self
        latency = {
            position: count - earlier.latency.counts.get(position, 0)
            for position, count in self.latency.counts.items()
            if count != earlier.latency.counts.get(position, 0)
        }
        values = {}
        for name, counts in self.values.items():
            before = earlier.values.get(name, [0] * len(counts))
            values[name] = [a - b for a, b in zip(counts, before, strict=True)]
        return LiveStats(
            requests=self.requests - earlier.requests,
            errors=self.errors - earlier.errors,
            insane=self.insane - earlier.insane,
            busy=self.busy - earlier.busy,
            latency=LatencyHistogram(counts=latency),
            values=values,
            nonfinite={
                name: count - earlier.nonfinite.get(name, 0)
                for name, count in self.nonfinite.items()
                if count != earlier.nonfinite.get(name, 0)
            },
        )

    def to_json(self) -> dict[str, object]:
        """The counters as they travel from the server to the supervisor."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "insane": self.insane,
            "busy": self.busy,
            # A list of the items first: other threads go on counting.
            "latency": [[position, count] for position, count in list(self.latency.counts.items())],
            "values": self.values,
            "nonfinite": self.nonfinite,
        }


def read_stats(reader: FieldReader) -> LiveStats:
    """Read what `LiveStats.to_json` made; faults gather in the reader."""
    stats = LiveStats(
        requests=reader.integer("requests"),
        errors=reader.integer("errors"),
        insane=reader.integer("insane"),
        busy=reader.integer("busy", default=0),
    )
    for item in reader.sequence("latency", most=_BUCKETS):
        match item:
            case [int(position), int(count)] if 0 <= position < _BUCKETS and count >= 0:
                stats.latency.counts[position] = count
            case _:
                reader.fault("latency", "must be a list of [bucket, count]")
    values = reader.nested("values", optional=True)
    for name in values.names():
        counts = values.sequence(name, most=_MAX_BINS)
        whole = [count for count in counts if isinstance(count, int) and count >= 0]
        if len(whole) != len(counts):
            values.fault(name, "must hold whole numbers")
        stats.values[name] = whole
    nonfinite = reader.nested("nonfinite", optional=True)
    stats.nonfinite = {name: nonfinite.integer(name) for name in nonfinite.names()}
    return stats
