"""Shadow runs in the database: what was asked, who takes part, what was reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.experiments.shadow import (
    NOTHING,
    ShadowResult,
    ShadowSettings,
    ShadowVerdict,
    judge_shadow,
    settings_from_json,
)
from edgekit.fleet.rollouts.labels import parse_query
from edgekit.fleet.store.errors import NotFoundError
from edgekit.fleet.store.inserts import insert_new, write_alone
from edgekit.fleet.store.shadow_sums import ShadowDevice, shadow_devices, total_of
from edgekit_runtime.errors import UsageError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.protocol import require_id
from edgekit_runtime.reports import ShadowPhase
from edgekit_runtime.shadow import ShadowCounts, merge_shadows, read_shadow
from edgekit_runtime.telemetry import Window

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database
    from edgekit.fleet.store.tables import ShadowRunRow

# Versions that have served on one device while one run lasted; a liar could name thousands.
_MAX_ACTIVES: Final = 16
# Two servers hand requests over while one takes the place of the other; windows begin late.
_SERVERS: Final = 2
_SPARE_SECONDS: Final = 60.0
_SHOWN_ENDED: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowRun:
    """A version that runs beside the one that serves.

    Attributes:
        id: Its name, also in orders and reports.
        bundle: Of both versions.
        version: What runs beside.
        query: Which devices take part.
        settings: How it runs, and what is asked.
        result: What the last look gave: `ShadowResult.to_json`, how many devices stand where
            (`phases`), and why some have ended (`ended`).
        created: Seconds since 1970.
        created_by: By whom.
        chosen: When it was decided which devices take part; None before.
        stopped: When a person ended it; None before.
        ended: When no order named it any more; None before.
    """

    id: str
    bundle: str
    version: str
    query: str
    settings: ShadowSettings
    result: Mapping[str, Any]
    created: float
    created_by: str
    chosen: float | None
    stopped: float | None
    ended: float | None

    @property
    def state(self) -> str:
        """Where it stands, in a word or two."""
        if self.ended is not None:
            return "ended"
        if self.stopped is not None:
            return "being stopped"
        return "running" if self.chosen is not None else "finding devices"

    def to_json(self) -> dict[str, object]:
        """The run as people and programs are told it."""
        return {
            "id": self.id,
            "bundle": self.bundle,
            "version": self.version,
            "query": self.query,
            "state": self.state,
            "settings": self.settings.to_json(),
            "result": self.result,
            "created": self.created,
            "created_by": self.created_by,
            "stopped": self.stopped,
        }


class ShadowTable:
    """The shadow runs in a database.

    Args:
        database: Where.
        clock: The time.
    """

    def __init__(self, database: Database, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    def create(
        self,
        run: str,
        *,
        bundle: str,
        version: str,
        query: str,
        settings: ShadowSettings,
        who: str,
    ) -> ShadowRun:
        """Keep a new run.

        Raises:
            UsageError: If the id is none or taken, the query breaks the grammar, or another run of
                the bundle was not stopped yet: a device runs one version beside.
        """
        from sqlalchemy import select

        from edgekit.fleet.store.tables import ShadowRunRow as Row

        require_id(run, kind="shadow run")
        parse_query(query)
        with self._database.write() as session:
            write_alone(session, Row)
            if session.get(Row, run) is not None:
                raise UsageError(f"there is a shadow run {run!r} already", fix="choose another id")
            other = session.scalar(select(Row.id).where(Row.bundle == bundle, Row.ended.is_(None)))
            if other is not None:
                raise UsageError(
                    f"the shadow run {other!r} of {bundle} has not ended",
                    fix=f"stop it first: edgekit fleet shadow stop {other}",
                )
            row = Row(
                id=run,
                bundle=bundle,
                version=version,
                query=query,
                settings=settings.to_json(),
                verdict=ShadowVerdict.UNDECIDED.value,
                result=_result(judge_shadow((), NOTHING, settings), ()),
                created=self._clock().timestamp(),
                created_by=who,
            )
            session.add(row)
            self._note(session, who, "created", run, {"bundle": bundle, "version": version})
            session.flush()
            return _run(row)

    def stop(self, run: str, *, who: str) -> ShadowRun:
        """End a run: its devices are told so; what was reported stays.

        Raises:
            NotFoundError: If there is no run of that id.
        """
        with self._database.write() as session:
            row = _require(session, run)
            if row.stopped is None:
                row.stopped = self._clock().timestamp()
                self._note(session, who, "stopped", run, {})
            return _run(row)

    def get(self, run: str) -> ShadowRun:
        """A run.

        Raises:
            NotFoundError: If there is none of that id.
        """
        with self._database.read() as session:
            return _run(_require(session, run, change=False))

    def all(self, *, newest: int = 50) -> tuple[ShadowRun, ...]:
        """The newest runs first."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import ShadowRunRow as Row

        query = select(Row).order_by(Row.created.desc(), Row.id).limit(newest)
        with self._database.read() as session:
            return tuple(map(_run, session.scalars(query)))

    def open(self) -> tuple[ShadowRun, ...]:
        """Runs that some order may still name."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import ShadowRunRow as Row

        query = select(Row).where(Row.ended.is_(None)).order_by(Row.created, Row.id)
        with self._database.read() as session:
            return tuple(map(_run, session.scalars(query)))

    def devices(self, run: str) -> tuple[ShadowDevice, ...]:
        """Who takes part, by id, and how it goes there; nobody before they were chosen.

        Raises:
            NotFoundError: If there is no run of that id.
        """
        with self._database.read() as session:
            return shadow_devices(session, run, _require(session, run, change=False).bundle)

    def result(self, run: str) -> ShadowResult:
        """What is known by now.

        Raises:
            NotFoundError: If there is no run of that id.
        """
        with self._database.read() as session:
            return _known(session, _run(_require(session, run, change=False)))[1]

    def show(self, run: str) -> tuple[ShadowRun, tuple[ShadowDevice, ...]]:
        """A run with what is known by now, which may be more than the last look gave; its devices.

        Raises:
            NotFoundError: If there is no run of that id.
        """
        with self._database.read() as session:
            found = _run(_require(session, run, change=False))
            devices, result = _known(session, found)
        return replace(found, result=_result(result, devices)), devices

    def look(self, run: str) -> ShadowResult:
        """Keep what is known by now; an answer that is given for the first time is audited.

        Raises:
            NotFoundError: If there is no run of that id.
        """
        with self._database.read() as session:
            devices, result = _known(session, _run(_require(session, run, change=False)))
        with self._database.write() as session:
            row = _require(session, run)
            row.result = _result(result, devices)
            if row.verdict != result.verdict.value:
                row.verdict = result.verdict.value
                self._note(session, "engine", "answered", run, {"answer": result.sentence})
        return result

    def choose(self, run: str, devices: Collection[str]) -> None:
        """Decide who takes part; only once.

        Raises:
            NotFoundError: If there is no run of that id.
        """
        from edgekit.fleet.store.tables import ShadowDeviceRow

        with self._database.write() as session:
            row = _require(session, run)
            if row.chosen is not None:
                return
            row.chosen = self._clock().timestamp()
            values = [{"run": run, "device_id": name, "counts": []} for name in sorted(devices)]
            insert_new(session, ShadowDeviceRow, values, returning=["device_id"])

    def waiting(self, run: str, *, told: bool, most: int) -> tuple[str, ...]:
        """Some devices that have been told to take part, or have not been told yet."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import ShadowDeviceRow as Row

        state = Row.told.is_not(None) if told else Row.told.is_(None)
        query = select(Row.device_id).where(Row.run == run, state).order_by(Row.device_id)
        with self._database.read() as session:
            return tuple(session.scalars(query.limit(most)))

    def note_told(self, run: str, device: str, *, told: bool = True) -> None:
        """Write down that a device has been told to take part, or not to do so any more."""
        from edgekit.fleet.store.tables import ShadowDeviceRow

        with self._database.write() as session:
            row = session.get(ShadowDeviceRow, (run, device), with_for_update=True)
            if row is not None:
                row.told = self._clock().timestamp() if told else None

    def note_ended(self, run: str) -> None:
        """Write down that no order names it any more.

        Raises:
            NotFoundError: If there is no run of that id.
        """
        with self._database.write() as session:
            _require(session, run).ended = self._clock().timestamp()

    def _note(
        self, session: Session, who: str, what: str, run: str, detail: Mapping[str, object]
    ) -> None:
        record(
            session,
            actor=who,
            action=f"shadow.{what}",
            subject=f"shadow run {run}",
            detail=dict(detail),
            clock=self._clock,
        )


