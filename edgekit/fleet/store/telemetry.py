"""Measurements in the database: each window counts once, whoever sends it how often."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.store.inserts import insert_new
from edgekit_runtime.bundle.manifest import NAME_PATTERN
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.telemetry import ModelCounts, TelemetryBatch, Window, read_window
from edgekit_runtime.versions import VERSION_PATTERN

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database

# So many windows of a version are added up for its drift and latency, the newest ones.
MERGED_WINDOWS: Final = 2_000
_OLDEST_DAYS: Final = 366


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionHealth:
    """What devices reported of a version in a span of time.

    Attributes:
        requests: Requests that reached the model.
        errors: Those that it did not answer.
        insane: Those whose answer held NaN or infinity.
        devices: How many devices reported.
    """

    requests: int
    errors: int
    insane: int
    devices: int


def store_batches(database: Database, batches: Iterable[TelemetryBatch], *, now: float) -> int:
    """Keep batches; all of them, or none if the database fails.

    What is of a device that is not known, or names no possible bundle, is left out: a device must
    have said its state before it is believed anything else.

    Args:
        database: Where.
        batches: As parsed, each proven to come from the device that it names.
        now: Seconds since 1970.

    Returns:
        How many windows were new.
    """
    from sqlalchemy import select

    from edgekit.fleet.store.tables import DeviceRow, TelemetryRow

    taken = list(batches)
    wanted = sorted({batch.device for batch in taken})
    if not wanted:
        return 0
    with database.write() as session:
        known: set[str] = set()
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            known.update(session.scalars(select(DeviceRow.id).where(DeviceRow.id.in_(part))))
        rows = {
            (batch.device, batch.stream, sequence): _row(batch, sequence, window, now)
            for batch in taken
            if batch.device in known
            for sequence, window in batch.records
            if _is_possible(window)
        }
        return len(insert_new(session, TelemetryRow, list(rows.values()), returning=["id"]))


def recent_health(database: Database, *, since: float) -> dict[tuple[str, str], VersionHealth]:
    """What was received of each bundle and version since a moment."""
    from sqlalchemy import func, select

    from edgekit.fleet.store.tables import TelemetryRow as Row

    query = (
        select(
            Row.bundle,
            Row.version,
            func.sum(Row.requests),
            func.sum(Row.errors),
            func.sum(Row.insane),
            func.count(Row.device_id.distinct()),
        )
        .where(Row.received >= since, Row.bundle != "")
        .group_by(Row.bundle, Row.version)
        .order_by(Row.bundle, Row.version)
    )
    with database.read() as session:
        return {
            (bundle, version): VersionHealth(
                requests=int(requests), errors=int(errors), insane=int(insane), devices=devices
            )
            for bundle, version, requests, errors, insane, devices in session.execute(query)
        }


def merged_counts(
    database: Database,
    bundle: str,
    version: str,
    *,
    since: float,
    devices: Sequence[str] | None = None,
) -> ModelCounts:
    """Everything that devices reported of a version, added up: latency and drift too.

    Args:
        database: Where.
        bundle: Its name.
        version: Its version.
        since: When it was received; seconds since 1970.
        devices: Only what these reported.
    """
    from sqlalchemy import select

    from edgekit.fleet.store.tables import TelemetryRow as Row

    query = select(Row.data).where(
        Row.bundle == bundle, Row.version == version, Row.received >= since
    )
    if devices is not None:
        query = query.where(Row.device_id.in_(devices))
    with database.read() as session:
        documents = session.scalars(query.order_by(Row.received.desc()).limit(MERGED_WINDOWS)).all()
    total = ModelCounts()
    for document in documents:
        model = window_of(document).model
        if model is not None:
            total = total.merge(model)
    return total


def hourly_health(
    database: Database, bundle: str, *, since: float
) -> dict[str, dict[int, VersionHealth]]:
    """What was received of a bundle: by version, then by hour since 1970."""
    from sqlalchemy import BigInteger, cast, func, select

    from edgekit.fleet.store.tables import TelemetryRow as Row

    hour = cast(Row.received, BigInteger) // 3600
    query = (
        select(
            Row.version,
            hour,
            func.sum(Row.requests),
            func.sum(Row.errors),
            func.sum(Row.insane),
            func.count(Row.device_id.distinct()),
        )
        .where(Row.bundle == bundle, Row.received >= since)
        .group_by(Row.version, hour)
        .order_by(Row.version, hour)
    )
    found: dict[str, dict[int, VersionHealth]] = {}
    with database.read() as session:
        for version, at, requests, errors, insane, devices in session.execute(query):
            found.setdefault(version, {})[int(at)] = VersionHealth(
                requests=int(requests), errors=int(errors), insane=int(insane), devices=devices
            )
    return found


def window_of(document: Mapping[str, Any]) -> Window:
    """A window as it was stored."""
    return read_window(FieldReader(document))


def _row(batch: TelemetryBatch, sequence: int, window: Window, now: float) -> dict[str, Any]:
    # A clock that is ahead, or was never set, must not decide what is new and what is old.
    plausible = now - _OLDEST_DAYS * 86_400 < window.start <= window.end <= now
    model = window.model or ModelCounts()
    return {
        "device_id": batch.device,
        "stream": batch.stream,
        "sequence": sequence,
        "bundle": window.bundle,
        "version": window.version,
        "started": window.start if plausible else now,
        "ended": window.end if plausible else now,
        "received": now,
        "requests": model.requests,
        "errors": model.errors,
        "insane": model.insane,
        "data": _storable(window),
    }


def _storable(window: Window) -> Any:
    # Names of features are the device's: PostgreSQL's JSON has no NUL and no lone surrogates.
    text = json.dumps(window.to_json(), ensure_ascii=False).replace("\\u0000", "\\ufffd")
    return json.loads(text.encode("utf-8", "replace"))


def _is_possible(window: Window) -> bool:
    if not window.bundle:
        return window.device is not None
    return bool(
        re.fullmatch(NAME_PATTERN, window.bundle) and re.fullmatch(VERSION_PATTERN, window.version)
    )
