"""What devices measure, as it travels: windows of time, in batches that are counted once.

A batch is one JSON message on `devices/<id>/telemetry`. Every record has a sequence number within
the device's stream, and a stream begins anew when a device has lost its store: a record that has
come twice is known by (device, stream, sequence). Counts of several windows, devices or versions
of a sketch add up without loss.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.protocol import ID_PATTERN
from edgekit_runtime.shadow import (
    MAX_SHADOWS,
    ShadowCounts,
    add_buckets,
    merge_shadows,
    read_buckets,
    read_shadow,
)

MAX_BATCH_BYTES: Final = 60 * 1024
MAX_RECORDS: Final = 500
MAX_FEATURES: Final = 64
MAX_BINS: Final = 1024
_STREAM_PATTERN: Final = r"[0-9a-f]{16}"
# Counts are whole numbers; what an empty bin stands for when a logarithm is taken of it.
_EMPTY: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCounts:
    """Live values of one input or output, in bins bounded by quantiles of the reference.

    Attributes:
        expected: The reference's share of each bin; sums to 1.
        counts: How many live values fell into each.
        ordered: Whether the bins lie along an axis; classes do not.
        nonfinite: How many live values were NaN or infinity, and so fell into no bin.
    """

    expected: tuple[float, ...]
    counts: tuple[int, ...]
    ordered: bool = True
    nonfinite: int = 0

    @property
    def total(self) -> int:
        """How many values were counted in bins."""
        return sum(self.counts)

    @property
    def nonfinite_share(self) -> float:
        """The share of all values that were NaN or infinity; 0 for no values."""
        seen = self.total + self.nonfinite
        return self.nonfinite / seen if seen else 0.0

    def psi(self) -> float:
        """The population stability index: sum of (live - expected) * ln(live / expected).

        Below 0.1 is commonly called stable, above 0.25 a shift; 0 for no values.
        """
        total = self.total
        if not total:
            return 0.0
        index = 0.0
        for expected, count in zip(self.expected, self.counts, strict=True):
            live = max(count, _EMPTY) / total
            reference = max(expected, _EMPTY / total)
            index += (live - reference) * math.log(live / reference)
        return index

    def kolmogorov_smirnov(self) -> float:
        """The largest distance of the two cumulative distributions at the bounds of the bins.

        Quantiles at every twentieth know the reference within 0.05, and a bin holds another 0.05:
        all values together would show at most 0.1 more or less. 0 for classes and for no values.
        """
        total = self.total
        if not total or not self.ordered:
            return 0.0
        largest, live, reference = 0.0, 0, 0.0
        for expected, count in zip(self.expected, self.counts, strict=True):
            live += count
            reference += expected
            largest = max(largest, abs(live / total - reference))
        return largest

    def merge(self, other: FeatureCounts) -> FeatureCounts:
        """Both together; this one alone if the other has another reference."""
        if self.expected != other.expected:
            return self
        sums = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return replace(self, counts=sums, nonfinite=self.nonfinite + other.nonfinite)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCounts:
    """What one version of a bundle did in a window.

    Attributes:
        requests: Requests that reached the model.
        errors: Those that it did not answer, through no fault of the client.
        insane: Those whose answer held NaN or infinity.
        busy: Requests turned away because too many waited.
        latency: [bucket, count] of `LEAST_MS * RATIO ** bucket`, see `edgekit_agent.live_stats`.
        features: "input:NAME", "output:NAME", and "largest:NAME" for the class shares.
    """

    requests: int = 0
    errors: int = 0
    insane: int = 0
    busy: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)
    features: Mapping[str, FeatureCounts] = field(default_factory=dict)

    def merge(self, other: ModelCounts) -> ModelCounts:
        """Both together."""
        features = dict(self.features)
        for name, counts in other.features.items():
            features[name] = features[name].merge(counts) if name in features else counts
        return ModelCounts(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            insane=self.insane + other.insane,
            busy=self.busy + other.busy,
            latency=add_buckets(self.latency, other.latency),
            features=features,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGauges:
    """How the device itself was; of several windows, the mean or the worst.

    Attributes:
        cpu_share: Of all processors, mean, 0 to 1.
        memory_used_bytes: Of all RAM, the most.
        agent_rss_bytes: Of supervisor and server, the most.
        temperature_c: The highest; None where the device does not say.
        disk_free_bytes: Where the agent writes, the least.
        samples: How many measurements these stand for.
    """

    cpu_share: float = 0.0
    memory_used_bytes: int = 0
    agent_rss_bytes: int = 0
    temperature_c: float | None = None
    disk_free_bytes: int = 0
    samples: int = 1

    def merge(self, other: DeviceGauges) -> DeviceGauges:
        """Both together."""
        samples = self.samples + other.samples
        temperatures = [t for t in (self.temperature_c, other.temperature_c) if t is not None]
        mean = (self.cpu_share * self.samples + other.cpu_share * other.samples) / samples
        return DeviceGauges(
            cpu_share=round(mean, 6),
            memory_used_bytes=max(self.memory_used_bytes, other.memory_used_bytes),
            agent_rss_bytes=max(self.agent_rss_bytes, other.agent_rss_bytes),
            temperature_c=max(temperatures) if temperatures else None,
            disk_free_bytes=min(self.disk_free_bytes, other.disk_free_bytes),
            samples=samples,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A span of time: of one bundle version, or of the device where `bundle` is empty.

    Attributes:
        start: Seconds since 1970 by the device's clock.
        end: Likewise.
        bundle: Its name; empty for the device.
        version: Of the bundle.
        model: What the version did; None for the device, and where it only ran beside another.
        device: How the device was; None for a bundle.
        windows: How many windows were merged into this one.
        shadows: How the version did beside others that served.
    """

    start: float
    end: float
    bundle: str = ""
    version: str = ""
    model: ModelCounts | None = None
    device: DeviceGauges | None = None
    windows: int = 1
    shadows: tuple[ShadowCounts, ...] = ()

    def merge(self, other: Window) -> Window:
        """Both spans as one; they must be of the same version, or both of the device."""
        return replace(
            self,
            start=min(self.start, other.start),
            end=max(self.end, other.end),
            model=self.model.merge(other.model)
            if self.model and other.model
            else self.model or other.model,
            device=self.device.merge(other.device) if self.device and other.device else self.device,
            windows=self.windows + other.windows,
            shadows=merge_shadows((*self.shadows, *other.shadows)),
        )

    def to_json(self) -> dict[str, object]:
        """The window as it travels and is stored."""
        document: dict[str, object] = {"start": self.start, "end": self.end}
        if self.windows != 1:
            document["windows"] = self.windows
        if self.bundle:
            document |= {"bundle": self.bundle, "version": self.version}
        if self.model:
            document["model"] = _model_json(self.model)
        if self.shadows:
            document["shadows"] = [counts.to_json() for counts in self.shadows]
        if self.device:
            document["device"] = {
                each.name: getattr(self.device, each.name) for each in fields(self.device)
            }
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryBatch:
    """One message.

    Attributes:
        device: Who measured.
        stream: Of its store: 16 hex digits.
        dropped: How many windows and events the device had to drop in this stream so far.
        records: Sequence number and window, in order.
    """

    device: str
    stream: str
    dropped: int
    records: tuple[tuple[int, Window], ...]


