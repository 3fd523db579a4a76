"""Calls for retraining: one for a storm of alarms, and with it what devices have collected.

`[retraining]` in the fleet's `notices.toml` says how:

    [retraining]
    cooldown_hours = 24     # one call for a bundle within so long
    samples = 0             # how many each device that drifts is asked for; 0 for none
    wait_minutes = 30       # for their answers; the call then goes out with what came

What is waited for stands in the database: another replica goes on with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.devices.requests import RequestBook, samples_in
from edgekit.fleet.store.settings import read_setting, write_setting
from edgekit.fleet.telemetry.notices import Notice, open_settings, require_no_faults
from edgekit_runtime.errors import EdgekitError, EnvironmentLackError, UsageError
from edgekit_runtime.requests import RequestKind

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database

_log = logging.getLogger(__name__)

SETTING: Final = "retraining"
_MOST_SAMPLES: Final = 1_000
_MOST_BUNDLES: Final = 1_000
_MOST_WAITING: Final = 20
_MOST_DEVICES: Final = 50
#: Of all samples that go with one call.
MAX_SAMPLE_BYTES: Final = 64 << 20
_LOOK_SECONDS: Final = 5.0
_OPEN: Final = ("waiting", "sent")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingSettings:
    """How calls for retraining are made.

    Attributes:
        cooldown_seconds: One call for a bundle within so long.
        samples: How many each device that drifts is asked for; 0 for none.
        wait_seconds: For their answers.
    """

    cooldown_seconds: float = 24 * 3_600.0
    samples: int = 0
    wait_seconds: float = 30 * 60.0


def read_retraining(path: Path) -> RetrainingSettings:
    """The settings in a fleet's `notices.toml`; the usual ones where there are none.

    Raises:
        UsageError: If they are invalid; every fault is named.
    """
    reader = open_settings(path).nested("retraining", optional=True)
    for name in sorted(set(reader.names()) - {"cooldown_hours", "samples", "wait_minutes"}):
        reader.fault(name, "is unknown")
    settings = RetrainingSettings(
        cooldown_seconds=3_600 * reader.number("cooldown_hours", least=0, default=24.0),
        samples=reader.integer("samples", most=_MOST_SAMPLES, default=0),
        wait_seconds=60 * reader.number("wait_minutes", least=0, default=30.0),
    )
    require_no_faults(reader, "the settings of retraining are", path)
    return settings


class RetrainingCalls:
    """Takes calls for retraining, and tells of those that are due.

    Args:
        database: Of the fleet.
        settings: How calls are made.
        tell: Takes notices.
        clock: The time, for requests to devices.
    """

    def __init__(
        self,
        database: Database,
        settings: RetrainingSettings,
        *,
        tell: Callable[[Notice], None],
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._settings = settings
        self._tell = tell
        self._book = RequestBook(database, actor="retraining", clock=clock)
        self._looked = float("-inf")

    def take(self, notice: Notice, *, now: float) -> None:
        """Tell of a call, now or when the samples are there; or not, if there was one lately.

        Raises:
            EnvironmentLackError: If the database cannot be used.
        """
        state = _State.read(self._database)
        bundle = str(notice.data.get("bundle", ""))
        if now - state.called.get(bundle, float("-inf")) < self._settings.cooldown_seconds:
            _log.info("%s: there was a call for retraining lately", notice.text)
            return
        state.called[bundle] = now
        asked = self._ask(notice) if len(state.waiting) < _MOST_WAITING else []
        if asked:
            until = now + self._settings.wait_seconds
            state.waiting.append({"until": until, "asked": asked, "notice": notice.to_document()})
            state.write(self._database)
            return
        # Before it is told: after a crash in between nobody is told, rather than twice.
        state.write(self._database)
        self._tell(notice)

    def turn(self, now: float) -> None:
        """Tell of what was waited for, if it came or its time is over.

        Raises:
            EnvironmentLackError: If the database cannot be used.
        """
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        state = _State.read(self._database)
        due = [w for w in state.waiting if now >= w["until"] or self._is_answered(w, now)]
        for waiting in due:
            # One after the other: each may hold many samples.
            notice = _filled(self._book, Notice.of_document(waiting["notice"]), waiting["asked"])
            state.waiting.remove(waiting)
            state.write(self._database)
            self._tell(notice)

    def _ask(self, notice: Notice) -> list[list[Any]]:
        """Ask the devices that drift; device and number of each request."""
        devices = notice.data.get("devices", [])
        if not self._settings.samples or not isinstance(devices, list):
            return []
        hours = max(self._settings.wait_seconds, 60.0) / 3_600
        asked = []
        for device in devices[:_MOST_DEVICES]:
            try:
                item = self._book.ask(
                    str(device), RequestKind.SAMPLES, {"most": self._settings.samples}, hours=hours
                )
            except UsageError as error:
                # One that is gone, or has too much to do.
                _log.info("%s is not asked for samples: %s", device, error)
                continue
            asked.append([item.device, item.number])
        return asked

    def _is_answered(self, waiting: Mapping[str, Any], now: float) -> bool:
        return all(
            standing is None or standing not in _OPEN
            for standing in (self._standing(*pair, now=now) for pair in waiting["asked"])
        )

    def _standing(self, device: str, number: int, *, now: float) -> str | None:
        try:
            return self._book.get(device, number).standing(now)
        except UsageError:
            # The device was deleted meanwhile, and its answers with it.
            return None


def with_samples(database: Database, notice: Notice) -> Notice:
    """A call with the samples that go with it, from the answers of devices; others as they are.

    Raises:
        EnvironmentLackError: If the database cannot be used.
    """
    collected = notice.data.get("collected")
    if not isinstance(collected, list):
        return notice
    book = RequestBook(database, actor="retraining")
    return _filled(book, notice, [(item["device"], item["request"]) for item in collected])


def _filled(book: RequestBook, notice: Notice, asked: Iterable[Sequence[Any]]) -> Notice:
    mark = f"-{notice.data.get('bundle')}-{notice.data.get('version')}-"
    files: dict[str, bytes] = {}
    size = 0
    collected = []
    for device, number in asked:
        try:
            found = samples_in(book.answer(device, number))
        except EnvironmentLackError:
            raise
        except EdgekitError:
            continue
        # The ring of a device holds samples of all its models.
        wanted = {name: data for name, data in sorted(found.items()) if mark in name}
        taken = 0
        for name, data in wanted.items():
            if size + len(data) > MAX_SAMPLE_BYTES:
                break
            size += len(data)
            files[f"{device}/{name}"] = data
            taken += 1
        collected.append({"device": device, "request": number, "samples": taken})
    return replace(notice, data=dict(notice.data) | {"collected": collected}, files=files)


@dataclass(slots=True, kw_only=True)
class _State:
    """What stands in the database.

    Attributes:
        called: When a call went out, by bundle.
        waiting: Calls that wait for samples.
    """

    called: dict[str, float]
    waiting: list[dict[str, Any]]

    @classmethod
    def read(cls, database: Database) -> _State:
        document = read_setting(database, SETTING, {})
        return cls(
            called=dict(document.get("called", {})), waiting=list(document.get("waiting", []))
        )

    def write(self, database: Database) -> None:
        newest = sorted(self.called.items(), key=lambda item: -item[1])[:_MOST_BUNDLES]
        write_setting(database, SETTING, {"called": dict(newest), "waiting": self.waiting})
