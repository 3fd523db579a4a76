"""A fleet that something has happened to, the same every time: for the page and its pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.devices.groups import save_group
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.experiments.ab import Answer, Looked, Metric, Question
from edgekit.fleet.experiments.sequential import Interval
from edgekit.fleet.experiments.shadow import ShadowSettings
from edgekit.fleet.registry.catalogue import Registry
from edgekit.fleet.registry.entries import Stage as Shelf
from edgekit.fleet.rollouts.plan import Criteria, RolloutPlan, Stage
from edgekit.fleet.rollouts.state import (
    Decision,
    DeviceProgress,
    Phase,
    RolloutState,
    Status,
)
from edgekit.fleet.storage.setting import open_bundles
from edgekit.fleet.store.tables import AlarmRow
from edgekit.fleet.telemetry.ledger import Ledger, Measured
from edgekit.fleet.telemetry.screening import Screened
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.reports import BundleState, DeviceEvent, DeviceState, ShadowPhase, ShadowState
from edgekit_runtime.reports import Phase as BundlePhase
from edgekit_runtime.shadow import OutputGaps, ShadowCounts
from edgekit_runtime.telemetry import (
    FeatureCounts,
    ModelCounts,
    TelemetryBatch,
    Window,
    pack_batch,
)

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SITES = ("berlin", "lyon", "turin")
DRIFT = "the data has drifted from the reference beyond 0.25: input:brightness (1.32)"


def clock() -> datetime:
    return NOW


def populate(plane: ControlPlane, bundles: list[Path], *, devices: int = 240) -> None:
    """Devices at three sites, versions, a rollout that was rolled back and one under way."""
    names = populate_devices(plane, devices=devices)
    registry = Registry(plane.database, open_bundles(plane.fleet), actor="alice", clock=clock)
    for bundle in bundles:
        registry.add(bundle, source=bundle.name, tags={"team": "vision"})
    registry.promote("digits", "1.4.0", Shelf.PRODUCTION)
    registry.add_metric("digits", "1.4.0", "top1", 0.981, variant="onnx-float")
    registry.add_metric("digits", "1.5.0", "top1", 0.984, variant="onnx-float")
    populate_history(plane, names)


def populate_devices(plane: ControlPlane, *, devices: int) -> list[str]:
    """Devices that have spoken; their names."""
    inventory = Inventory(plane.database, actor="alice", clock=clock)
    names = [f"oven-{number:03d}" for number in range(1, devices + 1)]
    inventory.hear([_state(n, name) for n, name in enumerate(names)], _events(names))
    for number, name in enumerate(names[:12]):
        inventory.label(name, {"site": SITES[number % 3], "line": str(number % 4 + 1)})
    save_group(plane.database, "berlin", "site=berlin", actor="alice", clock=clock)
    save_group(plane.database, "large", "ram>=2GB", actor="alice", clock=clock)
    return names


def populate_history(plane: ControlPlane, names: list[str]) -> None:
    """Rollouts, experiments, measurements and an alarm."""
    _rollouts(plane, names)
    _experiments(plane)
    _shadows(plane, names)
    _measurements(plane, names)


def _state(number: int, name: str) -> DeviceState:
    phase, active, reason = BundlePhase.ACTIVE, "1.4.0", ""
    if number % 20 == 3:
        phase, reason = BundlePhase.ROLLED_BACK, "the 90th percentile of its latency is 91 ms"
    elif number % 9 == 1:
        active = "1.3.2"
    return DeviceState(
        device=name,
        online=number % 17 != 5,
        time=NOW.timestamp(),
        agent="0.1.0",
        hardware={
            "architecture": "aarch64" if number % 3 else "armv7l",
            "ram_bytes": 2_000_000_000 if number % 3 else 1_000_000_000,
            "runtimes": {"litert": "2.3.0"},
            "python": "3.11.2",
        },
        order_version=number % 4 + 1,
        bundles={
            "digits": BundleState(
                phase=phase,
                active=active,
                variant="litert-int8",
                previous="1.3.2",
                reason=reason,
                shadow=_beside("digits-1.5-beside", "1.5.0") if number < 40 else None,
            ),
            "bells": BundleState(
                phase=BundlePhase.ACTIVE,
                active="0.9.1",
                shadow=_beside("bells-1.0-beside", "1.0.0", crashed=number == 42)
                if 40 <= number < 43
                else None,
            ),
        },
    )


def _beside(run: str, version: str, *, crashed: bool = False) -> ShadowState:
    if crashed:
        reason = "it crashed (signal 11)"
        return ShadowState(run=run, version=version, phase=ShadowPhase.ENDED, reason=reason)
    return ShadowState(run=run, version=version, phase=ShadowPhase.WATCHING)


def _events(names: list[str]) -> list[DeviceEvent]:
    kinds = ("update.fetching", "update.staged", "update.trying", "update.rolled_back")
    return [
        DeviceEvent(
            device=names[3],
            sequence=sequence,
            time=NOW.timestamp() - 600 + 60 * sequence,
            kind=kind,
            bundle="digits",
            version="1.5.0",
            detail=DRIFT if kind == "update.rolled_back" else "",
        )
        for sequence, kind in enumerate(kinds, start=1)
    ]


def _plan(name: str, version: str, bundle: str = "digits") -> RolloutPlan:
    return RolloutPlan(
        id=name,
        order=BundleOrder(bundle=bundle, version=version),
        query="ram>=1GB",
        stages=(
            Stage(name="canary", count=5, criteria=Criteria(min_requests=500)),
            Stage(name="tenth", percent=10, criteria=Criteria(max_p90_ms=50.0)),
            Stage(name="all", percent=100, needs_approval=True),
        ),
        created_by="alice",
        created=NOW.timestamp() - 7_200,
    )


def _rollouts(plane: ControlPlane, names: list[str]) -> None:
    start = NOW.timestamp() - 7_000
    order = BundleOrder(bundle="digits", version="1.4.0")
    back = _plan("digits-1.5", "1.5.0")
    plane.rollouts.create(back)
    state = RolloutState(
        phase=Phase.ROLLED_BACK,
        reason=f"stage canary: {DRIFT}",
        stage_since=start,
        members=tuple(names),
        devices={
            name: DeviceProgress(
                stage=0, status=Status.RESTORED, before=0, since=start + 900, reason=""
            )
            for name in names[:5]
        },
        befores=(order,),
        decisions=(
            Decision(time=start, who="engine", what="begin", reason="240 devices"),
            Decision(
                time=start + 600, who="engine", what="roll back", reason=f"stage canary: {DRIFT}"
            ),
        ),
    )
    plane.rollouts.save(back.id, state, revision=1)
    going = replace(_plan("bells-0.9.1", "0.9.1", "bells"), created=NOW.timestamp() - 3_600)
    plane.rollouts.create(going)
    told = {
        name: DeviceProgress(
            stage=0 if number < 5 else 1,
            status=Status.ACTIVE if number < 21 else Status.ORDERED,
            since=start + 3_000,
        )
        for number, name in enumerate(names[:24])
    }
    told[names[22]] = DeviceProgress(
        stage=1,
        status=Status.FAILED,
        since=start + 3_100,
        reason="golden sample 3 differs by 0.41, 0.02 is allowed",
    )
    plane.rollouts.save(
        going.id,
        RolloutState(
            phase=Phase.RUNNING,
            stage=1,
            stage_since=start + 3_000,
            members=tuple(names),
            devices=told,
            decisions=(
                Decision(time=start + 2_000, who="engine", what="begin", reason="240 devices"),
                Decision(time=start + 3_000, who="engine", what="begin stage tenth"),
            ),
        ),
        revision=1,
    )


def _experiments(plane: ControlPlane) -> None:
    table = plane.experiments
    latency = Question(metric=Metric.LATENCY, margin=0.05)
    table.create(
        "int8-against-float",
        bundle="digits",
        version_a="1.3.2",
        version_b="1.4.0",
        query="site",
        question=latency,
        who="alice",
    )
    table.save(
        "int8-against-float",
        Looked(
            answer=Answer.B_BETTER,
            difference=-0.51,
            interval=Interval(low=-0.6, high=-0.42),
            a=14.2,
            b=8.5,
            devices_a=60,
            devices_b=60,
            looks=412,
        ),
    )
    table.create(
        "new-data",
        bundle="digits",
        version_a="1.4.0",
        version_b="1.5.0",
        query="site=berlin",
        question=Question(metric=Metric.ACCURACY, margin=0.01),
        who="alice",
    )
    table.save(
        "new-data",
        Looked(
            difference=0.002,
            interval=Interval(low=-0.011, high=0.016),
            a=0.961,
            b=0.963,
            devices_a=4,
            devices_b=4,
            looks=37,
        ),
    )


def _shadows(plane: ControlPlane, names: list[str]) -> None:
    """A candidate that agrees on most devices, and one that differs and has crashed on one."""
    ledger = Ledger(plane.database)
    for run, version, active, agreed, members in (
        ("digits-1.5-beside", "1.5.0", "1.4.0", 196, names[:40]),
        ("bells-1.0-beside", "1.0.0", "0.9.1", 131, names[40:43]),
    ):
        bundle = run.split("-", 1)[0]
        plane.shadows.create(
            run,
            bundle=bundle,
            version=version,
            query="site",
            settings=ShadowSettings(rate=0.1, max_per_second=50.0, min_agreement=0.95),
            who="alice",
        )
        plane.shadows.choose(run, members)
        messages = []
        for number, name in enumerate(members):
            plane.shadows.note_told(run, name)
            counts = ShadowCounts(
                run=run,
                active=active,
                compared=200,
                agreed=agreed + number % 4,
                insane=(200 - agreed) // 10,
                dropped=number % 5,
                outputs={
                    "scores": OutputGaps(gaps={25: 150, 48: 40, 70: 10}, largest=0.81, relative=0.9)
                },
                latency={90: 120, 96: 80},
                active_latency={92: 120, 97: 80},
            )
            window = Window(
                start=NOW.timestamp() - 60,
                end=NOW.timestamp(),
                bundle=bundle,
                version=version,
                shadows=(counts,),
            )
            text = json.dumps(window.to_json()).encode()
            messages.append((name, pack_batch(name, "5" * 16, 0, [(1, text)])))
        ledger.take(messages, now=NOW.timestamp())
        plane.shadows.look(run)


def _measurements(plane: ControlPlane, names: list[str]) -> None:
    even = (0.25, 0.25, 0.25, 0.25)
    ledger = Ledger(plane.database)
    for hour in range(12):
        now = NOW.timestamp() - 3_600 * hour - 60
        batches = []
        for number, name in enumerate(names[:40]):
            version = "1.3.2" if number % 9 == 1 else "1.4.0"
            requests = 400 + 13 * ((number * 7 + hour * 5) % 11)
            shifted = (200 + 30 * (12 - hour), 100, 60, 20) if version == "1.4.0" else even
            model = ModelCounts(
                requests=requests,
                errors=(number + hour) % 5 // 4,
                latency={94: requests // 2, 98: requests // 3, 104: requests // 6},
                features={
                    "input:brightness": FeatureCounts(
                        expected=even, counts=tuple(int(c * 10) for c in shifted)
                    ),
                    "input:contrast": FeatureCounts(
                        expected=even, counts=(250, 240, 255, 251), nonfinite=4
                    ),
                    "largest:scores": FeatureCounts(
                        expected=(0.1,) * 10, counts=(40,) * 10, ordered=False
                    ),
                },
            )
            window = Window(start=now - 60, end=now, bundle="digits", version=version, model=model)
            batch = TelemetryBatch(
                device=name, stream="0" * 16, dropped=0, records=((hour + 1, window),)
            )
            batches.append(Measured(device=name, screened=Screened(batch=batch)))
        ledger.keep(batches, now=now)
    with plane.database.write() as session:
        session.add(
            AlarmRow(
                began=NOW.timestamp() - 1_800,
                ended=None,
                kind="drift",
                device_id=None,
                bundle="digits",
                version="1.4.0",
                detail={"text": "brightness has drifted", "input:brightness": 0.31},
            )
        )
