"""The supervisor: one loop, one queue, and the adapters around the state machine.

It loads no inference engine and no numpy: a crash of a model is a crash of another process.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import IO, TYPE_CHECKING, Final

from edgekit_agent.chunks import ChunkStore
from edgekit_agent.config import AgentConfig
from edgekit_agent.conversion import StorageConverted, convert_storage
from edgekit_agent.doors import Died, Doors, Opened, ServerEnded, ServerSaid
from edgekit_agent.downloads import Downloads, FetchDone
from edgekit_agent.hardware import detect_hardware
from edgekit_agent.inbox import Inbox, VerifyDone
from edgekit_agent.installation import InstallerProcess
from edgekit_agent.jobs import JobThread
from edgekit_agent.logs import RecentLines
from edgekit_agent.memory import resident_bytes
from edgekit_agent.proofs import TrialDone
from edgekit_agent.release import AGENT_VERSION
from edgekit_agent.requests.desk import Desk, RenewalKnown, ReplyReady, RequestProven
from edgekit_agent.requests.following import RequestFollower
from edgekit_agent.samples import SampleRing, forget_samples
from edgekit_agent.settings import samples_folder
from edgekit_agent.slots import SlotStore
from edgekit_agent.state import Target
from edgekit_agent.status import AgentStatus, write_status
from edgekit_agent.telemetry.recorder import DriftChange
from edgekit_agent.telemetry.reporting import Reporting
from edgekit_agent.transports.arrivals import (
    Arrival,
    ChunkCame,
    ChunkLacking,
    Connected,
    Disconnected,
    MetadataCame,
    OrderCame,
    ReportKind,
    ReportTaken,
    ReportTooLarge,
    ReportUnheard,
    RequestCame,
    Transport,
)
from edgekit_agent.updates import Updates
from edgekit_agent.verification import VerifierProcess
from edgekit_agent.watchdog import ServiceManager
from edgekit_runtime.durable import unwritable
from edgekit_runtime.errors import EdgekitError, EnvironmentLackError
from edgekit_runtime.files import require_file
from edgekit_runtime.reports import BundleState, DeviceEvent, DeviceState
from edgekit_runtime.sealing.vault import Vault

if TYPE_CHECKING:
    from edgekit_agent.shadow.watchers import Watchers
    from edgekit_agent.streams import ModelStream

_log = logging.getLogger(__name__)

_BUSY_SECONDS: Final = 0.1
_IDLE_SECONDS: Final = 5.0
# So often it is looked whether what runs beside may go on.
_SHADOW_SECONDS: Final = 1.0
_STATUS_SECONDS: Final = 10.0
_STATUS_BUSY_SECONDS: Final = 1.0
_GOODBYE_SECONDS: Final = 10.0
# What the network has sent and is not handled yet; it then waits in the kernel, at the broker.
_MAX_ARRIVALS: Final = 128
# Of the log, what a request can ask for.
_RECENT_LINES: Final = 1000


@dataclass(frozen=True, slots=True)
class Woken:
    """Another thread has found out something that is looked at on every turn."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The agent was told to end."""


Message = (
    Arrival
    | ServerSaid
    | ServerEnded
    | FetchDone
    | VerifyDone
    | TrialDone
    | RequestProven
    | RenewalKnown
    | ReplyReady
    | StorageConverted
    | Woken
    | Stop
)
TransportFactory = Callable[[AgentConfig, bytes, Callable[[Arrival], None]], Transport]


