"""What a control plane measures by, whom it tells, and which alarms last: opened together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.store.database import Database
from edgekit.fleet.telemetry.alarm_limits import read_limits
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit.fleet.telemetry.messenger import Messenger
from edgekit.fleet.telemetry.notices import FILE as NOTICES
from edgekit.fleet.telemetry.notices import read_targets
from edgekit.fleet.telemetry.outbox import Outbox
from edgekit.fleet.telemetry.retraining import RetrainingCalls, read_retraining, with_samples
from edgekit.fleet.telemetry.watching import AlarmWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Open until the `with` statement of `open_desk` ends."""

    ledger: Ledger
    messenger: Messenger
    alarms: AlarmWatch


@contextlib.contextmanager
def open_desk(fleet: Fleet, database: Database, broker: BrokerAddress) -> Iterator[Desk]:
    """Open what a fleet's database and folder hold for it.

    Raises:
        UsageError: If `notices.toml` is invalid.
        EnvironmentLackError: If the database cannot be used.
        VerificationError: If what is kept is damaged.
    """
    ledger = Ledger(database)
    messenger = Messenger(
        read_targets(fleet.path / NOTICES),
        fleet=fleet.id,
        broker=broker,
        outbox=Outbox(database),
        refill=partial(with_samples, database),
    )
    with contextlib.closing(messenger):
        settings = read_retraining(fleet.path / NOTICES)
        calls = RetrainingCalls(database, settings, tell=messenger.tell)
        limits = read_limits(fleet.path / NOTICES)
        alarms = AlarmWatch(
            fleet.id, ledger, database, tell=messenger.tell, limits=limits, calls=calls
        )
        yield Desk(ledger=ledger, messenger=messenger, alarms=alarms)
