"""What requests and answers look like, for validation and for OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from edgekit.fleet.access import MAX_DAYS
from edgekit.fleet.devices.enrolment import MAX_HOURS
from edgekit.fleet.devices.facts import LABEL_PATTERN, MAX_LABELS
from edgekit.fleet.devices.requests import MAX_HOURS as MAX_REQUEST_HOURS
from edgekit.fleet.registry.entries import METRIC_PATTERN, TAG_PATTERN
from edgekit.fleet.rollouts.labels import MAX_QUERY_LENGTH
from edgekit.fleet.telemetry.feedback import ID_PATTERN as FEEDBACK_PATTERN
from edgekit.fleet.telemetry.feedback import MAX_ANSWERS
from edgekit_runtime.bundle.manifest import NAME_PATTERN
from edgekit_runtime.protocol import ID_PATTERN

# No control characters: some databases cannot hold them, and people cannot see them.
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
_VERSION = r"^[0-9A-Za-z.+-]{5,128}$"

DeviceId = Annotated[str, Path(pattern=f"^{ID_PATTERN}$", description="A device's id or pseudonym")]
RolloutId = Annotated[str, Path(pattern=f"^{ID_PATTERN}$")]
GroupName = Annotated[str, Path(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,63}$")]
BundleName = Annotated[str, Path(pattern=f"^{NAME_PATTERN}$")]
BundleVersionText = Annotated[str, Path(pattern=_VERSION, description="A semantic version")]
TokenId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
DeviceQuery = Annotated[
    str,
    Query(
        max_length=MAX_QUERY_LENGTH,
        pattern=_PRINTABLE,
        description="Like: site=berlin and ram>=1GB",
    ),
]
Words = Annotated[str, Query(max_length=200, pattern=_PRINTABLE)]
Newest = Annotated[int, Query(ge=1, le=1000, description="How many at most")]
Hours = Annotated[int, Query(ge=1, le=720, description="How far back")]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]
# What is larger no database can compare with a row's number.
Before = Annotated[int | None, Query(ge=1, le=2**53)]

_Value = Annotated[str, Field(max_length=256, pattern=_PRINTABLE)]
_LabelName = Annotated[str, Field(pattern=f"^{LABEL_PATTERN}$")]
_TagName = Annotated[str, Field(pattern=f"^{TAG_PATTERN}$")]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Problem(BaseModel):
    """What went wrong, where, and how to mend it."""

    error: str
    what: str
    where: str | None
    fix: str | None


class LabelChanges(_Form):
    """Labels to set; null takes one away."""

    labels: dict[_LabelName, _Value | None] = Field(max_length=MAX_LABELS)


class GroupForm(_Form):
    """What a group means."""

    query: str = Field(max_length=MAX_QUERY_LENGTH, pattern=_PRINTABLE)


class TagChanges(_Form):
    """Tags to set; null takes one away."""

    tags: dict[_TagName, _Value | None] = Field(max_length=MAX_LABELS)


class MetricForm(_Form):
    """A figure of a version."""

    name: str = Field(pattern=f"^{METRIC_PATTERN}$")
    value: float = Field(allow_inf_nan=False, strict=False)
    variant: str = Field(default="", max_length=128, pattern=_PRINTABLE)


class Promotion(_Form):
    """Where a version goes."""

    stage: Literal["development", "staging", "production", "archived"]


class RolloutForm(_Form):
    """A rollout's plan, as docs/rollouts.md says; who makes it and when is added here."""

    plan: dict[str, Any]


class Reason(_Form):
    """Why a person decides so."""

    reason: str = Field(default="", max_length=400, pattern=_PRINTABLE)


class Resumption(_Form):
    """How a paused rollout goes on."""

    accept: bool = Field(default=False, description="Overrule the criteria of the stages so far")


class ExperimentForm(_Form):
    """Two versions, and what is asked of them."""

    id: str = Field(pattern=f"^{ID_PATTERN}$")
    bundle: str = Field(pattern=f"^{NAME_PATTERN}$")
    version_a: str = Field(pattern=_VERSION)
    version_b: str = Field(pattern=_VERSION)
    query: str = Field(default="", max_length=MAX_QUERY_LENGTH, pattern=_PRINTABLE)
    comparable_by: list[_LabelName] = Field(default=[], max_length=16)
    metric: Literal["accuracy", "errors", "latency"]
    margin: float = Field(gt=1e-6, le=100, strict=False)
    alpha: float = Field(default=0.05, gt=1e-6, lt=0.5, strict=False)
    most_seconds: float = Field(default=30 * 86_400.0, ge=60, le=1e9, strict=False)


