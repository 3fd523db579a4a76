"""A/B experiments in the database: what was asked, and what is known so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.experiments.ab import (
    Answer,
    Looked,
    Metric,
    Question,
    looked_from_json,
    question_from_json,
)
from edgekit.fleet.experiments.assignment import Arm
from edgekit.fleet.rollouts.labels import parse_query
from edgekit.fleet.store.errors import NotFoundError
from edgekit.fleet.store.inserts import write_alone
from edgekit_runtime.errors import UsageError
from edgekit_runtime.protocol import require_id

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database
    from edgekit.fleet.store.tables import ExperimentRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Two versions on comparable devices.

    Attributes:
        id: Decides which device is in which group.
        bundle: Of both versions.
        version_a: What is known.
        version_b: What is tried.
        query: Which devices take part.
        comparable_by: Labels in which the two groups shall be equal.
        arms: Which device is in which group; empty until that is decided.
        told: When every device had been told to run its version; None before.
        created: Seconds since 1970.
        created_by: By whom.
        question: Fixed before the first look.
        looked: What is known so far.
    """

    id: str
    bundle: str
    version_a: str
    version_b: str
    query: str
    comparable_by: tuple[str, ...]
    arms: dict[str, Arm]
    told: float | None
    created: float
    created_by: str
    question: Question
    looked: Looked

    @property
    def state(self) -> str:
        """Where it stands, in a word or two."""
        if self.looked.answer is not Answer.UNDECIDED:
            return "over"
        if not self.arms:
            return "finding devices"
        return "telling devices" if self.told is None else "running"

    @property
    def sentence(self) -> str:
        """The answer so far, for people."""
        return self.looked.sentence(self.question)

    def to_json(self) -> dict[str, Any]:
        """The experiment as people and programs are told it; without its devices."""
        return {
            "id": self.id,
            "bundle": self.bundle,
            "version_a": self.version_a,
            "version_b": self.version_b,
            "query": self.query,
            "state": self.state,
            "created": self.created,
            "created_by": self.created_by,
            "question": self.question.to_json(),
            "looked": self.looked.to_json(),
            "sentence": self.sentence,
        }

    def version_of(self, arm: Arm) -> str:
        """What the devices of a group are to run."""
        return self.version_a if arm is Arm.A else self.version_b