class Supervisor:
    """One agent; `run` holds it until it is told to stop."""

    def __init__(self, config: AgentConfig, *, transport: TransportFactory) -> None:
        """Open the listening socket and read what is on the disk.

        Args:
            config: What the agent is told.
            transport: Makes the transport, from the configuration, the last will, and where
                arrivals go.

        Raises:
            UsageError: If a root of trust is missing.
            EnvironmentLackError: If the data folder cannot be written or is used by another
                agent, or the port is in use.
        """
        self._config = config
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._stopping = threading.Event()
        for path in (config.image_root, config.director_root):
            require_file(path, kind="a root of trust (root.json)")
        self._lock_file = _lock_data(config)
        try:
            self._doors = Doors(
                host=config.http_host,
                port=config.http_port,
                socket_path=config.http_socket,
                queue_requests=config.limits.queue_requests,
                request_bytes=config.limits.request_bytes,
                ram_bytes=config.limits.ram_bytes,
                data=config.data,
                samples=config.samples,
                encryption=config.encryption,
                post=self._queue.put,
            )
        except BaseException:
            self._lock_file.close()
            raise
        self._hardware = detect_hardware()
        self._jobs = JobThread("files")
        vault = Vault(config.data, config.encryption)
        chunks = ChunkStore(config.data / "chunks", vault)
        slots = SlotStore(config.data / "slots", vault)
        samples = SampleRing(
            samples_folder(config.data), most_bytes=config.samples.ring_bytes, vault=vault
        )
        self._convert = partial(convert_storage, slots=slots, chunks=chunks, samples=samples)
        self._updates = Updates(
            journal_file=config.data / "journal.json",
            slots=slots,
            chunks=chunks,
            hardware=self._hardware,
            inference_threads=config.limits.inference_threads,
            jobs=self._jobs,
            wall_clock=self._wall_clock,
            publish=self._publish_event,
            post=self._queue.put,
            device=config.device,
            data=config.data,
            encryption=config.encryption,
        )
        will = DeviceState(device=config.device, online=False, agent=AGENT_VERSION)
        self._transport = transport(config, will.to_json(), self._post_arrival)
        self._reporting = Reporting(
            config.data,
            device=config.device,
            window_seconds=config.telemetry.window_seconds,
            store_bytes=config.telemetry.store_bytes,
            wall_clock=self._wall_clock,
            send=self._transport.publish_report,
            vault=vault,
        )
        self._updates.downloads = Downloads(
            fetcher=InstallerProcess(
                config.data,
                encryption=config.encryption,
                hardware=self._hardware,
                store_bytes=config.limits.chunk_store_bytes,
            ),
            chunks=chunks,
            transport=self._transport,
            jobs=self._jobs,
            limits=config.limits,
            post=self._queue.put,
            refuse=self._refuse_chunk,
            wait=self._tell_waiting,
        )
        self._inbox = Inbox(
            verifier=VerifierProcess(
                config.data / "trusted",
                device=config.device,
                image_root=config.image_root,
                director_root=config.director_root,
            ),
            jobs=self._jobs,
            clock=self._wall_clock,
            post=self._queue.put,
        )
        self._recent = RecentLines(_RECENT_LINES)
        logging.getLogger("edgekit_agent").addHandler(self._recent)
        self._desk = Desk(
            config,
            wall_clock=self._wall_clock,
            post=self._queue.put,
            send=lambda key, message: self._transport.publish_report(
                ReportKind.REPLIES, key, message
            ),
            logs=self._recent.last,
        )
        self._follower = RequestFollower(
            desk=self._desk,
            updates=self._updates,
            doors=self._doors,
            stop=self.stop,
            stopping=self._stopping,
        )
        self._service = ServiceManager()
        self._streams: list[ModelStream] = []
        self._watchers: Watchers | None = None
        self._connected = False
        self._connection = "not connected yet"
        self._published: DeviceState | None = None
        self._status_time = 0.0
        self._status_key: object = None

    def stop(self) -> None:
        """Make `run` return; may be called from a signal handler or another thread."""
        self._queue.put(Stop())

    def run(self) -> None:
        """Serve and update until `stop`."""
        now = time.monotonic()
        if not self._config.samples.allow:
            forget_samples(samples_folder(self._config.data))
        self._updates.load(events_before=self._reporting.last_event)
        if self._reporting.was_damaged:
            self._updates.tell("telemetry.lost", detail="the store was damaged and is begun anew")
        self._updates.start(now)
        self._bring_storage_in_form()
        self._transport.start()
        if self._config.streams:
            # Loads paho, which an agent without streams and broker has no use for.
            from edgekit_agent.streams import start_streams

            self._streams = start_streams(
                self._config.streams,
                address=self._doors.address,
                tell=lambda text: self._updates.tell("stream.failed", detail=text),
                request_bytes=self._config.limits.request_bytes,
            )
        self._desk.start()
        self._settle(now)
        self._service.ready()
        try:
            while True:
                try:
                    message = self._queue.get(timeout=self._patience())
                except queue.Empty:
                    pass
                else:
                    if isinstance(message, Stop):
                        return
                    self._handle(message, time.monotonic())
                self._settle(time.monotonic())
        finally:
            self._close()

    def install_signal_handlers(self) -> None:
        """End on SIGTERM and SIGINT; for the main thread of a process."""

        def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            # A SimpleQueue may be put to from a signal handler; other queues may not.
            self.stop()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)

    def _handle(self, message: Message, now: float) -> None:  # noqa: PLR0912 - one a kind
        match message:
            case ServerSaid() | ServerEnded():
                match self._doors.handle(message, now):
                    case Opened(models=models):
                        self._updates.on_opened(models, now)
                    case Died() as died:
                        _log.warning("the server ended: %s", died.reason)
                        self._updates.on_died(died, now)
            case ChunkCame():
                for bundle, unusable in self._updates.downloads.on_chunk(message, now):
                    self._updates.apply(bundle, unusable, now)
            case FetchDone():
                event = self._updates.downloads.handle(message, now)
                if event is not None:
                    self._updates.apply(message.target.bundle, event, now)
            case TrialDone():
                self._updates.proofs.on_done(message, now)
            case VerifyDone():
                result = self._inbox.handle(message)
                if isinstance(result, EdgekitError):
                    self._updates.refuse(result.what, now)
                else:
                    self._updates.follow(result, now)
            case MetadataCame(data=data, source=source):
                self._inbox.on_metadata(data, source)
            case OrderCame(data=data, source=source):
                self._inbox.on_order(data, source)
            case Connected(source=source):
                self._connected, self._connection = True, ""
                self._published = None
                self._inbox.clear(source)
                self._updates.downloads.on_connected(now)
                self._reporting.on_connected()
                self._desk.on_connected()
                _log.info("connected to the broker")
            case Disconnected(reason=reason):
                self._connected, self._connection = False, reason
                self._reporting.on_disconnected()
                _log.warning("no connection to the broker: %s", reason)
            case ReportTaken() | ReportTooLarge() | ReportUnheard():
                self._on_report(message)
            case RequestCame(data=data):
                self._desk.on_request(data)
            case StorageConverted() as converted:
                if converted.files or converted.trouble:
                    self._updates.tell("storage.converted", detail=converted.to_text())
            case RequestProven() | RenewalKnown() | ReplyReady():
                self._follower.handle(message, now)
            case ChunkLacking() | Woken() | Stop():
                # A chunk that is nowhere is told of when its time is over.
                return

    def _settle(self, now: float) -> None:
        """Bring everything in line with the records."""
        self._updates.judge(self._doors.stats_of, now, features_of=self._reporting.features_of)
        self._doors.serve(self._updates.models(now), now)
        self._doors.tick(now)
        self._follow_shadows(now)
        if self._updates.tick(connected=self._connected, now=now):
            self._bring_storage_in_form()
        for change in self._reporting.tick(self._doors.totals, self._agent_rss_bytes, now):
            self._tell_drift(change)
        self._desk.tick(connected=self._connected, now=now)
        self._service.alive(now)
        state = self._state()
        if self._connected and replace(state, time=0.0) != self._published:
            self._published = replace(state, time=0.0)
            self._transport.publish_state(state.to_json())
        self._write_status(state, now)

    def _bring_storage_in_form(self) -> None:
        """Encrypt what is stored plain, or the other way round, if that was configured since."""
        if self._config.encryption.key is None or self._updates.storage_trouble:
            return
        self._reporting.convert()
        self._jobs.submit(lambda: self._queue.put(self._convert()))

    def _patience(self) -> float:
        """How long to wait for a message before looking at the clock, in seconds."""
        quiet = self._doors.settled and not self._updates.under_way
        idle = _SHADOW_SECONDS if self._updates.has_shadows else _IDLE_SECONDS
        return idle if quiet else _BUSY_SECONDS

    def _follow_shadows(self, now: float) -> None:
        """Run beside what serves what is to be run there."""
        if self._watchers is None:
            if not self._updates.has_shadows:
                return
            # Most devices never have one.
            from edgekit_agent.shadow.watchers import Watchers

            self._watchers = Watchers(self._config.data, wake=lambda: self._queue.put(Woken()))
            self._reporting.shadows = self._watchers.totals
        for bundle, event in self._watchers.tick(self._updates.shadows(now), now):
            self._updates.apply(bundle, event, now)

    def _state(self, *, online: bool = True) -> DeviceState:
        return DeviceState(
            device=self._config.device,
            online=online,
            time=round(self._wall_clock(), 3),
            agent=AGENT_VERSION,
            hardware=self._hardware.to_json(),
            order_version=self._updates.order_version,
            bundles={name: self._bundle(name) for name in sorted(self._updates.records)},
        )

    def _bundle(self, name: str) -> BundleState:
        state = self._updates.records[name].report()
        waiting = self._updates.waiting(name)
        return replace(state, reason=waiting) if waiting else state

    def _write_status(self, state: DeviceState, now: float) -> None:
        pause = _STATUS_BUSY_SECONDS if self._updates.under_way else _STATUS_SECONDS
        key = (
            replace(state, time=0.0),
            self._connected,
            self._connection,
            self._doors.pid,
            self._updates.events.sequence,
        )
        if key == self._status_key and now - self._status_time < pause:
            return
        self._status_key, self._status_time = key, now
        host, port = self._doors.address
        pid = self._doors.pid
        status = AgentStatus(
            state=state,
            connected=self._connected,
            connection=self._connection,
            host=host,
            port=port,
            ready=pid is not None,
            pid=os.getpid(),
            server_pid=pid,
            supervisor_rss_bytes=resident_bytes(os.getpid()),
            server_rss_bytes=resident_bytes(pid) if pid else 0,
            events=self._updates.events.kept,
            journal=self._updates.journal_trouble,
            storage=self._updates.storage_trouble,
            telemetry=self._reporting.summary(),
        )
        try:
            write_status(self._config.status_file, status)
        except OSError as error:
            _log.warning("the status cannot be written: %s", error)

    def _close(self) -> None:
        self._stopping.set()
        self._service.stopping()
        for stream in self._streams:
            stream.close()
        self._transport.close(self._state(online=False).to_json())
        self._updates.close(seconds=_GOODBYE_SECONDS)
        self._doors.close(seconds=_GOODBYE_SECONDS)
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._queue.get_nowait()
                if isinstance(message, ServerSaid):
                    # The last requests count too.
                    self._doors.handle(message, time.monotonic())
        if self._watchers:
            self._watchers.close()
        self._reporting.close(self._doors.totals())
        self._jobs.close(seconds=_GOODBYE_SECONDS)
        self._desk.close(seconds=_GOODBYE_SECONDS)
        logging.getLogger("edgekit_agent").removeHandler(self._recent)
        self._lock_file.close()

    def _wall_clock(self) -> float:
        # A device without a clock starts in 1970; it is never earlier than what was proven.
        return max(time.time(), self._updates.time_floor)

    def _publish_event(self, event: DeviceEvent) -> None:
        self._reporting.note_event(event)

    def _tell_drift(self, change: DriftChange) -> None:
        detail = "; ".join(
            f"{name}: PSI {drift.psi:.2f}, KS {drift.kolmogorov_smirnov:.2f}"
            for name, drift in change.drifted.items()
        )
        self._updates.tell(
            "drift.found" if change.drifted else "drift.gone",
            bundle=change.plan.bundle,
            version=change.plan.version,
            detail=detail or "inputs and outputs look like the reference again",
        )

    def _agent_rss_bytes(self) -> int:
        pid = self._doors.pid
        return resident_bytes(os.getpid()) + (resident_bytes(pid) if pid else 0)

    def _post_arrival(self, arrival: Arrival) -> None:
        while self._queue.qsize() > _MAX_ARRIVALS and not self._stopping.wait(0.01):
            continue
        self._queue.put(arrival)

    def _on_report(self, report: ReportTaken | ReportTooLarge | ReportUnheard) -> None:
        match report:
            case ReportUnheard(kind=ReportKind.REPLIES, key=key):
                self._desk.on_unheard(key)
            case ReportUnheard(kind=kind, key=key, reason=reason):
                self._reporting.on_unheard(kind, key, reason)
            case ReportTooLarge(kind=ReportKind.REPLIES, key=key, most_bytes=most):
                _log.warning("a reply is larger than the %d bytes that may be sent", most)
                self._desk.on_taken(key)
            case ReportTooLarge(kind=kind, key=key, most_bytes=most):
                self._reporting.on_too_large(kind, key, most)
            case ReportTaken(kind=ReportKind.REPLIES, key=key):
                self._desk.on_taken(key)
            case ReportTaken(kind=kind, key=key):
                self._reporting.on_taken(kind, key)

    def _refuse_chunk(self, target: Target, reason: str) -> None:
        self._updates.refuse(reason, time.monotonic(), bundle=target.bundle, version=target.version)

    def _tell_waiting(self, target: Target, reason: str) -> None:
        self._updates.tell(
            "update.waiting", bundle=target.bundle, version=target.version, detail=reason
        )


def _lock_data(config: AgentConfig) -> IO[bytes]:
    """Make the data folder ours until the process ends."""
    path = config.data / ".lock"
    try:
        config.data.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise EnvironmentLackError(
            "another agent is running with this data folder",
            where=str(config.data),
            fix="stop it, or give this one a data folder of its own",
        ) from error
    return file