def add_shadows(session: Session, device: str, window: Window, *, now: float) -> None:
    """Add what a window holds of versions beside; the caller has made sure that it counts once.

    What belongs to no run that this device takes part in is left out: it may say anything.

    Args:
        session: Of the transaction in which the window is counted.
        device: Who reports.
        window: Of a bundle.
        now: Seconds since 1970.
    """
    from edgekit.fleet.store.tables import ShadowDeviceRow, ShadowRunRow

    for counts in window.shadows:
        row = session.get(ShadowDeviceRow, (counts.run, device), with_for_update=True)
        run = session.get(ShadowRunRow, counts.run)
        if row is None or run is None:
            continue
        if (run.bundle, run.version) != (window.bundle, window.version):
            continue
        seconds = min(window.end - window.start, max(0.0, now - run.created)) + _SPARE_SECONDS
        if counts.compared > _SERVERS * seconds * run.settings["max_per_second"]:
            # No device is given so many: it lies, and would outweigh all others.
            continue
        merged = merge_shadows((*_read(row.counts), counts))
        if len(merged) <= _MAX_ACTIVES:
            row.counts = [item.to_json() for item in merged]
            row.reported = now


def _known(session: Session, run: ShadowRun) -> tuple[tuple[ShadowDevice, ...], ShadowResult]:
    devices = shadow_devices(session, run.id, run.bundle)
    shares = [(item.agreed, item.compared) for item in devices]
    return devices, judge_shadow(shares, total_of(session, run.id, devices), run.settings)


