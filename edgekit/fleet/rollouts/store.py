"""How rollouts are kept: what a runner needs of whoever keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgekit.fleet.rollouts.plan import RolloutPlan
from edgekit.fleet.rollouts.state import RolloutState
from edgekit_runtime.errors import EnvironmentLackError


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRollout:
    """A rollout as it was read.

    Attributes:
        plan: Never changes.
        state: At that revision.
        revision: Grows with every change of the state.
    """

    plan: RolloutPlan
    state: RolloutState
    revision: int


class StaleRevisionError(EnvironmentLackError):
    """Somebody else has changed the rollout since it was read: read it again and decide anew."""


class RolloutStore(Protocol):
    """Keeps rollouts; every change is whole and durable when the call returns."""

    def names(self) -> tuple[str, ...]:
        """The ids of all rollouts."""
        ...

    def create(self, plan: RolloutPlan) -> None:
        """Keep a new rollout; the same plan again changes nothing.

        Raises:
            UsageError: If the plan is invalid, or there is another rollout of that id.
        """
        ...

    def load(self, rollout: str) -> StoredRollout:
        """A rollout.

        Raises:
            UsageError: If there is none of that id.
            VerificationError: If what is kept is damaged.
        """
        ...

    def revision(self, rollout: str) -> int:
        """The present revision, cheaply: to see whether something has changed."""
        ...

    def save(self, rollout: str, state: RolloutState, *, revision: int) -> int:
        """Keep a new state in place of that of a revision.

        Returns:
            The new revision.

        Raises:
            StaleRevisionError: If that is not the present revision any more.
        """
        ...
