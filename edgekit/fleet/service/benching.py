"""Have a device measure what it serves, wait for it, and put the prediction beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgekit.fleet.devices.benching import (
    Calibrated,
    Measured,
    board_profile,
    calibrate_device,
    check_profiles,
    held_version,
    measurements_of,
    predict_measured,
    read_measured,
)
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.requests import Asked, RequestBook
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.service.attending import attend
from edgekit_runtime.errors import EdgekitError, EnvironmentLackError
from edgekit_runtime.requests import RequestKind

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database
    from edgekit_benchmarks.predict import Prediction

_LEAST_SECONDS: Final = 60.0
_HOUR: Final = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBench:
    """What a device measured, and what that says.

    Attributes:
        measured: In the order that was asked for.
        predictions: For each of them, by profile; empty where no profile is known.
        calibrated: The private profile that was made; None for none.
        note: Why nothing could be predicted or calibrated; empty if it could.
    """

    measured: tuple[Measured, ...]
    predictions: tuple[tuple[Prediction, ...], ...]
    calibrated: Calibrated | None
    note: str


def bench_on_device(
    fleet: Fleet,
    database: Database,
    device: str,
    models: Sequence[str],
    *,
    profiles: Sequence[str],
    calibrate: bool,
    seconds: float,
    broker: BrokerAddress | None,
    actor: str,
    progress: Callable[[str], None],
) -> DeviceBench:
    """Ask, wait, predict, calibrate.

    Args:
        fleet: Whose device it is.
        database: Where requests are.
        device: Its id or pseudonym.
        models: Bundles that it holds, or files that they are made of.
        profiles: Of boards, the first of them what the device is; without any, the profile of the
            board that it says it is.
        calibrate: Whether to make a private profile of it.
        seconds: How long to wait for its answers.
        broker: Where it is; needed only where no control plane runs.
        actor: Who asks.
        progress: Told one plain sentence a step.

    Raises:
        UsageError: If there is no such device or profile, or it does not hold a model.
        EnvironmentLackError: If it does not answer in time.
        GateFailedError: If it could not measure.
    """
    check_profiles(profiles, calibrate=calibrate)
    found = Inventory(database, actor=actor).get(device)
    held = dict.fromkeys(held_version(fleet, found, model) for model in models)
    book = RequestBook(database, actor=actor)
    hours = max(seconds, _LEAST_SECONDS) / _HOUR
    asked = [
        book.ask(found.id, RequestKind.BENCH, {"bundle": bundle, "version": version}, hours=hours)
        for bundle, version in held
    ]
    names = ", ".join(f"{bundle} {version}" for bundle, version in held)
    progress(f"asked {found.id} to measure {names}")
    done = attend(fleet, database, asked, broker=broker, seconds=seconds)
    _require_answers(found.id, done, seconds)
    measured = tuple(read_measured(item, book.answer(found.id, item.number)) for item in done)
    board = board_profile(measured[0])
    boards = list(profiles) or ([board.name] if board else [])
    predictions: tuple[tuple[Prediction, ...], ...] = ((),) * len(measured)
    calibrated: Calibrated | None = None
    note = ""
    try:
        if boards:
            predictions = tuple(predict_measured(fleet, item, boards)[1] for item in measured)
        if boards and calibrate:
            kept = tuple(measurements_of(database, found.id))
            calibrated = calibrate_device(fleet, kept, base=boards[0])
    except EdgekitError as error:
        # What was measured is what was asked for.
        note = error.what if predictions[0] else f"nothing can be predicted: {error.what}"
    return DeviceBench(measured=measured, predictions=predictions, calibrated=calibrated, note=note)


def _require_answers(device: str, done: Sequence[Asked], seconds: float) -> None:
    waiting = [item for item in done if item.answered is None]
    if waiting:
        sent = waiting[0].sent is not None
        raise EnvironmentLackError(
            f"{device} did not answer within {seconds:g} seconds; "
            + ("it was asked" if sent else "it was not there to be asked"),
            where=f"request {waiting[0].number}",
            fix="see whether it is online (edgekit fleet devices show), and wait longer: --wait",
        )
