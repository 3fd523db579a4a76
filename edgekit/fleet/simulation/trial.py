"""Try a rollout's plan on simulated devices: a fleet, a broker and a clock of their own."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgekit.fleet.broker import RunningBroker, start_broker
from edgekit.fleet.connection import BrokerConnection
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.keys import init_keys
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.rollouts.driving import OnDecision
from edgekit.fleet.rollouts.engine import Order
from edgekit.fleet.rollouts.order_book import OrderBook
from edgekit.fleet.rollouts.plan import RolloutPlan
from edgekit.fleet.rollouts.state import RolloutState
from edgekit.fleet.service.single import drive_rollout
from edgekit.fleet.simulation.behaviour import Behaviour, device_name, site_of
from edgekit.fleet.simulation.crowd import CrowdFigures
from edgekit.fleet.simulation.crowd_process import CrowdProcess
from edgekit.fleet.simulation.fetching import FetchPlan, usual_fetch
from edgekit.fleet.store.database import Database, open_fleet_database
from edgekit.fleet.store.rollouts import RolloutTable
from edgekit_runtime.bundle.archive import entry_of, write_bundle
from edgekit_runtime.bundle.manifest import (
    Binding,
    GoldenOutputs,
    Manifest,
    Requirements,
    TensorContract,
    Variant,
)
from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.orders import BundleOrder, Gates
from edgekit_runtime.protocol import Topics

BEFORE: Final = "0.0.1"
_COUNTED_PER_SECOND: Final = 5_000
_RUNTIMES: Final = ("onnxruntime", "litert", "tflite-runtime")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSettings:
    """What a trial is like.

    Attributes:
        devices: How many.
        behaviour: Of the devices.
        fetch: What they really fetch; by default all of it where that is not too much.
        bundle_bytes: Size of the version that is rolled out.
        speed: How many seconds of the devices pass in one of ours.
        most_seconds: The trial ends after so many seconds of ours.
    """

    devices: int
    behaviour: Behaviour
    fetch: FetchPlan | None = None
    bundle_bytes: int = 256 << 10
    speed: float = 1.0
    most_seconds: float = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReport:
    """How a trial went.

    Attributes:
        state: Of the rollout, at its end.
        crowd: Of the devices.
        wrong: Devices that do not run what the rollout's record says.
        rollout_seconds: From its beginning to its end, by our clock.
        simulated_seconds: The same by the devices' clock.
        control_cpu_seconds: Of this process in that time; the devices are in another.
        control_rss_bytes: The most resident memory of this process so far.
        published: How often each chunk came to the broker, by its topic.
    """

    state: RolloutState
    crowd: CrowdFigures
    wrong: tuple[str, ...]
    rollout_seconds: float
    simulated_seconds: float
    control_cpu_seconds: float
    control_rss_bytes: int
    published: Mapping[str, int]

    def to_json(self) -> dict[str, object]:
        """The report as JSON, without every device."""
        statuses = Counter(device.status.value for device in self.state.devices.values())
        return {
            "phase": self.state.phase.value,
            "reason": self.state.reason,
            "statuses": dict(sorted(statuses.items())),
            "served": self.crowd.phases,
            "connected": self.crowd.connected,
            "vanished": self.crowd.vanished,
            "refused_messages": self.crowd.refused,
            "chunks": len(self.published),
            "chunks_published": sum(self.published.values()),
            "chunks_fetched": self.crowd.chunks,
            "bytes_fetched": self.crowd.chunk_bytes,
            "wrong": list(self.wrong),
            "rollout_seconds": round(self.rollout_seconds, 3),
            "simulated_seconds": round(self.simulated_seconds, 3),
            "control_cpu_seconds": round(self.control_cpu_seconds, 3),
            "control_rss_bytes": self.control_rss_bytes,
        }


def try_rollout(
    plan: RolloutPlan,
    settings: TrialSettings,
    *,
    on_decision: OnDecision = lambda _plan, _decision: None,
    say: Callable[[str], None] = lambda _text: None,
    goes_on: Callable[[], bool] = lambda: True,
) -> TrialReport:
    """Carry a plan out on simulated devices, all of it in a temporary folder.

    Every device runs a version before; which of them fail, and how, is the behaviour's affair.

    Args:
        plan: What to try; its bundle need not exist.
        settings: What the trial is like.
        on_decision: Told of the engine's decisions.
        say: Told of the progress.
        goes_on: Asked now and then: a rollout under way is ended in good order.

    Raises:
        KeyboardInterrupt: If it does not go on before the rollout has begun.
        EnvironmentLackError: If no broker can be started, or it lets not all devices in.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-trial-") as name:
        folder = Path(name)
        fleet = _make_fleet(folder, plan, settings)
        with (
            start_broker(folder / "broker") as broker,
            _publications(fleet, broker.address) as published,
        ):
            say(f"{broker.name} at {broker.address}; telling {settings.devices} devices")
            _tell_before(fleet, plan, settings, broker, goes_on)
            crowd = CrowdProcess(
                fleet,
                broker.address,
                count=settings.devices,
                behaviour=replace(settings.behaviour, only_version=plan.version),
                fetch=settings.fetch or usual_fetch(settings.devices, settings.bundle_bytes),
                speed=settings.speed,
                goes_on=goes_on,
            )
            with crowd:
                _settle(crowd, plan, goes_on)
                say(f"{settings.devices} devices are connected and run {plan.bundle} {BEFORE}")
                with closing(open_fleet_database(fleet)) as database:
                    return _run(
                        fleet,
                        database,
                        plan,
                        crowd,
                        broker.address,
                        settings,
                        on_decision,
                        goes_on,
                        published,
                    )


