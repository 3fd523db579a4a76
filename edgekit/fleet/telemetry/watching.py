"""Look at what was measured now and then, keep which alarms last, and tell of those that change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edgekit.fleet.store.database import Database
from edgekit.fleet.store.settings import read_setting, write_setting
from edgekit.fleet.telemetry.alarm_limits import DEVICE_LIMITS, FLEET_LIMITS
from edgekit.fleet.telemetry.alarms import Alarm, follow_alarms, watch_version
from edgekit.fleet.telemetry.health import Harm, Limits
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit.fleet.telemetry.notices import RETRAIN, Notice, alarm_notices
from edgekit.fleet.telemetry.retraining import RetrainingCalls
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.fields import FieldReader

_LOOK_SECONDS: Final = 60.0
_WINDOW_SECONDS: Final = 3_600.0
SETTING: Final = "alarms"


class AlarmWatch:
    """Alarms of a fleet; which of them last is kept, so that another replica rings no bell again.

    Args:
        fleet: Its id.
        ledger: What was measured.
        database: Where lasting alarms are kept.
        tell: Takes notices.
        limits: For all devices of a version together.
        device_limits: For each alone.
        calls: Takes calls for retraining; None to tell of each at once.
    """

    def __init__(
        self,
        fleet: str,
        ledger: Ledger,
        database: Database,
        *,
        tell: Callable[[Notice], None],
        limits: Limits = FLEET_LIMITS,
        device_limits: Limits = DEVICE_LIMITS,
        calls: RetrainingCalls | None = None,
    ) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._database = database
        self._tell = tell
        self._calls = calls
        self._limits, self._device_limits = limits, device_limits
        self._alarms = {alarm.key: alarm for alarm in _read(database)}
        self._looked = 0.0

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Those that last, the oldest first."""
        return tuple(sorted(self._alarms.values(), key=lambda alarm: (alarm.began, alarm.key)))

    def turn(self, now: float) -> None:
        """Look, if it is time to."""
        if self._calls is not None:
            self._calls.turn(now)
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        since = now - _WINDOW_SECONDS
        found: list[Alarm] = []
        for bundle, version in self._ledger.versions(since=since):
            health = self._ledger.fleet_health(bundle, version, since=since)
            found += watch_version(
                bundle, version, health, self._limits, device_limits=self._device_limits
            )
        watched = follow_alarms(self._alarms, tuple(found), now=now)
        if watched.alarms != self._alarms:
            self._alarms = dict(watched.alarms)
            document = [alarm.to_json() for alarm in self.alarms]
            write_setting(self._database, SETTING, document)
        for change, alarm in watched.changes:
            for notice in alarm_notices(self._fleet, change, alarm):
                if notice.kind == RETRAIN and self._calls is not None:
                    self._calls.take(notice, now=now)
                else:
                    self._tell(notice)


def _read(database: Database) -> tuple[Alarm, ...]:
    reader = FieldReader({"alarms": read_setting(database, SETTING, [])})
    alarms = reader.items("alarms", _read_alarm)
    if reader.faults:
        raise VerificationError(
            "the list of alarms is damaged: " + "; ".join(reader.faults[:10]),
            where=f"{database.where}, setting {SETTING!r}",
            fix="delete the setting: alarms that last begin anew",
        )
    return alarms


def _read_alarm(reader: FieldReader) -> Alarm:
    kind = reader.text("kind", pattern="|".join(Harm))
    features = reader.nested("features")
    return Alarm(
        kind=Harm(kind) if kind in set(Harm) else Harm.ERRORS,
        bundle=reader.text("bundle"),
        version=reader.text("version"),
        device=reader.text("device"),
        text=reader.text("text"),
        features={name: features.number(name) for name in features.names()},
        devices=reader.texts("devices"),
        began=reader.number("began"),
        seen=reader.number("seen"),
    )