def pack_batch(device: str, stream: str, dropped: int, rows: Iterable[tuple[int, bytes]]) -> bytes:
    """The message of a batch.

    Args:
        device: Who measured.
        stream: Of its store.
        dropped: See `TelemetryBatch`.
        rows: Sequence number and `Window.to_json` as JSON text.
    """
    records = b",".join(b'{"sequence":%d,"window":%s}' % row for row in rows)
    head = json.dumps(
        {"device": device, "stream": stream, "dropped": dropped}, separators=(",", ":")
    ).encode()
    return b'%s,"records":[%s]}' % (head[:-1], records)


def parse_batch(message: bytes, *, where: str) -> TelemetryBatch:
    """Read a batch, which may hold anything.

    Raises:
        VerificationError: If it is invalid; every field is named.
    """
    if len(message) > MAX_BATCH_BYTES + 1024:
        raise VerificationError(f"the batch is larger than {MAX_BATCH_BYTES} bytes", where=where)
    try:
        reader = FieldReader(json.loads(message))
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"the batch is no JSON: {error}", where=where) from error
    batch = TelemetryBatch(
        device=reader.text("device", pattern=ID_PATTERN),
        stream=reader.text("stream", pattern=_STREAM_PATTERN),
        dropped=reader.integer("dropped"),
        records=reader.items(
            "records",
            lambda item: (item.integer("sequence", least=1), read_window(item.nested("window"))),
            most=MAX_RECORDS,
        ),
    )
    if reader.faults:
        raise VerificationError(
            "the batch is invalid: " + "; ".join(reader.faults[:20]), where=where
        )
    return batch


