"""Wait for answers of devices; where no control plane runs, do its part of that meanwhile."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from edgekit.fleet.devices.requests import Asked, RequestBook
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.service.asking import Asking, open_asking
from edgekit.fleet.store.leases import LEASE_SECONDS, Lease
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database

_LOOK_SECONDS: Final = 0.25
_OPEN: Final = ("waiting", "sent")

Progress = Callable[[Sequence[Asked]], None]


def attend(
    fleet: Fleet,
    database: Database,
    asked: Sequence[Asked],
    *,
    broker: BrokerAddress | None,
    seconds: float,
    progress: Progress = lambda _asked: None,
    goes_on: Callable[[], bool] = lambda: True,
) -> tuple[Asked, ...]:
    """Wait until all of these are answered, or it is long enough; how they stand then.

    What is not answered stays open: the control plane goes on with it when the device comes.

    Args:
        fleet: Whose.
        database: Where the requests are.
        asked: Which.
        broker: Where the devices are; needed only where no control plane runs.
        seconds: How long to wait.
        progress: Told how they stand, again and again.
        goes_on: Whether to go on waiting; asked several times a second.

    Raises:
        UsageError: If no control plane runs and the broker is not known.
        EnvironmentLackError: If database or broker cannot be used.
    """
    book = RequestBook(database, actor="cli")
    lease = Lease(database, "service")
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        stack.callback(lease.give_back)
        asking: Asking | None = None
        taken = float("-inf")
        while True:
            now = time.monotonic()
            if now - taken >= LEASE_SECONDS / 4:
                taken = now
                # Who holds it sends and hears; it is ours for as long as we wait, no longer.
                if lease.take() and asking is None:
                    asking = stack.enter_context(_own(fleet, database, broker))
            if asking is not None:
                asking.turn(timeout_s=_LOOK_SECONDS)
            else:
                time.sleep(_LOOK_SECONDS)
            standing = book.look_again(asked)
            progress(standing)
            waits = any(item.standing(time.time()) in _OPEN for item in standing)
            if not waits or time.monotonic() >= deadline or not goes_on():
                return standing


def _own(
    fleet: Fleet, database: Database, broker: BrokerAddress | None
) -> contextlib.AbstractContextManager[Asking]:
    if broker is None:
        raise UsageError(
            "it is written down, and nothing is sent yet: no control plane runs, and the broker is "
            "not known",
            where=str(fleet.path),
            fix="run: edgekit fleet serve, which sends what waits; next time give --broker, or "
            "--wait 0",
        )
    name = f"edgekit-asking-{fleet.id}-{secrets.token_hex(4)}"
    return open_asking(fleet, database, broker, name=name, lasting=False)
