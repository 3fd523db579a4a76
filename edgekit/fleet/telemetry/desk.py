"""What a control plane measures by, whom it tells, and which alarms last: opened together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit.fleet.telemetry.notices import FILE as NOTICES
from edgekit.fleet.telemetry.notices import Messenger, read_targets
from edgekit.fleet.telemetry.watching import AlarmWatch

LEDGER: Final = "telemetry.db"
_ALARMS: Final = "alarms.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Open until the `with` statement of `open_desk` ends."""

    ledger: Ledger
    messenger: Messenger
    alarms: AlarmWatch


def open_ledger(fleet: Fleet) -> Ledger:
    """What the devices of a fleet have measured."""
    return Ledger(fleet.path / LEDGER)


@contextlib.contextmanager
def open_desk(fleet: Fleet, broker: BrokerAddress) -> Iterator[Desk]:
    """Open what lies in a fleet's folder for it.

    Raises:
        UsageError: If `notices.toml` is invalid.
        EnvironmentLackError: If a file cannot be opened.
        VerificationError: If what is kept is damaged.
    """
    with contextlib.closing(open_ledger(fleet)) as ledger:
        targets = read_targets(fleet.path / NOTICES)
        with contextlib.closing(Messenger(targets, fleet=fleet.id, broker=broker)) as messenger:
            alarms = AlarmWatch(fleet.id, ledger, fleet.path / _ALARMS, tell=messenger.tell)
            yield Desk(ledger=ledger, messenger=messenger, alarms=alarms)
