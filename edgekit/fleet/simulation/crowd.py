"""Thousands of simulated devices on one event loop, each with its own connection to a broker."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.connection import connected_to
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.simulation.behaviour import Behaviour, device_name
from edgekit.fleet.simulation.client import KEEPALIVE_SECONDS
from edgekit.fleet.simulation.device import SimulatedDevice
from edgekit.fleet.simulation.fetching import Fetches, FetchPlan, Shelf
from edgekit.fleet.simulation.member import RECONNECT_SECONDS, Door, Member
from edgekit_runtime.errors import EnvironmentLackError, VerificationError
from edgekit_runtime.extras import require
from edgekit_runtime.protocol import Topics

if TYPE_CHECKING:
    from edgekit.fleet.simulation.orders import OrderVerifier

_TICK_SECONDS: Final = 0.1
_OPENING_AT_ONCE: Final = 200
# A busy machine lets few in: an idle one some thousand.
_START_SECONDS: Final = 60.0
_STARTS_PER_SECOND: Final = 25
# Sockets of our own, and what else a process has open.
_SPARE_FILES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdFigures:
    """How a crowd is at one moment.

    Attributes:
        devices: All of them.
        connected: Those the broker has let in.
        vanished: Those that went away for good.
        orders: Orders that were verified and followed.
        requests: Requests that were proven and followed.
        refused: Messages that did not prove what they claim.
        chunks: Chunks that were fetched and had the right hash.
        chunk_bytes: Of them all, on the wire.
        phases: Bundle and version as it is served, with its phase, to how many devices.
    """

    devices: int
    connected: int
    vanished: int
    orders: int
    requests: int
    refused: int
    chunks: int
    chunk_bytes: int
    phases: dict[str, int]


class Crowd:
    """Devices that live from `start` to `stop`; use it in a `with` statement.

    Args:
        topics: Of the fleet.
        broker: Where it is.
        image_root: The image repository's first `root.json`.
        director_root: The director's.
        count: How many devices.
        behaviour: What they do.
        fetch: What they really fetch of each version that they are told of.
        speed: How many seconds pass for them in one of ours.
        began: When their time began, by `time.time` and `time.monotonic`; now by default.
    """

    def __init__(
        self,
        topics: Topics,
        broker: BrokerAddress,
        *,
        image_root: bytes,
        director_root: bytes,
        count: int,
        behaviour: Behaviour,
        fetch: FetchPlan | None = None,
        speed: float = 1.0,
        began: tuple[float, float] | None = None,
    ) -> None:
        require("tuf", extra="fleet")
        from edgekit.fleet.simulation.orders import OrderVerifier

        _require_files(count)
        self.topics = topics
        self._broker = broker
        self._door = Door.of(broker)
        self._speed = speed
        self._began = began or (time.time(), time.monotonic())
        self._verifier: OrderVerifier = OrderVerifier(image_root, director_root)
        shelf, plan = Shelf(), fetch or FetchPlan()
        names = [device_name(number) for number in range(count)]
        self._members = {
            name: Member(
                SimulatedDevice(
                    name,
                    topics=topics,
                    behaviour=behaviour,
                    waits_for_chunks=plan.of(number) is Fetches.EVERYTHING,
                ),
                crowd=self,
                shelf=shelf,
                fetches=plan.of(number),
            )
            for number, name in enumerate(names)
        }
        self._queue: list[tuple[float, str]] = []
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.orders = self.requests = self.refused = self.chunks = self.chunk_bytes = 0

    @classmethod
    def of_fleet(
        cls, fleet: Fleet, broker: BrokerAddress, *, count: int, behaviour: Behaviour, **more: Any
    ) -> Crowd:
        """Devices that trust the roots of a fleet's folder."""
        return cls(
            Topics(fleet.id),
            broker,
            image_root=_first_root(fleet.image_metadata),
            director_root=_first_root(fleet.director_metadata),
            count=count,
            behaviour=behaviour,
            **more,
        )

    def __enter__(self) -> Crowd:
        if self._thread is None:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def names(self) -> tuple[str, ...]:
        """The ids of the devices."""
        return tuple(self._members)

    @property
    def now(self) -> float:
        """Seconds since 1970, for the devices."""
        wall, monotonic = self._began
        return wall + (time.monotonic() - monotonic) * self._speed

    def device(self, name: str) -> SimulatedDevice:
        """One of the devices, as it is now; not to be changed."""
        return self._members[name].device

    def figures(self) -> CrowdFigures:
        """How the crowd is."""
        phases: Counter[str] = Counter()
        for member in list(self._members.values()):
            for bundle, record in list(member.device.records.items()):
                serving = record.serving
                version = serving.version if serving else "none"
                phases[f"{bundle} {version} ({record.phase.value})"] += 1
        members = self._members.values()
        return CrowdFigures(
            devices=len(members),
            connected=sum(member.ready for member in members),
            vanished=sum(member.device.gone for member in members),
            orders=self.orders,
            requests=self.requests,
            refused=self.refused,
            chunks=self.chunks,
            chunk_bytes=self.chunk_bytes,
            phases=dict(sorted(phases.items())),
        )

    def start(self) -> None:
        """Connect all devices, and return when the broker has let them in.

        Raises:
            EnvironmentLackError: If it does not in a time that suffices on a busy machine.
        """
        if self._broker.security is not None:
            # Devices try again and again, and do not say what is wrong: find out first.
            with connected_to(self._broker):
                pass
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS + len(self._members) / _STARTS_PER_SECOND
        while not all(member.ready for member in self._members.values()):
            if self._failure is not None or time.monotonic() > deadline:
                ready = sum(member.ready for member in self._members.values())
                self.stop()
                raise EnvironmentLackError(
                    f"only {ready} of {len(self._members)} devices could connect"
                    + (f": {self._failure}" if self._failure else ""),
                    where=str(self._broker),
                    fix="see the broker's log: it may allow fewer connections or open files",
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Disconnect all devices; their last states say that they are offline."""
        if self._thread is not None and self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._thread = None

    def leave(self, name: str) -> None:
        """Let one device vanish."""
        self._on_loop(self._members[name].vanish)

    def schedule(self, member: Member) -> None:
        """Remember when something happens to a device by itself."""
        due = member.device.due
        if due is not None and (member.scheduled is None or due < member.scheduled):
            member.scheduled = due
            heapq.heappush(self._queue, (due, member.device.name))

    def take(self, member: Member, topic: str, payload: bytes) -> None:
        """Do what a message says."""
        now = self.now
        try:
            if topic == self.topics.metadata:
                # All devices get the same: the first takes it for all.
                self._verifier.take_images(payload)
                if member.order is not None:
                    self._follow(member, now)
            elif topic == self.topics.order(member.device.name):
                member.order = payload
                self._follow(member, now)
            elif topic == self.topics.requests(member.device.name):
                self._ask(member, payload, now)
            elif topic.startswith(self.topics.chunk("")):
                complete = member.take_chunk(topic.rpartition("/")[2], payload)
                self.chunks += 1
                self.chunk_bytes += len(payload)
                if complete is not None:
                    member.device.fetched(complete, now)
                    self.schedule(member)
        except VerificationError:
            self.refused += 1

    def _follow(self, member: Member, now: float) -> None:
        if member.order is None or not self._verifier.has_images:
            return
        order, member.order = member.order, None
        try:
            version, targets = self._verifier.verify(member.device.name, order)
        except VerificationError:
            # The metadata of a new release may come after the order that names it.
            member.order = order
            raise
        if version > member.device.order_version:
            self.orders += 1
            member.say(member.device.follow(version, targets, now))
            member.fetch(targets)
            self.schedule(member)

    def _ask(self, member: Member, payload: bytes, now: float) -> None:
        device = member.device
        try:
            request = self._verifier.prove(device.name, payload, last=device.last_request, now=now)
        except VerificationError as error:
            member.say(device.refuse(str(error), now))
            raise
        self.requests += 1
        member.say(device.ask(request, now))
        self.schedule(member)

    def _on_loop(self, call: Callable[[], None]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(call)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except OSError as error:
            self._failure = error

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        limit = asyncio.Semaphore(_OPENING_AT_ONCE)
        opening = [
            asyncio.create_task(member.open(self._door, limit)) for member in self._members.values()
        ]
        ticking = asyncio.create_task(self._tick())
        await self._stopping.wait()
        tasks = [*opening, ticking, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in self._members.values():
            member.say_goodbye(self.now)
        await asyncio.sleep(0.2)
        for member in self._members.values():
            member.close()
        await asyncio.sleep(0.05)

    async def _tick(self) -> None:
        pinged = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = self.now
            while self._queue and self._queue[0][0] <= now:
                _, name = heapq.heappop(self._queue)
                member = self._members[name]
                member.scheduled = None
                member.say(member.device.tick(now))
                self.schedule(member)
            if time.monotonic() - pinged > KEEPALIVE_SECONDS / 3:
                pinged = time.monotonic()
                for member in self._members.values():
                    member.ping()

    def reopen(self, member: Member) -> None:
        """Connect a device again, after a while."""
        if self._loop is None or self._stopping is None or self._stopping.is_set():
            return
        task = self._loop.create_task(self._reopen(member))
        # The loop holds tasks weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reopen(self, member: Member) -> None:
        await asyncio.sleep(RECONNECT_SECONDS)
        await member.open(self._door, asyncio.Semaphore(1))


def _first_root(folder: Path) -> bytes:
    return (folder / "1.root.json").read_bytes()


def _require_files(count: int) -> None:
    with contextlib.suppress(ImportError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = count + _SPARE_FILES
        if soft < needed <= hard or (soft < needed and hard == resource.RLIM_INFINITY):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        elif soft < needed:
            raise EnvironmentLackError(
                f"{count} devices need {needed} open files, and {hard} are allowed",
                fix="raise the limit (ulimit -n), or simulate fewer devices",
            )
