"""Rollouts in the database: plan and state as the engine writes them; decisions are audited."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.rollouts.plan import RolloutPlan, check_plan, plan_from_json
from edgekit.fleet.rollouts.state import (
    ENDED,
    Decision,
    RolloutState,
    decisions_from_json,
    state_from_json,
)
from edgekit.fleet.rollouts.store import StaleRevisionError, StoredRollout
from edgekit.fleet.store.errors import NotFoundError
from edgekit.fleet.store.inserts import write_alone
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database
    from edgekit.fleet.store.tables import RolloutRow


class RolloutTable:
    """A `RolloutStore` for any number of replicas: of two that decide, one is told to read again.

    Every new decision in a state is written into the audit log under the name of who decided.

    Args:
        database: Where.
        clock: The time.
    """

    def __init__(self, database: Database, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    def names(self) -> tuple[str, ...]:
        """The ids of all rollouts, the newest first."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import RolloutRow

        query = select(RolloutRow.id).order_by(RolloutRow.created.desc(), RolloutRow.id)
        with self._database.read() as session:
            return tuple(session.scalars(query))

    def create(self, plan: RolloutPlan) -> None:
        """Keep a new rollout; the same plan again changes nothing.

        Raises:
            UsageError: If the plan is invalid, or there is another rollout of that id.
        """
        from edgekit.fleet.store.tables import RolloutRow

        check_plan(plan)
        state = RolloutState()
        with self._database.write() as session:
            write_alone(session, RolloutRow)
            known = session.get(RolloutRow, plan.id)
            if known is not None:
                if plan_from_json(known.plan, where=plan.id) == plan:
                    return
                raise UsageError(
                    f"there is a rollout {plan.id!r} already, with another plan",
                    fix="choose another id",
                )
            session.add(
                RolloutRow(
                    id=plan.id,
                    bundle=plan.bundle,
                    version=plan.version,
                    status=state.phase.value,
                    revision=1,
                    created=plan.created,
                    created_by=plan.created_by,
                    approved_by="",
                    updated=self._clock().timestamp(),
                    plan=plan.to_json(),
                    state=state.to_json(),
                )
            )
            detail = {"bundle": plan.bundle, "version": plan.version, "query": plan.query}
            self._record(session, plan.created_by, "created", plan.id, detail)

    def adopt(self, stored: StoredRollout) -> None:
        """Keep a rollout as it stood elsewhere; one that was kept already is left as it is.

        Raises:
            UsageError: If there is another rollout of that id.
        """
        self.create(stored.plan)
        with self._database.write() as session:
            row = _require(session, stored.plan.id, change=True)
            if row.revision == 1 and stored.revision > 1:
                row.revision = stored.revision
                row.status = stored.state.phase.value
                row.approved_by = _approvers(stored.state)
                row.state = stored.state.to_json()

    def load(self, rollout: str) -> StoredRollout:
        """A rollout.

        Raises:
            NotFoundError: If there is none of that id.
            VerificationError: If what is kept is damaged.
        """
        with self._database.read() as session:
            return _stored(_require(session, rollout))

    def all(self, *, newest: int = 50) -> tuple[StoredRollout, ...]:
        """The newest rollouts first."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import RolloutRow

        query = select(RolloutRow).order_by(RolloutRow.created.desc(), RolloutRow.id).limit(newest)
        with self._database.read() as session:
            return tuple(map(_stored, session.scalars(query)))

    def phases(self) -> Counter[str]:
        """How many rollouts there are in each phase."""
        from sqlalchemy import func, select

        from edgekit.fleet.store.tables import RolloutRow

        query = select(RolloutRow.status, func.count()).group_by(RolloutRow.status)
        with self._database.read() as session:
            return Counter({phase: int(count) for phase, count in session.execute(query)})

    def under_way_bundles(self) -> dict[str, str]:
        """By id, the bundle of every rollout that is not over; no state is read for it."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import RolloutRow

        over = [phase.value for phase in ENDED]
        query = select(RolloutRow.id, RolloutRow.bundle).where(RolloutRow.status.not_in(over))
        with self._database.read() as session:
            rows = session.execute(query.order_by(RolloutRow.id))
            return {row.id: row.bundle for row in rows}

    def decisions(self, rollout: str) -> tuple[Decision, ...]:
        """The decisions of a rollout, without the state of its devices.

        Raises:
            NotFoundError: If there is no rollout of that id.
        """
        from sqlalchemy import select

        from edgekit.fleet.store.tables import RolloutRow

        query = select(RolloutRow.state["decisions"]).where(RolloutRow.id == rollout)
        with self._database.read() as session:
            row = session.execute(query).one_or_none()
        if row is None:
            raise _unknown(rollout)
        return decisions_from_json(row[0], where=rollout)

    def revision(self, rollout: str) -> int:
        """The present revision, cheaply.

        Raises:
            NotFoundError: If there is no rollout of that id.
        """
        from sqlalchemy import select

        from edgekit.fleet.store.tables import RolloutRow

        query = select(RolloutRow.revision).where(RolloutRow.id == rollout)
        with self._database.read() as session:
            found = session.scalars(query).one_or_none()
        if found is None:
            raise _unknown(rollout)
        return found

    def save(self, rollout: str, state: RolloutState, *, revision: int) -> int:
        """Keep a new state in place of that of a revision.

        Returns:
            The new revision.

        Raises:
            NotFoundError: If there is no rollout of that id.
            StaleRevisionError: If that is not the present revision any more.
        """
        from sqlalchemy import select, update

        from edgekit.fleet.store.tables import RolloutRow

        # Of the old state, a megabyte for ten thousand devices, only the decisions matter.
        query = select(RolloutRow.revision, RolloutRow.state["decisions"])
        query = query.where(RolloutRow.id == rollout).with_for_update()
        with self._database.write() as session:
            row = session.execute(query).one_or_none()
            if row is None:
                raise _unknown(rollout)
            present, decided = row
            if present != revision:
                raise StaleRevisionError(
                    f"the rollout has changed meanwhile: revision {present}, not {revision}",
                    where=rollout,
                    fix="read it again, and decide anew",
                )
            session.execute(
                update(RolloutRow)
                .where(RolloutRow.id == rollout)
                .values(
                    revision=revision + 1,
                    status=state.phase.value,
                    approved_by=_approvers(state),
                    updated=self._clock().timestamp(),
                    state=state.to_json(),
                ),
                execution_options={"synchronize_session": False},
            )
            before = decisions_from_json(decided, where=rollout)
            for decision in new_decisions(before, state.decisions):
                detail = {"decision": decision.what, "reason": decision.reason}
                self._record(session, decision.who, "decided", rollout, detail)
        return revision + 1

    def _record(
        self, session: Session, actor: str, action: str, rollout: str, detail: dict[str, Any]
    ) -> None:
        record(
            session,
            actor=actor,
            action=f"rollout.{action}",
            subject=f"rollout {rollout}",
            detail=detail,
            clock=self._clock,
        )


def _require(session: Session, rollout: str, *, change: bool = False) -> RolloutRow:
    from edgekit.fleet.store.tables import RolloutRow

    row = session.get(RolloutRow, rollout, with_for_update=change)
    if row is None:
        raise _unknown(rollout)
    return row


def _approvers(state: RolloutState) -> str:
    return ", ".join(dict.fromkeys(state.approvals.values()))[:128]


def _unknown(rollout: str) -> NotFoundError:
    return NotFoundError(
        f"there is no rollout {rollout!r}", fix="see: edgekit fleet rollout status"
    )


def _stored(row: RolloutRow) -> StoredRollout:
    return StoredRollout(
        plan=plan_from_json(row.plan, where=row.id),
        state=state_from_json(row.state, where=row.id),
        revision=row.revision,
    )


def new_decisions(
    before: tuple[Decision, ...], after: tuple[Decision, ...]
) -> tuple[Decision, ...]:
    """The decisions that were added; of old ones the first may have been dropped meanwhile."""
    if not before:
        return after
    last = before[-1]
    known = [position for position, decision in enumerate(after) if decision == last]
    return after[known[-1] + 1 :] if known else after
