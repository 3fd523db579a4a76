"""What the director orders one device to run, as it stands in the signed TUF metadata.

The director's targets metadata for a device names the device under `ORDER_FIELD`, and lists each
bundle as a target of the same path, hash and length as in the image repository; the `custom`
object of each target says under which conditions it goes live, and which other version is to run
beside it without being served. TUF signs canonical JSON, which has whole numbers only: every other
number is signed as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from edgekit_runtime.bundle.manifest import NAME_PATTERN
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES, MAX_INDEX_BYTES
from edgekit_runtime.protocol import ID_PATTERN
from edgekit_runtime.versions import VERSION_PATTERN

ORDER_FIELD: Final = "x-edgekit-order"
# In timestamp metadata: when it was signed, RFC 3339 in UTC. Devices without a clock learn from it.
TIME_FIELD: Final = "x-edgekit-time"
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOUR: Final = 60
_DAY: Final = 24 * 60
# The end of the year 9999, the last that can be written.
_LAST_TIME: Final = 253_402_300_799
_DECIMAL_PATTERN: Final = r"\d{1,18}(?:\.\d{1,24})?(?:e[+-]\d{1,3})?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a candidate may use while it is proven, before it serves anyone.

    Attributes:
        trial_seconds: Wall time for loading it and running all golden samples.
        memory_bytes: Peak resident memory of the trial process, engine included.
        latency_ms: Median latency over the golden samples; 0 for no limit.
    """

    trial_seconds: float = 60.0
    memory_bytes: int = 512 << 20
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What must hold while a candidate serves live traffic, before it counts as installed.

    Attributes:
        min_requests: Requests that it must have answered.
        min_seconds: Time that it must have served.
        deadline_seconds: When the gates have not passed by then, the candidate is rolled back.
        max_error_share: Largest share of requests that may fail, 0 to 1.
        max_insane_share: Largest share of answers that may hold NaN or infinity, 0 to 1.
        max_p90_ms: Largest 90th percentile of the model's latency, of ten answers at least even
            where `min_requests` says fewer; 0 for no limit.
        max_psi: Largest population stability index of any input or output against the bundle's
            reference, beyond what chance makes of so few requests; 0 for no limit.
        max_nonfinite_share: Largest share of the values of any input or output that has a reference
            which may be NaN or infinity; 1 for any.
        max_crashes: Server crashes after which it is rolled back at once.
    """

    min_requests: int = 0
    min_seconds: float = 10.0
    deadline_seconds: float = 86_400.0
    max_error_share: float = 0.01
    max_insane_share: float = 0.0
    max_p90_ms: float = 0.0
    max_psi: float = 0.0
    max_nonfinite_share: float = 1.0
    max_crashes: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of the day, in UTC, in which a candidate may go live.

    Attributes:
        days: 0 for Monday to 6 for Sunday: the days on which it begins.
        start: Minutes after midnight.
        end: Minutes after midnight; not after `start` for a window that ends on the next day.
    """

    days: tuple[int, ...]
    start: int
    end: int

    def __str__(self) -> str:
        days = "daily" if len(self.days) == len(_DAYS) else ",".join(_DAYS[d] for d in self.days)
        start, end = (f"{time // 60:02}:{time % 60:02}" for time in (self.start, self.end))
        return f"{days} {start}-{end}"

    def holds(self, time: float) -> bool:
        """Whether a time, in seconds since 1970, lies inside."""
        day, second = divmod(int(time), 86_400)
        # 1970 began on a Thursday.
        weekday, minute = (day + 3) % 7, second // 60
        if self.start < self.end:
            return weekday in self.days and self.start <= minute < self.end
        before = (weekday - 1) % 7
        return (weekday in self.days and minute >= self.start) or (
            before in self.days and minute < self.end
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What must hold when a candidate goes live; it is fetched and verified before.

    Attributes:
        not_before: Seconds since 1970; 0 for at once.
        deadline: Seconds since 1970, from when on neither window nor load is waited for; 0 for
            never.
        windows: One of them must hold; none for any time.
        min_battery_percent: Unless power comes from outside; 0 for any.
        max_load: Average number of running processes over a minute, for each processor; 0 for any.
    """

    not_before: int = 0
    deadline: int = 0
    windows: tuple[Window, ...] = ()
    min_battery_percent: int = 0
    max_load: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowOrder:
    """A version that answers live requests beside the one that serves, and is never served.

    Attributes:
        run: Names the comparison; a device takes part in one of that name once.
        version: Of the same bundle.
        digest: SHA-256 of its bundle index, as the director knows it; empty until it is signed.
        length: Of that index, in bytes; 0 until it is signed.
        rate: The share of requests that it is given, above 0, to 1.
        max_per_second: No more requests than that are given to it.
        seconds: How long it runs beside, in all; then it ends.
        free_bytes: It ends when the device has less memory than that to spare.
        tolerance: Answers that name no class agree where they differ by at most this share of the
            largest value of the answer that was served.
        budget: For its trial. Beside the other it may take as much memory, and be silent as long.
    """

    run: str
    version: str
    digest: str = ""
    length: int = 0
    rate: float = 0.1
    max_per_second: float = 5.0
    seconds: float = 86_400.0
    free_bytes: int = 64 << 20
    tolerance: float = 0.05
    budget: Budget = field(default_factory=Budget)

    def to_custom(self) -> dict[str, object]:
        """The `shadow` object within the `custom` object of the version that serves."""
        plain = (name for name in ShadowOrder.__slots__ if name != "budget")
        return {name: _signable(getattr(self, name)) for name in plain} | {
            "budget": _budget_custom(self.budget)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOrder:
    """One bundle that a device must run.

    Attributes:
        bundle: Its name.
        version: Its semantic version.
        budget: For the trial.
        gates: For the time in live use.
        conditions: For the moment at which it goes live.
        shadow: What is to run beside it; None for nothing.
    """

    bundle: str
    version: str
    budget: Budget = field(default_factory=Budget)
    gates: Gates = field(default_factory=Gates)
    conditions: Conditions = field(default_factory=Conditions)
    shadow: ShadowOrder | None = None

    @property
    def target_path(self) -> str:
        """The TUF target path, the same in both repositories."""
        return target_path(self.bundle, self.version)

    @property
    def target_paths(self) -> tuple[str, ...]:
        """The paths of every version that the device is to hold for it."""
        shadow = () if self.shadow is None else (target_path(self.bundle, self.shadow.version),)
        return (self.target_path, *shadow)

    def to_custom(self) -> dict[str, object]:
        """The `custom` object of the director's target."""
        # Without a shadow it stays what it was before there were any.
        shadow = {} if self.shadow is None else {"shadow": self.shadow.to_custom()}
        return {
            "bundle": self.bundle,
            "version": self.version,
            "budget": _budget_custom(self.budget),
            "gates": {name: _signable(getattr(self.gates, name)) for name in Gates.__slots__},
            "conditions": {
                "not_before": self.conditions.not_before,
                "deadline": self.conditions.deadline,
                "windows": [str(window) for window in self.conditions.windows],
                "min_battery_percent": self.conditions.min_battery_percent,
                "max_load": _signable(self.conditions.max_load),
            },
            **shadow,
        }


def order_of(orders: Iterable[BundleOrder], bundle: str) -> BundleOrder | None:
    """What a device's orders say of a bundle; None for nothing."""
    return next((order for order in orders if order.bundle == bundle), None)


def target_path(bundle: str, version: str) -> str:
    """The TUF target path of a bundle version: its index."""
    return f"{bundle}/{version}/index.json"


def parse_order(path: str, custom: object) -> BundleOrder:
    """Read the `custom` object of one of the director's targets.

    Args:
        path: The target's path, which must agree with what the object says.
        custom: As signed.

    Raises:
        VerificationError: If it is invalid; every field is named.
    """
    reader = FieldReader(custom)
    gates = reader.nested("gates", optional=True)
    limits = Gates()
    order = BundleOrder(
        bundle=reader.text("bundle", pattern=NAME_PATTERN),
        version=reader.text("version", pattern=VERSION_PATTERN),
        budget=_read_budget(reader.nested("budget", optional=True)),
        gates=Gates(
            min_requests=gates.integer("min_requests", default=limits.min_requests),
            min_seconds=_decimal(gates, "min_seconds", default=limits.min_seconds),
            deadline_seconds=_decimal(
                gates, "deadline_seconds", default=limits.deadline_seconds, least=1.0
            ),
            max_error_share=_decimal(gates, "max_error_share", default=limits.max_error_share),
            max_insane_share=_decimal(gates, "max_insane_share", default=limits.max_insane_share),
            max_p90_ms=_decimal(gates, "max_p90_ms", default=limits.max_p90_ms),
            max_psi=_decimal(gates, "max_psi", default=limits.max_psi),
            max_nonfinite_share=_decimal(
                gates, "max_nonfinite_share", default=limits.max_nonfinite_share
            ),
            max_crashes=gates.integer("max_crashes", default=limits.max_crashes),
        ),
        conditions=_read_conditions(reader.nested("conditions", optional=True)),
        shadow=None if reader.raw("shadow") is None else read_shadow_order(reader.nested("shadow")),
    )
    if order.shadow is not None and order.shadow.version == order.version:
        reader.fault("shadow.version", "is the version that serves")
    if not reader.faults and order.target_path != path:
        reader.fault("", f"names {order.target_path}, and stands under {path}")
    if reader.faults:
        raise VerificationError("the order is invalid: " + "; ".join(reader.faults), where=path)
    return order


def parse_window(text: str) -> Window | None:
    """Read "daily 22:00-04:00" or "sat,sun 00:00-24:00"; None if it is none of that form."""
    match = re.fullmatch(r"([a-z,]{1,32}) (\d\d):(\d\d)-(\d\d):(\d\d)", text)
    if match is None:
        return None
    names = _DAYS if match[1] == "daily" else tuple(match[1].split(","))
    start, end = int(match[2]) * 60 + int(match[3]), int(match[4]) * 60 + int(match[5])
    valid = (
        all(name in _DAYS for name in names)
        and int(match[3]) < _HOUR
        and int(match[5]) < _HOUR
        and start < _DAY
        and end <= _DAY
        and start != end
    )
    days = sorted({_DAYS.index(name) for name in names}) if valid else []
    return Window(days=tuple(days), start=start, end=end) if valid else None


def require_window(text: str) -> Window:
    """Read a window that a person wrote.

    Raises:
        UsageError: If it is none.
    """
    window = parse_window(text)
    if window is None:
        raise UsageError(
            f"{text!r} is no maintenance window",
            fix="write it like 'daily 22:00-04:00' or 'sat,sun 00:00-24:00', in UTC",
        )
    return window


def _budget_custom(budget: Budget) -> dict[str, object]:
    return {name: _signable(getattr(budget, name)) for name in Budget.__slots__}


def _read_budget(reader: FieldReader) -> Budget:
    least = Budget()
    return Budget(
        trial_seconds=_decimal(reader, "trial_seconds", default=least.trial_seconds, least=0.1),
        memory_bytes=reader.integer("memory_bytes", least=1, default=least.memory_bytes),
        latency_ms=_decimal(reader, "latency_ms", default=least.latency_ms),
    )


def read_shadow_order(reader: FieldReader) -> ShadowOrder:
    """Read what `ShadowOrder.to_custom` made; faults gather in the reader."""
    rate = _decimal(reader, "rate", default=0.0)
    if not 0 < rate <= 1:
        reader.fault("rate", "is not above 0, to 1")
    return ShadowOrder(
        run=reader.text("run", pattern=ID_PATTERN),
        version=reader.text("version", pattern=VERSION_PATTERN),
        digest=reader.text("digest", pattern=r"[0-9a-f]{64}"),
        length=reader.integer("length", least=1, most=MAX_INDEX_BYTES),
        rate=rate,
        max_per_second=_decimal(reader, "max_per_second", default=5.0, least=0.001),
        seconds=_decimal(reader, "seconds", default=86_400.0, least=1.0),
        free_bytes=reader.integer("free_bytes"),
        tolerance=_decimal(reader, "tolerance", default=0.0),
        budget=_read_budget(reader.nested("budget")),
    )


def _read_conditions(reader: FieldReader) -> Conditions:
    windows = []
    for text in reader.texts("windows", optional=True, most=32):
        window = parse_window(text)
        if window is None:
            reader.fault("windows", f"{text[:40]!r} is not like 'daily 22:00-04:00' or 'sat,sun …'")
        else:
            windows.append(window)
    return Conditions(
        not_before=reader.integer("not_before", default=0, most=_LAST_TIME),
        deadline=reader.integer("deadline", default=0, most=_LAST_TIME),
        windows=tuple(windows),
        min_battery_percent=reader.integer("min_battery_percent", default=0, most=100),
        max_load=_decimal(reader, "max_load", default=0.0),
    )


def parse_time(value: object) -> float | None:
    """Seconds since 1970 of an RFC 3339 time in UTC as TUF writes it; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def index_pieces_custom(pieces: list[tuple[str, int]]) -> dict[str, object]:
    """The `custom` object of an image repository target: where the index's bytes are.

    Args:
        pieces: SHA-256 and length of each consecutive piece of the index, each sent as a chunk.
    """
    return {"pieces": [[digest, size] for digest, size in pieces]}


def parse_index_pieces(path: str, custom: object, *, length: int) -> list[tuple[str, int]]:
    """Read what `index_pieces_custom` made.

    Args:
        path: The target's path, for the error.
        custom: As signed.
        length: Of the whole index, as signed.

    Raises:
        VerificationError: If it is invalid, or the lengths do not add up.
    """
    reader = FieldReader(custom)
    pieces = []
    for item in reader.sequence("pieces", most=MAX_INDEX_BYTES // MAX_CHUNK_WIRE_BYTES + 1):
        match item:
            case [str(digest), int(size)] if (
                len(digest) == 64  # noqa: PLR2004 - SHA-256 in hex
                and all(letter in "0123456789abcdef" for letter in digest)
                and 0 < size <= MAX_CHUNK_WIRE_BYTES
            ):
                pieces.append((digest, size))
            case _:
                reader.fault("pieces", "must be a list of [sha256, bytes]")
    if not reader.faults and sum(size for _, size in pieces) != length:
        reader.fault("pieces", f"do not add up to {length} bytes")
    if reader.faults:
        raise VerificationError("the target is invalid: " + "; ".join(reader.faults), where=path)
    return pieces


def _signable(value: float | str) -> int | str:
    return repr(value) if isinstance(value, float) else value


def _decimal(reader: FieldReader, name: str, *, default: float, least: float = 0.0) -> float:
    if reader.raw(name) is None:
        return default
    if isinstance(reader.raw(name), int):
        return reader.number(name, least=least)
    text = reader.text(name, pattern=_DECIMAL_PATTERN)
    value = float(text) if re.fullmatch(_DECIMAL_PATTERN, text) else least
    if value < least:
        reader.fault(name, f"{text} is below {least}")
    return value