def _result(result: ShadowResult, devices: Sequence[ShadowDevice]) -> dict[str, Any]:
    ended = [item for item in devices if item.phase == ShadowPhase.ENDED]
    return result.to_json() | {
        "phases": dict(Counter(map(_phase, devices))),
        # Why, and of how many devices: which they are is in `devices`.
        "ended": dict(Counter(item.reason for item in ended).most_common(_SHOWN_ENDED)),
    }


def _phase(item: ShadowDevice) -> str:
    # Who has reported of the run and says nothing of it any more is done with it.
    return item.phase or ("not heard of yet" if item.reported is None else "over")


def _read(documents: object) -> tuple[ShadowCounts, ...]:
    return FieldReader({"counts": documents}).items("counts", read_shadow)


def _require(session: Session, run: str, *, change: bool = True) -> ShadowRunRow:
    from edgekit.fleet.store.tables import ShadowRunRow

    row = session.get(ShadowRunRow, run, with_for_update=change)
    if row is None:
        raise NotFoundError(f"there is no shadow run {run!r}", fix="see: edgekit fleet shadow list")
    return row


def _run(row: ShadowRunRow) -> ShadowRun:
    return ShadowRun(
        id=row.id,
        bundle=row.bundle,
        version=row.version,
        query=row.query,
        settings=settings_from_json(row.settings, where=row.id),
        result=row.result,
        created=row.created,
        created_by=row.created_by,
        chosen=row.chosen,
        stopped=row.stopped,
        ended=row.ended,
    )
