"""What a rollout is to do: fixed when it is made, and never changed afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Final

from edgekit.fleet.rollouts.labels import MAX_QUERY_LENGTH, parse_query
from edgekit.fleet.rollouts.windows import Window, read_window
from edgekit_runtime.bundle.manifest import NAME_PATTERN
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.orders import Budget, BundleOrder, Gates, parse_order, target_path
from edgekit_runtime.protocol import ID_PATTERN
from edgekit_runtime.versions import VERSION_PATTERN

FORMAT: Final = "edgekit-rollout"
FORMAT_VERSION: Final = 1
MAX_STAGES: Final = 50
_MAX_WINDOWS: Final = 50
_PERSON: Final = r"[^\x00-\x1f\x7f]{1,128}"


class OnFailure(StrEnum):
    """What the engine does by itself when a stage fails."""

    PAUSE = "pause"
    ROLL_BACK = "rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """What must hold before the next stage begins.

    Shares are judged against what a criterion waits for, or what there is if that is more: one
    error among the first two requests stops nobody who has to serve a hundred anyway.

    Attributes:
        min_installed_share: Of the devices that were ordered, how many must run the version.
        max_failed_share: How many may have rejected it or rolled it back by themselves.
        min_seconds: How long the stage must run after its last device has settled.
        min_requests: How many requests its devices must have answered together.
        deadline_seconds: Not satisfied so long after the stage has begun, the rollout pauses.
        max_error_share: Largest share of requests that may fail.
        max_insane_share: Largest share of answers that may hold NaN or infinity.
        max_p90_ms: Largest 90th percentile of the model's latency; 0 for no limit.
        max_drift: Largest population stability index of any feature; 0 for no limit.
        min_accuracy: Least share of right answers among those with feedback; 0 for no limit.
        min_feedback: Answers with feedback to wait for; only with `min_accuracy`.
    """

    min_installed_share: float = 0.9
    max_failed_share: float = 0.05
    min_seconds: float = 600.0
    min_requests: int = 0
    deadline_seconds: float = 7 * 86_400.0
    max_error_share: float = 0.01
    max_insane_share: float = 0.0
    max_p90_ms: float = 0.0
    max_drift: float = 0.25
    min_accuracy: float = 0.0
    min_feedback: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of a rollout; sizes count from the first device of the rollout on.

    Attributes:
        name: For people: "canary".
        count: How many devices run the version after it; or else
        percent: how many of the group, in percent.
        criteria: What must hold before the next stage begins.
        needs_approval: Whether a second person must approve before it begins.
    """

    name: str
    count: int | None = None
    percent: float | None = None
    criteria: Criteria = field(default_factory=Criteria)
    needs_approval: bool = False

    @property
    def size(self) -> str:
        """For people: "5" or "10 %"."""
        return str(self.count) if self.count is not None else f"{self.percent:g} %"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """A release, a group of devices, and the stages by which it gets there.

    Attributes:
        id: Of the rollout; it decides which devices come first.
        order: What every device is told: bundle, version, budget of the trial, gates in live use.
        query: Which devices; see `labels`.
        stages: In order.
        created_by: Who made it; nobody approves their own rollout.
        created: Seconds since 1970.
        comparable_by: Labels in whose shares every stage shall resemble the whole group.
        on_failure: What happens by itself when a stage fails.
        windows: Times at which devices may be told; always if there is none.
        not_before: Seconds since 1970.
        device_timeout_seconds: Told so long ago and not settled, a device counts as vanished.
        max_in_flight: How many devices may be updating at a time; 0 for any number.
        accepted_drift: Features whose drift is known and does not count.
    """

    id: str
    order: BundleOrder
    query: str
    stages: tuple[Stage, ...]
    created_by: str
    created: float
    comparable_by: tuple[str, ...] = ()
    on_failure: OnFailure = OnFailure.ROLL_BACK
    windows: tuple[Window, ...] = ()
    not_before: float = 0.0
    device_timeout_seconds: float = 86_400.0
    max_in_flight: int = 0
    accepted_drift: tuple[str, ...] = ()

    @property
    def bundle(self) -> str:
        """The bundle that is rolled out."""
        return self.order.bundle

    @property
    def version(self) -> str:
        """The version that is rolled out."""
        return self.order.version

    def to_json(self) -> dict[str, object]:
        """The plan as it is kept."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "id": self.id,
            "order": self.order.to_custom(),
            "query": self.query,
            "stages": [asdict(stage) for stage in self.stages],
            "created_by": self.created_by,
            "created": self.created,
            "comparable_by": list(self.comparable_by),
            "on_failure": self.on_failure.value,
            "windows": [window.to_json() for window in self.windows],
            "not_before": self.not_before,
            "device_timeout_seconds": self.device_timeout_seconds,
            "max_in_flight": self.max_in_flight,
            "accepted_drift": list(self.accepted_drift),
        }


def check_plan(plan: RolloutPlan) -> RolloutPlan:
    """Return the plan if it makes sense.

    Raises:
        UsageError: If not; every fault is named.
    """
    reader = FieldReader(json.loads(json.dumps(plan.to_json())))
    _read_plan(reader)
    if reader.faults:
        raise UsageError(
            "the rollout's plan is invalid: " + "; ".join(reader.faults), where=plan.id
        )
    return plan


def plan_from_json(document: object, *, where: str) -> RolloutPlan:
    """Read what `RolloutPlan.to_json` made, or what a person wrote in the same form.

    Raises:
        UsageError: If it is invalid; every field is named.
    """
    reader = FieldReader(document)
    plan = _read_plan(reader)
    if reader.faults:
        raise UsageError(
            "the rollout's plan is invalid: " + "; ".join(reader.faults),
            where=where,
            fix="see docs/rollouts.md for what a plan holds",
        )
    return plan


def criteria_from_json(reader: FieldReader) -> Criteria:
    """Read what `asdict` made of criteria; what is absent is as usual."""
    usual = Criteria()
    _refuse_unknown(reader, {item.name for item in fields(Criteria)})

    def share(name: str) -> float:
        value = reader.number(name, least=0.0, default=getattr(usual, name))
        if value > 1:
            reader.fault(name, f"{value:g} is a share, from 0 to 1")
        return value

    def amount(name: str) -> float:
        return reader.number(name, least=0.0, default=getattr(usual, name))

    criteria = Criteria(
        min_installed_share=share("min_installed_share"),
        max_failed_share=share("max_failed_share"),
        min_seconds=amount("min_seconds"),
        min_requests=reader.integer("min_requests", default=usual.min_requests),
        deadline_seconds=amount("deadline_seconds"),
        max_error_share=share("max_error_share"),
        max_insane_share=share("max_insane_share"),
        max_p90_ms=amount("max_p90_ms"),
        max_drift=amount("max_drift"),
        min_accuracy=share("min_accuracy"),
        min_feedback=reader.integer("min_feedback", default=usual.min_feedback),
    )
    if criteria.min_accuracy and not criteria.min_feedback:
        reader.fault("min_feedback", "must be above 0 with min_accuracy")
    if criteria.deadline_seconds < criteria.min_seconds:
        reader.fault("deadline_seconds", "is shorter than min_seconds")
    return criteria


def _read_plan(reader: FieldReader) -> RolloutPlan:
    _refuse_unknown(
        reader, {item.name for item in fields(RolloutPlan)} | {"format", "format_version"}
    )
    if (reader.raw("format"), reader.raw("format_version")) != (FORMAT, FORMAT_VERSION):
        reader.fault("format", f"is not {FORMAT} of version {FORMAT_VERSION}")
    query = reader.text("query", default="", most=MAX_QUERY_LENGTH)
    try:
        parse_query(query)
    except UsageError as error:
        reader.fault("query", error.what)
    on_failure = reader.text("on_failure", default="rollback", pattern="|".join(OnFailure))
    stages = reader.items("stages", _read_stage, most=MAX_STAGES)
    if not stages:
        reader.fault("stages", "there must be at least one")
    _check_growth(reader, stages)
    return RolloutPlan(
        id=reader.text("id", pattern=ID_PATTERN),
        order=_read_order(reader),
        query=query,
        stages=stages,
        created_by=reader.text("created_by", pattern=_PERSON),
        created=reader.number("created", least=0.0),
        comparable_by=reader.texts("comparable_by", optional=True, most=16),
        on_failure=OnFailure(on_failure) if on_failure in set(OnFailure) else OnFailure.PAUSE,
        windows=reader.items("windows", read_window, optional=True, most=_MAX_WINDOWS),
        not_before=reader.number("not_before", least=0.0, default=0.0),
        device_timeout_seconds=reader.number("device_timeout_seconds", least=1.0, default=86_400.0),
        max_in_flight=reader.integer("max_in_flight", default=0),
        accepted_drift=reader.texts("accepted_drift", optional=True, most=1_000),
    )


def _read_stage(reader: FieldReader) -> Stage:
    _refuse_unknown(reader, {item.name for item in fields(Stage)})
    count = None if reader.raw("count") is None else reader.integer("count", least=1)
    percent = None if reader.raw("percent") is None else reader.number("percent", least=0.0)
    if (count is None) == (percent is None):
        reader.fault("", "needs either a count or a percent")
    if percent is not None and not 0 < percent <= 100:  # noqa: PLR2004
        reader.fault("percent", f"{percent:g} is not between 0 and 100")
    return Stage(
        name=reader.text("name", most=64),
        count=count,
        percent=percent,
        criteria=criteria_from_json(reader.nested("criteria", optional=True)),
        needs_approval=reader.boolean("needs_approval", default=False),
    )


def _check_growth(reader: FieldReader, stages: tuple[Stage, ...]) -> None:
    names = [stage.name for stage in stages]
    if len(set(names)) != len(names):
        reader.fault("stages", "two have the same name")
    for of in ("count", "percent"):
        sizes = [getattr(stage, of) for stage in stages if getattr(stage, of) is not None]
        if sizes != sorted(set(sizes)):
            reader.fault("stages", f"each {of} must be larger than the one before it")


def _read_order(reader: FieldReader) -> BundleOrder:
    custom = reader.raw("order")
    entry = reader.nested("order")
    bundle = entry.text("bundle", pattern=NAME_PATTERN)
    version = entry.text("version", pattern=VERSION_PATTERN)
    _refuse_unknown(entry.nested("budget", optional=True), set(Budget.__slots__))
    _refuse_unknown(entry.nested("gates", optional=True), set(Gates.__slots__))
    if not reader.faults:
        try:
            return parse_order(target_path(bundle, version), _decimals_as_text(custom))
        except VerificationError as error:
            reader.fault("order", error.what)
    return BundleOrder(bundle=bundle, version=version)


def _decimals_as_text(value: object) -> object:
    """Fractions as orders have them, so that people may write them as numbers."""
    if isinstance(value, Mapping):
        return {name: _decimals_as_text(item) for name, item in value.items()}
    return repr(value) if isinstance(value, float) else value


def _refuse_unknown(reader: FieldReader, known: set[str]) -> None:
    for name in sorted(set(reader.names()) - known):
        reader.fault(name, "is unknown")
