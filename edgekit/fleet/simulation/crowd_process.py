"""A crowd in a process of its own: what it takes of the processor is not the control plane's."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final

from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.simulation.behaviour import Behaviour, device_name
from edgekit.fleet.simulation.crowd import Crowd, CrowdFigures
from edgekit.fleet.simulation.fetching import FetchPlan
from edgekit_runtime.errors import EnvironmentLackError

_ANSWER_SECONDS: Final = 60.0
_START_SECONDS: Final = 600.0
_LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one device stands.

    Attributes:
        gone: Whether it has vanished.
        order_version: Of the order that it follows.
        active: Bundle to the version that it serves.
        settled: Bundle to whether nothing is on its way.
    """

    gone: bool
    order_version: int
    active: dict[str, str]
    settled: dict[str, bool]


class CrowdProcess:
    """As `Crowd`, elsewhere; use it in a `with` statement.

    Args:
        fleet: Whose devices they are.
        broker: Where it is.
        count: How many.
        behaviour: What they do.
        fetch: What they really fetch.
        speed: How many seconds pass for them in one of ours.
        goes_on: Asked while they connect, which takes minutes where they are many.
    """

    def __init__(
        self,
        fleet: Fleet,
        broker: BrokerAddress,
        *,
        count: int,
        behaviour: Behaviour,
        fetch: FetchPlan | None = None,
        speed: float = 1.0,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> None:
        self._goes_on = goes_on
        self.names = tuple(device_name(number) for number in range(count))
        self._speed = speed
        self._began = (time.time(), time.monotonic())
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, fleet, broker, count, behaviour, fetch, speed, self._began),
            daemon=True,
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> CrowdProcess:
        deadline = time.monotonic() + _START_SECONDS
        while not self._pipe.poll(_LOOK_SECONDS) and time.monotonic() < deadline:
            if not self._goes_on():
                # It does not listen before all are connected.
                self._process.kill()
                self.stop()
                raise KeyboardInterrupt
        self._answer(0.0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def now(self) -> float:
        """Seconds since 1970, for the devices."""
        wall, monotonic = self._began
        return wall + (time.monotonic() - monotonic) * self._speed

    def figures(self) -> CrowdFigures:
        """How the crowd is."""
        figures = self._ask("figures")
        assert isinstance(figures, CrowdFigures)  # noqa: S101 - of our own process
        return figures

    def outcomes(self) -> dict[str, Outcome]:
        """How every device stands."""
        outcomes = self._ask("outcomes")
        assert isinstance(outcomes, dict)  # noqa: S101 - of our own process
        return outcomes

    def stop(self) -> None:
        """Disconnect all devices."""
        with contextlib.suppress(OSError):
            self._pipe.send("stop")
        self._process.join(_ANSWER_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
        self._pipe.close()

    def _ask(self, what: str) -> object:
        self._pipe.send(what)
        return self._answer(_ANSWER_SECONDS)

    def _answer(self, seconds: float) -> object:
        try:
            answer = self._pipe.recv() if self._pipe.poll(seconds) else None
        except (EOFError, ConnectionResetError):
            answer = None
        if isinstance(answer, EnvironmentLackError):
            self.stop()
            raise answer
        if answer is None:
            raise EnvironmentLackError(
                "the simulated devices do not answer",
                fix="simulate fewer devices, or on a machine that is less busy",
            )
        return answer


def outcome_of(crowd: Crowd, name: str) -> Outcome:
    """How a device stands."""
    device = crowd.device(name)
    return Outcome(
        gone=device.gone,
        order_version=device.order_version,
        active={
            bundle: record.active.version if record.active else ""
            for bundle, record in device.records.items()
        },
        settled={bundle: record.candidate is None for bundle, record in device.records.items()},
    )


def _serve(
    pipe: Connection,
    fleet: Fleet,
    broker: BrokerAddress,
    count: int,
    behaviour: Behaviour,
    fetch: FetchPlan | None,
    speed: float,
    began: tuple[float, float],
) -> None:
    try:
        crowd = Crowd.of_fleet(
            fleet,
            broker,
            count=count,
            behaviour=behaviour,
            fetch=fetch,
            speed=speed,
            began=began,
        )
        crowd.start()
    except EnvironmentLackError as error:
        pipe.send(error)
        return
    with crowd:
        pipe.send("ready")
        _answer_all(pipe, crowd)


def _answer_all(pipe: Connection, crowd: Crowd) -> None:
    while True:
        try:
            question: Any = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            # Whoever asked is gone, or is about to tell us to stop.
            return
        if question == "figures":
            pipe.send(crowd.figures())
        elif question == "outcomes":
            pipe.send({name: outcome_of(crowd, name) for name in crowd.names})
        else:
            return