def labels_of(crowd: CrowdProcess) -> Mapping[str, Mapping[str, str]]:
    """A site for each simulated device: what queries can ask for, beside the hardware."""
    return {name: {"site": site_of(name)} for name in crowd.names}


def _run(
    fleet: Fleet,
    database: Database,
    plan: RolloutPlan,
    crowd: CrowdProcess,
    broker: BrokerAddress,
    settings: TrialSettings,
    on_decision: OnDecision,
    goes_on: Callable[[], bool],
    published: Mapping[str, int],
) -> TrialReport:
    RolloutTable(database).create(replace(plan, created=crowd.now))
    began, began_there, cpu = time.monotonic(), crowd.now, time.process_time()
    labels = labels_of(crowd)
    state = drive_rollout(
        fleet,
        database,
        plan.id,
        broker,
        goes_on=lambda: goes_on() and time.monotonic() - began < settings.most_seconds,
        on_decision=on_decision,
        clock=lambda: crowd.now,
        turn_seconds=min(1.0, max(0.2, settings.devices / 10_000)),
        labels=lambda: labels,
    )
    spent, cpu = time.monotonic() - began, time.process_time() - cpu
    return TrialReport(
        state=state,
        crowd=crowd.figures(),
        wrong=_wrong(fleet, plan, crowd),
        rollout_seconds=spent,
        simulated_seconds=crowd.now - began_there,
        control_cpu_seconds=cpu,
        control_rss_bytes=_peak_rss_bytes(),
        published=dict(published),
    )


@contextmanager
def _publications(fleet: Fleet, broker: BrokerAddress) -> Iterator[Counter[str]]:
    """Count what comes to the broker of each chunk."""
    seen: Counter[str] = Counter()
    connection = BrokerConnection(
        broker,
        topics=[Topics(fleet.id).chunk("+")],
        on_message=lambda topic, _payload: seen.update([topic]),
    )
    try:
        yield seen
    finally:
        connection.close()


def _wrong(fleet: Fleet, plan: RolloutPlan, crowd: CrowdProcess) -> tuple[str, ...]:
    """Devices whose own record does not follow the newest order of the director."""
    book = OrderBook(fleet)
    wrong = []
    for name, outcome in crowd.outcomes().items():
        if outcome.gone:
            continue
        entry = book.entry(name)
        ordered = entry.of(plan.bundle)
        active, settled = outcome.active.get(plan.bundle, ""), outcome.settled.get(plan.bundle)
        # A device that has refused what it was told serves what it had.
        right = ordered is None or active in (ordered.version, BEFORE)
        if outcome.order_version != entry.version or not settled or not right:
            wrong.append(name)
    return tuple(wrong)


def _peak_rss_bytes() -> int:
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0")
    return int(line.split()[1]) * 1024


def _settle(crowd: CrowdProcess, plan: RolloutPlan, goes_on: Callable[[], bool]) -> None:
    wanted = {f"{plan.bundle} {BEFORE} (active)": len(crowd.names)}
    # Slow devices take longer, and many need the processor for a while.
    deadline = time.monotonic() + 60.0 + len(crowd.names) / 50
    while crowd.figures().phases != wanted:
        if time.monotonic() > deadline:
            raise EnvironmentLackError(
                f"the devices did not install the version before: {crowd.figures().phases}",
                fix="simulate fewer devices",
            )
        if not goes_on():
            raise KeyboardInterrupt
        # Devices that are counted do nothing else meanwhile.
        time.sleep(max(0.1, len(crowd.names) / _COUNTED_PER_SECOND))


def _tell_before(
    fleet: Fleet,
    plan: RolloutPlan,
    settings: TrialSettings,
    broker: RunningBroker,
    goes_on: Callable[[], bool],
) -> None:
    order = BundleOrder(bundle=plan.bundle, version=BEFORE, gates=Gates(min_seconds=0.0))
    names = [device_name(number) for number in range(settings.devices)]
    actions = [Order(device=name, bundle=plan.bundle, order=order, after=0) for name in names]
    for _ in OrderBook(fleet).carry_out(actions):
        if not goes_on():
            raise KeyboardInterrupt
    publish(fleet, broker.address)


def _make_fleet(folder: Path, plan: RolloutPlan, settings: TrialSettings) -> Fleet:
    fleet = Fleet.create(folder / "fleet", "trial")
    init_keys(fleet)
    for version, size in ((BEFORE, 1_000), (plan.version, settings.bundle_bytes)):
        path = folder / f"{version}.ekb"
        files = {
            # Bytes that cannot be compressed, as weights are.
            "model.bin": _noise(f"{version}", size),
            "golden.npz": b"simulated inputs",
            "expected.npz": b"simulated outputs",
        }
        manifest = Manifest(
            name=plan.bundle,
            version=version,
            task="simulation",
            created="2026-01-01T00:00:00Z",
            inputs=(TensorContract(name="x", dtype="float32", shape=(None, 1)),),
            outputs=(TensorContract(name="y", dtype="float32", shape=(None, 1)),),
            variants=(
                Variant(
                    id="simulated",
                    format=ModelFormat.ONNX,
                    precision="float32",
                    file="model.bin",
                    inputs={"x": Binding(tensor="x")},
                    outputs={"y": Binding(tensor="y")},
                    requires=Requirements(runtimes=_RUNTIMES),
                    golden=GoldenOutputs(file="expected.npz", atol=1e-3, rtol=0.0),
                ),
            ),
            golden_inputs="golden.npz",
            golden_samples=1,
            files={name: entry_of(data) for name, data in files.items()},
        )
        write_bundle(path, manifest, files)
        release_bundle(fleet, path)
    return fleet


def _noise(seed: str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 - no secret