def read_window(reader: FieldReader) -> Window:
    """Read what `Window.to_json` made; faults gather in the reader."""
    start, end = reader.number("start", least=0), reader.number("end", least=0)
    if end < start:
        reader.fault("end", "is before the start")
    has_model = reader.raw("model") is not None
    of_bundle = has_model or reader.raw("shadows") is not None
    if of_bundle == (reader.raw("device") is not None):
        reader.fault("", "must hold either a model or a device")
    return Window(
        start=start,
        end=end,
        bundle=reader.text("bundle", pattern=r".{1,64}") if of_bundle else "",
        version=reader.text("version", pattern=r".{1,128}") if of_bundle else "",
        model=_read_model(reader.nested("model")) if has_model else None,
        device=None if of_bundle else _read_device(reader.nested("device")),
        windows=reader.integer("windows", least=1, default=1),
        shadows=reader.items("shadows", read_shadow, optional=True, most=MAX_SHADOWS),
    )


def read_counts(reader: FieldReader) -> FeatureCounts:
    """Read one feature; faults gather in the reader."""
    expected, counts = _numbers(reader, "expected"), _numbers(reader, "counts")
    if len(expected) != len(counts) or not expected:
        reader.fault("counts", "must be as many as expected")
    if not all(isinstance(count, int) for count in counts):
        reader.fault("counts", "must be whole numbers")
    return FeatureCounts(
        expected=tuple(float(share) for share in expected),
        counts=tuple(int(count) for count in counts),
        ordered=reader.boolean("ordered", default=True),
        nonfinite=reader.integer("nonfinite", default=0),
    )


def _model_json(model: ModelCounts) -> dict[str, object]:
    document: dict[str, object] = {
        name: getattr(model, name) for name in ("requests", "errors", "insane", "busy")
    }
    document["latency"] = [[bucket, count] for bucket, count in sorted(model.latency.items())]
    document["features"] = {
        name: {"expected": counts.expected, "counts": counts.counts}
        | ({} if counts.ordered else {"ordered": False})
        | ({"nonfinite": counts.nonfinite} if counts.nonfinite else {})
        for name, counts in model.features.items()
    }
    return document


def _read_model(reader: FieldReader) -> ModelCounts:
    latency = read_buckets(reader, "latency")
    features = reader.nested("features", optional=True)
    names = features.names()
    if len(names) > MAX_FEATURES or not all(len(name) <= 300 for name in names):  # noqa: PLR2004
        features.fault("", f"must be at most {MAX_FEATURES}, with short names")
        names = []
    return ModelCounts(
        requests=reader.integer("requests"),
        errors=reader.integer("errors"),
        insane=reader.integer("insane"),
        busy=reader.integer("busy", default=0),
        latency=latency,
        features={name: read_counts(features.nested(name)) for name in names},
    )


def _read_device(reader: FieldReader) -> DeviceGauges:
    temperature = reader.raw("temperature_c")
    return DeviceGauges(
        cpu_share=reader.number("cpu_share", least=0),
        memory_used_bytes=reader.integer("memory_used_bytes"),
        agent_rss_bytes=reader.integer("agent_rss_bytes"),
        temperature_c=None if temperature is None else reader.number("temperature_c"),
        disk_free_bytes=reader.integer("disk_free_bytes"),
        samples=reader.integer("samples", least=1, default=1),
    )


def _numbers(reader: FieldReader, name: str) -> Sequence[float]:
    values = reader.sequence(name, most=MAX_BINS)
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) != len(values) or not all(0 <= v < math.inf for v in numbers):
        reader.fault(name, "must hold numbers from 0")
        return []
    return numbers