class ShadowForm(_Form):
    """A version that is to run beside the one that serves, and what is asked of it."""

    id: str = Field(pattern=f"^{ID_PATTERN}$")
    bundle: str = Field(pattern=f"^{NAME_PATTERN}$")
    version: str = Field(pattern=_VERSION)
    query: str = Field(default="", max_length=MAX_QUERY_LENGTH, pattern=_PRINTABLE)
    rate: float = Field(default=0.1, ge=1e-6, le=1, strict=False)
    max_per_second: float = Field(default=5.0, ge=0.001, le=1e6, strict=False)
    seconds: float = Field(default=86_400.0, ge=1, le=1e9, strict=False)
    memory_bytes: int = Field(default=512 << 20, ge=1, le=2**50)
    free_bytes: int = Field(default=64 << 20, ge=0, le=2**50)
    tolerance: float = Field(default=0.05, ge=0, le=1e6, strict=False)
    min_agreement: float = Field(default=0.95, ge=1e-6, le=1, strict=False)
    alpha: float = Field(default=0.05, ge=1e-6, le=0.5, strict=False)


class TokenForm(_Form):
    """A new token."""

    name: str = Field(min_length=1, max_length=64, pattern=_PRINTABLE)
    role: Literal["viewer", "operator", "release-manager", "admin"]
    days: int | None = Field(default=90, ge=1, le=MAX_DAYS)


class NewToken(BaseModel):
    """A token with its secret, which is shown once."""

    id: str
    token: str


class EnrolForm(BaseModel):
    """A device that wants to come in; what a newer agent adds is passed over."""

    model_config = ConfigDict(strict=True)

    device: str = Field(pattern=f"^{ID_PATTERN}$")
    fleet: str = Field(pattern=f"^{ID_PATTERN}$")
    token: str = Field(max_length=200, pattern=_PRINTABLE)
    request: str = Field(max_length=16_384, description="A certificate signing request, PEM")


class BrokerPlace(BaseModel):
    """Where a broker listens."""

    host: str
    port: int


class Enrolment(BaseModel):
    """All that a device has to know: its certificate, its broker, and the roots of trust."""

    fleet: str
    broker: BrokerPlace
    certificate: str
    authorities: str
    image_root: str
    director_root: str


class EnrolmentTokenForm(_Form):
    """A token that takes one device in."""

    device: str | None = Field(
        default=None, pattern=f"^{ID_PATTERN}$", description="Null for any new device"
    )
    labels: dict[_LabelName, _Value] = Field(default={}, max_length=MAX_LABELS)
    hours: float = Field(default=24.0, gt=0, le=MAX_HOURS, strict=False)


class AskForm(_Form):
    """What a device is asked for."""

    kind: Literal["bench", "logs", "samples", "restart", "renew"]
    arguments: dict[str, Any] = Field(
        default={},
        description="bench: bundle, version. logs: lines. samples: most. "
        "restart: what (server or agent)",
    )
    hours: float = Field(default=24.0, gt=0, le=MAX_REQUEST_HOURS, strict=False)


class AskManyForm(AskForm):
    """What every device is asked for that a query means."""

    query: str = Field(min_length=1, max_length=MAX_QUERY_LENGTH, pattern=_PRINTABLE)


class FeedbackItem(_Form):
    """What became known of some answers of a device."""

    device: str = Field(pattern=f"^{ID_PATTERN}$", description="Its id or pseudonym")
    bundle: str = Field(pattern=f"^{NAME_PATTERN}$")
    version: str = Field(pattern=_VERSION)
    id: str = Field(
        pattern=f"^{FEEDBACK_PATTERN}$",
        description="What makes it the same piece when it is sent again: the id of a request, say",
    )
    right: int = Field(ge=0, le=MAX_ANSWERS)
    wrong: int = Field(ge=0, le=MAX_ANSWERS)


class FeedbackForm(_Form):
    """Feedback, each piece of which counts once."""

    items: list[FeedbackItem] = Field(min_length=1, max_length=1_000)


class RetentionForm(_Form):
    """Limits to change; in days, but for events_per_device."""

    telemetry_days: int | None = Field(default=None, ge=1, le=36_500)
    telemetry_hours_days: int | None = Field(default=None, ge=1, le=36_500)
    events_days: int | None = Field(default=None, ge=1, le=36_500)
    alarms_days: int | None = Field(default=None, ge=1, le=36_500)
    deployments_days: int | None = Field(default=None, ge=1, le=36_500)
    answers_days: int | None = Field(default=None, ge=1, le=36_500)
    events_per_device: int | None = Field(default=None, ge=1, le=10_000_000)


class DeviceList(BaseModel):
    """Devices, and how many there are in all."""

    total: int
    devices: list[dict[str, Any]]
