"""Where rollouts are kept: an interface that a database can meet too, and a folder that does."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from edgekit.fleet.rollouts.plan import RolloutPlan, check_plan, plan_from_json
from edgekit.fleet.rollouts.state import RolloutState, state_from_json
from edgekit_runtime.durable import unwritable, write_bytes
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from edgekit_runtime.protocol import ID_PATTERN

_PLAN: Final = "plan.json"
_STATE: Final = "state.json"
_FIRST: Final = 1


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


class RolloutFolder:
    """Rollouts as files: a folder for each, with its plan and its state.

    Args:
        folder: Made when the first rollout is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> tuple[str, ...]:
        """The ids of all rollouts."""
        return tuple(
            sorted(
                place.parent.name
                for place in self._folder.glob(f"*/{_PLAN}")
                if re.fullmatch(ID_PATTERN, place.parent.name)
            )
        )

    def create(self, plan: RolloutPlan) -> None:
        """Keep a new rollout; see `RolloutStore.create`."""
        check_plan(plan)
        place = self._folder / plan.id
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(place, error) from error
        with self._locked(plan.id, ".lock"):
            if (place / _PLAN).exists():
                if self.load(plan.id).plan == plan:
                    return
                raise UsageError(
                    f"there is a rollout {plan.id!r} already, with another plan",
                    where=str(place),
                    fix="choose another id",
                )
            write_bytes(place / _PLAN, json.dumps(plan.to_json(), indent=1).encode() + b"\n")

    def load(self, rollout: str) -> StoredRollout:
        """A rollout; see `RolloutStore.load`."""
        place = self._place(rollout)
        plan = plan_from_json(_read_json(place / _PLAN), where=str(place / _PLAN))
        try:
            data = (place / _STATE).read_bytes()
        except FileNotFoundError:
            return StoredRollout(plan=plan, state=RolloutState(), revision=_FIRST)
        head, _, body = data.partition(b"\n")
        state = state_from_json(_parse(body, place / _STATE), where=str(place / _STATE))
        return StoredRollout(plan=plan, state=state, revision=_revision(head, place / _STATE))

    def revision(self, rollout: str) -> int:
        """The present revision."""
        place = self._place(rollout) / _STATE
        try:
            with place.open("rb") as file:
                return _revision(file.readline(64), place)
        except FileNotFoundError:
            return _FIRST

    def save(self, rollout: str, state: RolloutState, *, revision: int) -> int:
        """Keep a new state; see `RolloutStore.save`."""
        place = self._place(rollout)
        with self._locked(rollout, ".lock"):
            present = self.revision(rollout)
            if present != revision:
                raise StaleRevisionError(
                    f"the rollout has changed meanwhile: revision {present}, not {revision}",
                    where=rollout,
                    fix="read it again, and decide anew",
                )
            # The revision stands alone in the first line: it is read much more often.
            body = json.dumps(state.to_json(), separators=(",", ":")).encode()
            write_bytes(place / _STATE, b"%d\n%s\n" % (revision + 1, body))
        return revision + 1

    @contextlib.contextmanager
    def driving(self, rollout: str) -> Iterator[None]:
        """Be the only process on this machine that drives a rollout meanwhile.

        Raises:
            EnvironmentLackError: If another one does.
        """
        with self._locked(rollout, ".driver", wait=False):
            yield

    def _place(self, rollout: str) -> Path:
        place = self._folder / rollout
        if not re.fullmatch(ID_PATTERN, rollout) or not (place / _PLAN).is_file():
            names = self.names()
            raise UsageError(
                f"there is no rollout {rollout!r}",
                where=str(self._folder),
                fix=f"there are: {', '.join(names)}" if names else "make one: rollout start",
            )
        return place

    @contextlib.contextmanager
    def _locked(self, rollout: str, name: str, *, wait: bool = True) -> Iterator[None]:
        path = self._folder / rollout / name
        try:
            file = path.open("ab")
        except OSError as error:
            raise unwritable(path, error) from error
        with file:
            try:
                _lock(file, wait=wait)
            except OSError as error:
                raise EnvironmentLackError(
                    "another process is driving this rollout",
                    where=rollout,
                    fix="let it; or end it first",
                ) from error
            yield


def _read_json(path: Path) -> object:
    try:
        return _parse(path.read_bytes(), path)
    except OSError as error:
        raise VerificationError(
            f"it cannot be read: {error.strerror or error}",
            where=str(path),
            fix="take it from a backup",
        ) from error


def _parse(data: bytes, path: Path) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise VerificationError(
            f"it is no JSON: {error}", where=str(path), fix="take it from a backup"
        ) from error


def _revision(head: bytes, path: Path) -> int:
    text = head.strip()
    if not text.isdigit():
        raise VerificationError(
            "its first line is no revision", where=str(path), fix="take it from a backup"
        )
    return int(text)


def _lock(file: IO[bytes], *, wait: bool) -> None:
    # The system lets go of either lock when the process ends, however it ends.
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