class ExperimentTable:
    """The experiments in a database.

    Args:
        database: Where.
        clock: The time.
    """

    def __init__(self, database: Database, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    def create(
        self,
        experiment: str,
        *,
        bundle: str,
        version_a: str,
        version_b: str,
        query: str,
        question: Question,
        who: str,
        comparable_by: Sequence[str] = (),
    ) -> Experiment:
        """Keep a new experiment.

        Raises:
            UsageError: If the id is none or taken, the query breaks the grammar, both versions are
                the same, or no difference could reach the margin.
        """
        from edgekit.fleet.store.tables import ExperimentRow

        require_id(experiment, kind="experiment")
        parse_query(query)
        if version_a == version_b:
            raise UsageError("both versions are the same", where=experiment)
        if question.metric is not Metric.LATENCY and question.margin >= 1:
            raise UsageError(
                f"the margin is {question.margin:g}, and no shares differ by more than 1",
                where=experiment,
                fix="give the least difference that matters: 0.02 is two in a hundred",
            )
        now = self._clock().timestamp()
        with self._database.write() as session:
            write_alone(session, ExperimentRow)
            if session.get(ExperimentRow, experiment) is not None:
                raise UsageError(
                    f"there is an experiment {experiment!r} already", fix="choose another id"
                )
            row = ExperimentRow(
                id=experiment,
                bundle=bundle,
                version_a=version_a,
                version_b=version_b,
                query=query,
                answer=Answer.UNDECIDED.value,
                created=now,
                created_by=who,
                updated=now,
                comparable_by=list(comparable_by),
                arms={},
                told=None,
                question=question.to_json(),
                looked=Looked().to_json(),
            )
            session.add(row)
            record(
                session,
                actor=who,
                action="experiment.created",
                subject=f"experiment {experiment}",
                detail={"bundle": bundle, "a": version_a, "b": version_b, "query": query},
                clock=self._clock,
            )
            return _experiment(row)

    def get(self, experiment: str) -> Experiment:
        """An experiment.

        Raises:
            NotFoundError: If there is none of that id.
        """
        from edgekit.fleet.store.tables import ExperimentRow

        with self._database.read() as session:
            row = session.get(ExperimentRow, experiment)
            if row is None:
                raise NotFoundError(
                    f"there is no experiment {experiment!r}",
                    fix="see: edgekit fleet experiment list",
                )
            return _experiment(row)

    def all(self, *, newest: int = 50) -> tuple[Experiment, ...]:
        """The newest experiments first."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import ExperimentRow as Row

        query = select(Row).order_by(Row.created.desc(), Row.id).limit(newest)
        with self._database.read() as session:
            return tuple(map(_experiment, session.scalars(query)))

    def open(self) -> tuple[Experiment, ...]:
        """Those that have no answer yet, the oldest first."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import ExperimentRow as Row

        query = select(Row).where(Row.answer == Answer.UNDECIDED.value)
        with self._database.read() as session:
            return tuple(map(_experiment, session.scalars(query.order_by(Row.created, Row.id))))

    def begin(self, experiment: str, arms: Mapping[str, Arm]) -> None:
        """Decide who is in which group; only once.

        Raises:
            NotFoundError: If there is no experiment of that id.
        """
        with self._database.write() as session:
            row = _require(session, experiment)
            if not row.arms:
                row.arms = {device: arm.value for device, arm in arms.items()}

    def note_told(self, experiment: str) -> None:
        """Write down that every device has been told what to run.

        Raises:
            NotFoundError: If there is no experiment of that id.
        """
        with self._database.write() as session:
            _require(session, experiment).told = self._clock().timestamp()

    def stop(self, experiment: str, *, who: str) -> Experiment:
        """End an experiment that has no answer yet; its devices keep what they were told.

        Raises:
            NotFoundError: If there is no experiment of that id.
            UsageError: If it has its answer already.
        """
        with self._database.write() as session:
            row = _require(session, experiment)
            found = _experiment(row)
            if found.looked.answer not in (Answer.UNDECIDED, Answer.STOPPED):
                raise UsageError(
                    f"the experiment is over already: {found.sentence}", where=experiment
                )
            if found.looked.answer is Answer.UNDECIDED:
                row.answer = Answer.STOPPED.value
                row.looked = replace(found.looked, answer=Answer.STOPPED).to_json()
                row.updated = self._clock().timestamp()
                record(
                    session,
                    actor=who,
                    action="experiment.stopped",
                    subject=f"experiment {experiment}",
                    clock=self._clock,
                )
            return _experiment(row)

    def taking_part(self, bundle: str) -> frozenset[str]:
        """The devices of the experiments of a bundle that have no answer yet."""
        return frozenset(
            device for item in self.open() if item.bundle == bundle for device in item.arms
        )

    def save(self, experiment: str, looked: Looked) -> None:
        """Keep what the last look gave, unless it has its answer; a new answer is audited.

        Raises:
            NotFoundError: If there is no experiment of that id.
        """
        with self._database.write() as session:
            row = _require(session, experiment)
            if row.answer != Answer.UNDECIDED.value:
                # Somebody has stopped it while it was looked at.
                return
            answered = row.answer != looked.answer.value
            row.answer = looked.answer.value
            row.looked = looked.to_json()
            row.updated = self._clock().timestamp()
            if answered:
                question = question_from_json(row.question, where=experiment)
                record(
                    session,
                    actor="engine",
                    action="experiment.answered",
                    subject=f"experiment {experiment}",
                    detail={"answer": looked.sentence(question)},
                    clock=self._clock,
                )


def _require(session: Session, experiment: str) -> ExperimentRow:
    from edgekit.fleet.store.tables import ExperimentRow

    row = session.get(ExperimentRow, experiment, with_for_update=True)
    if row is None:
        raise NotFoundError(
            f"there is no experiment {experiment!r}", fix="see: edgekit fleet experiment list"
        )
    return row


def _experiment(row: ExperimentRow) -> Experiment:
    return Experiment(
        id=row.id,
        bundle=row.bundle,
        version_a=row.version_a,
        version_b=row.version_b,
        query=row.query,
        comparable_by=tuple(row.comparable_by),
        arms={device: Arm(arm) for device, arm in row.arms.items()},
        told=row.told,
        created=row.created,
        created_by=row.created_by,
        question=question_from_json(row.question, where=row.id),
        looked=looked_from_json(row.looked, where=row.id),
    )
