"""A world for the engine: a director that counts, devices that do as they are told, or not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from edgekit.fleet.rollouts.devices import Fate, fate_of
from edgekit.fleet.rollouts.engine import Order, Step, step
from edgekit.fleet.rollouts.observations import Observation
from edgekit.fleet.rollouts.plan import Criteria, OnFailure, RolloutPlan, Stage
from edgekit.fleet.rollouts.state import RolloutState, state_from_json
from edgekit.fleet.telemetry.health import Health
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.reports import Phase as BundlePhase

OLD = BundleOrder(bundle="digits", version="1.0.0")
NEW = BundleOrder(bundle="digits", version="2.0.0")
QUICK = Criteria(min_seconds=0.0, min_requests=0, max_failed_share=0.5, min_installed_share=0.5)


def make_plan(*stages: Stage, **changes: object) -> RolloutPlan:
    usual = RolloutPlan(
        id="r1",
        order=NEW,
        query="site=berlin",
        stages=stages
        or (
            Stage(name="canary", count=2, criteria=QUICK),
            Stage(name="half", percent=50.0, criteria=QUICK),
            Stage(name="all", percent=100.0, criteria=QUICK),
        ),
        created_by="ada",
        created=0.0,
        device_timeout_seconds=100.0,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


@dataclass
class Device:
    labels: dict[str, str | float]
    order_version: int = 0
    ordered: BundleOrder | None = None
    follows: int = 0
    phase: BundlePhase = BundlePhase.IDLE
    active: str = ""
    reason: str = ""
    health: Health | None = None
    told: list[BundleOrder | None] = field(default_factory=list)

    def obey(self) -> None:
        """Install at once what is ordered."""
        self.follows = self.order_version
        self.active = self.ordered.version if self.ordered else ""
        self.phase = BundlePhase.ACTIVE if self.ordered else BundlePhase.IDLE

    def refuse(self) -> None:
        """Roll back by itself what is ordered, unless it runs already."""
        self.follows = self.order_version
        if self.ordered and self.active != self.ordered.version:
            self.phase, self.reason = BundlePhase.ROLLED_BACK, "its answers were NaN"

    def seen(self) -> Observation:
        return Observation(
            labels=self.labels,
            order_version=self.order_version,
            ordered=self.ordered,
            follows=self.follows,
            phase=self.phase,
            active=self.active,
            reason=self.reason,
            health=self.health,
        )


@dataclass
class World:
    """Everything outside of the engine; it survives when the control plane is killed."""

    plan: RolloutPlan
    devices: dict[str, Device]
    now: float = 1_000.0
    state: RolloutState = field(default_factory=RolloutState)

    @classmethod
    def of(cls, plan: RolloutPlan, count: int, **labels: str) -> World:
        world = cls(plan, {})
        for number in range(count):
            device = Device(labels={"site": "berlin", **labels}, order_version=1, ordered=OLD)
            device.obey()
            world.devices[f"d{number:03}"] = device
        return world

    def observe(self) -> dict[str, Observation]:
        return {name: device.seen() for name, device in self.devices.items()}

    def think(self) -> Step:
        """One step; the state goes through its form on disk."""
        done = step(self.plan, self.state, self.observe(), self.now)
        document = json.loads(json.dumps(done.state.to_json()))
        self.state = state_from_json(document, where="test")
        assert self.state == done.state
        return done

    def act(self, action: Order) -> None:
        """What the director does: the same check as the engine's own."""
        device = self.devices[action.device]
        fate = fate_of(
            after=action.after,
            expected=action.expected,
            wanted=action.order,
            order_version=device.order_version,
            ordered=device.ordered,
        )
        if fate is Fate.OPEN:
            device.order_version += 1
            device.ordered = action.order
            device.told.append(action.order)

    def turn(self, seconds: float = 1.0) -> Step:
        """One step, carried out whole."""
        done = self.think()
        for action in done.actions:
            self.act(action)
        self.now += seconds
        return done

    def run(self, turns: int = 40, *, seconds: float = 1.0) -> None:
        """Turns in which every device obeys."""
        for _ in range(turns):
            self.turn(seconds)
            for device in self.devices.values():
                device.obey()

    def updated(self) -> set[str]:
        return {name for name, device in self.devices.items() if NEW in device.told}


def rollback_plan(**changes: object) -> RolloutPlan:
    return make_plan(on_failure=OnFailure.ROLL_BACK, **changes)
