"""The tables, as SQLAlchemy maps them.

Every moment is a float: seconds since 1970, UTC, by the control plane's clock unless the column
says otherwise. A change here needs a migration beside it; a test compares the two.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Named, so that migrations can change them on every database.
_NAMES: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
_ID: Final = String(64)
_VERSION: Final = String(128)
# SQLite counts rows only in a column of the exact type INTEGER.
_COUNTER: Final = BigInteger().with_variant(Integer(), "sqlite")
_JSON: Final = JSON().with_variant(JSONB(), "postgresql")


class Base(DeclarativeBase):
    """All tables of the control plane."""

    metadata = MetaData(naming_convention=_NAMES)


class DeviceRow(Base):
    """A device of the fleet.

    `pseudonym` is random and has no other tie to the device than this row. `labels` are the
    owner's; `hardware` and `state` are the last report, whose `reported_at` is by the device's
    own clock.
    """

    __tablename__ = "devices"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    pseudonym: Mapped[str] = mapped_column(String(32), unique=True)
    first_seen: Mapped[float] = mapped_column(Double)
    last_seen: Mapped[float | None] = mapped_column(Double, index=True)
    reported_at: Mapped[float | None] = mapped_column(Double)
    online: Mapped[bool] = mapped_column(Boolean)
    agent: Mapped[str] = mapped_column(String(64))
    order_version: Mapped[int] = mapped_column(BigInteger)
    labels: Mapped[dict[str, Any]] = mapped_column(_JSON)
    hardware: Mapped[dict[str, Any]] = mapped_column(_JSON)
    state: Mapped[dict[str, Any]] = mapped_column(_JSON)


class DeviceBundleRow(Base):
    """What a device says of one bundle, one row each, so that a fleet can be counted."""

    __tablename__ = "device_bundles"

    device_id: Mapped[str] = mapped_column(
        _ID, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True
    )
    bundle: Mapped[str] = mapped_column(_ID, primary_key=True)
    active: Mapped[str] = mapped_column(_VERSION)
    variant: Mapped[str] = mapped_column(String(128))
    phase: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)

    __table_args__ = (Index("ix_device_bundles_bundle_active", "bundle", "active"),)


class GroupRow(Base):
    """A named label query."""

    __tablename__ = "device_groups"

    name: Mapped[str] = mapped_column(_ID, primary_key=True)
    query: Mapped[str] = mapped_column(Text)
    created: Mapped[float] = mapped_column(Double)


class EventRow(Base):
    """Something that a device said had happened; `device_time` is by its own clock."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(_COUNTER, primary_key=True, autoincrement=True)
    device_id: Mapped[str] = mapped_column(_ID, ForeignKey("devices.id", ondelete="CASCADE"))
    sequence: Mapped[int] = mapped_column(BigInteger)
    received: Mapped[float] = mapped_column(Double, index=True)
    device_time: Mapped[float] = mapped_column(Double)
    kind: Mapped[str] = mapped_column(String(64))
    bundle: Mapped[str] = mapped_column(_ID)
    version: Mapped[str] = mapped_column(_VERSION)
    detail: Mapped[str] = mapped_column(Text)

    __table_args__ = (
        # Delivered twice, an event counts once. A device that was set up anew counts from the
        # start again, at another time.
        UniqueConstraint("device_id", "sequence", "device_time"),
        Index("ix_events_bundle_version", "bundle", "version"),
    )


class TelemetryStreamRow(Base):
    """Which records of a device's stream were counted: sent twice, one counts once.

    Every one up to `last`, but for those in `missing`: pairs of first and last number. Replicas
    that share a subscription take a device's batches in any order.
    """

    __tablename__ = "telemetry_streams"

    device_id: Mapped[str] = mapped_column(
        _ID, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True
    )
    stream: Mapped[str] = mapped_column(String(16), primary_key=True)
    last: Mapped[int] = mapped_column(BigInteger)
    missing: Mapped[list[list[int]]] = mapped_column(_JSON)
    dropped: Mapped[int] = mapped_column(BigInteger)
    seen: Mapped[float] = mapped_column(Double, index=True)


class TelemetrySlotRow(Base):
    """What a device measured of a version in a span of time, added up as it comes.

    `slot` is when the span began: an hour, or the moment from which on a rollout watches the
    device. `bundle` and `version` are empty for how the device itself was. `counts` is the JSON
    text of all windows as one; `revision` grows with every change of it.
    """

    __tablename__ = "telemetry_slots"

    device_id: Mapped[str] = mapped_column(
        _ID, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True
    )
    bundle: Mapped[str] = mapped_column(_ID, primary_key=True)
    version: Mapped[str] = mapped_column(_VERSION, primary_key=True)
    slot: Mapped[float] = mapped_column(Double, primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger)
    updated: Mapped[float] = mapped_column(Double)
    feedback: Mapped[int] = mapped_column(BigInteger)
    right: Mapped[int] = mapped_column(BigInteger)
    counts: Mapped[str] = mapped_column(Text)

    __table_args__ = (
        Index("ix_telemetry_slots_bundle_version_updated", "bundle", "version", "updated"),
        Index("ix_telemetry_slots_slot", "slot"),
    )


class FeedbackRow(Base):
    """Answers of a device of which it became known whether they were right; each piece once."""

    __tablename__ = "feedback"

    device_id: Mapped[str] = mapped_column(
        _ID, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True
    )
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    bundle: Mapped[str] = mapped_column(_ID)
    version: Mapped[str] = mapped_column(_VERSION)
    received: Mapped[float] = mapped_column(Double, index=True)
    right: Mapped[int] = mapped_column(BigInteger)
    wrong: Mapped[int] = mapped_column(BigInteger)


class TelemetryFaultRow(Base):
    """How often a device sent measurements that were not believed.

    Not tied to a known device: who sends nonsense need not be one. Those beyond a number are
    counted under an empty name.
    """

    __tablename__ = "telemetry_faults"

    device_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    last: Mapped[float] = mapped_column(Double, index=True)


class TelemetryHourRow(Base):
    """Everything that all devices measured of a version within an hour, added up as it comes.

    `hour` counts hours since 1970, by when the measurements were received. Pages read these rows
    alone, however many devices there are; they outlive what is kept of each device.
    """

    __tablename__ = "telemetry_hours"

    bundle: Mapped[str] = mapped_column(_ID, primary_key=True)
    version: Mapped[str] = mapped_column(_VERSION, primary_key=True)
    hour: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, index=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    errors: Mapped[int] = mapped_column(BigInteger)
    insane: Mapped[int] = mapped_column(BigInteger)
    data: Mapped[dict[str, Any]] = mapped_column(_JSON)


class AlarmRow(Base):
    """Something that a person should know of; `ended` is empty while it lasts."""

    __tablename__ = "alarms"

    id: Mapped[int] = mapped_column(_COUNTER, primary_key=True, autoincrement=True)
    began: Mapped[float] = mapped_column(Double, index=True)
    ended: Mapped[float | None] = mapped_column(Double)
    kind: Mapped[str] = mapped_column(String(32))
    device_id: Mapped[str | None] = mapped_column(
        _ID, ForeignKey("devices.id", ondelete="CASCADE"), index=True
    )
    bundle: Mapped[str] = mapped_column(_ID)
    version: Mapped[str] = mapped_column(_VERSION)
    detail: Mapped[dict[str, Any]] = mapped_column(_JSON)


class VersionRow(Base):
    """A bundle version in the registry: its manifest, and what people added to it."""

    __tablename__ = "versions"

    id: Mapped[int] = mapped_column(_COUNTER, primary_key=True, autoincrement=True)
    bundle: Mapped[str] = mapped_column(_ID)
    version: Mapped[str] = mapped_column(_VERSION)
    file_sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    stage: Mapped[str] = mapped_column(String(16), index=True)
    registered: Mapped[float] = mapped_column(Double)
    registered_by: Mapped[str] = mapped_column(String(128))
    source: Mapped[str] = mapped_column(Text)
    note: Mapped[str] = mapped_column(Text)
    manifest: Mapped[dict[str, Any]] = mapped_column(_JSON)

    __table_args__ = (UniqueConstraint("bundle", "version"),)


class VersionTagRow(Base):
    """A tag of a bundle version: a name with a value, which may be empty."""

    __tablename__ = "version_tags"

    version_id: Mapped[int] = mapped_column(
        ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(_ID, primary_key=True)
    value: Mapped[str] = mapped_column(String(256))

    __table_args__ = (Index("ix_version_tags_name_value", "name", "value"),)


class VersionMetricRow(Base):
    """A figure of a bundle version: as its manifest measured it, or as somebody added it."""

    __tablename__ = "version_metrics"

    version_id: Mapped[int] = mapped_column(
        ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True
    )
    variant: Mapped[str] = mapped_column(String(128), primary_key=True)
    name: Mapped[str] = mapped_column(_ID, primary_key=True)
    value: Mapped[float] = mapped_column(Double)
    origin: Mapped[str] = mapped_column(String(128))


class DeploymentRow(Base):
    """A bundle version went live on a device, or was taken off it again."""

    __tablename__ = "deployments"

    id: Mapped[int] = mapped_column(_COUNTER, primary_key=True, autoincrement=True)
    device_id: Mapped[str] = mapped_column(
        _ID, ForeignKey("devices.id", ondelete="CASCADE"), index=True
    )
    bundle: Mapped[str] = mapped_column(_ID)
    version: Mapped[str] = mapped_column(_VERSION)
    at: Mapped[float] = mapped_column(Double)
    outcome: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)

    __table_args__ = (Index("ix_deployments_bundle_version_at", "bundle", "version", "at"),)


class RolloutRow(Base):
    """A rollout: plan and state are JSON that the engine defines and nothing here reads.

    `revision` grows with every change: who changes a rollout says which revision was read, so
    that of two replicas at most one decides.
    """

    __tablename__ = "rollouts"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    bundle: Mapped[str] = mapped_column(_ID, index=True)
    version: Mapped[str] = mapped_column(_VERSION)
    status: Mapped[str] = mapped_column(String(32), index=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[float] = mapped_column(Double)
    created_by: Mapped[str] = mapped_column(String(128))
    approved_by: Mapped[str] = mapped_column(String(128))
    updated: Mapped[float] = mapped_column(Double)
    plan: Mapped[dict[str, Any]] = mapped_column(_JSON)
    state: Mapped[dict[str, Any]] = mapped_column(_JSON)


class ExperimentRow(Base):
    """Two versions side by side: question and answer are JSON that the experiments define.

    `arms` says which device is in which group, once that was decided; `told` when every device
    had been told to run its version.
    """

    __tablename__ = "experiments"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    bundle: Mapped[str] = mapped_column(_ID, index=True)
    version_a: Mapped[str] = mapped_column(_VERSION)
    version_b: Mapped[str] = mapped_column(_VERSION)
    query: Mapped[str] = mapped_column(Text)
    answer: Mapped[str] = mapped_column(String(64))
    created: Mapped[float] = mapped_column(Double)
    created_by: Mapped[str] = mapped_column(String(128))
    updated: Mapped[float] = mapped_column(Double)
    comparable_by: Mapped[list[str]] = mapped_column(_JSON)
    arms: Mapped[dict[str, Any]] = mapped_column(_JSON)
    told: Mapped[float | None] = mapped_column(Double)
    question: Mapped[dict[str, Any]] = mapped_column(_JSON)
    looked: Mapped[dict[str, Any]] = mapped_column(_JSON)


class ShadowRunRow(Base):
    """A version that runs beside the one that serves; settings are JSON that `shadow` defines.

    `result` is what the last look gave, so that a page need not add up ten thousand devices.
    `chosen` is when it was decided which devices take part, `stopped` when a person ended it, and
    `ended` when no order names it any more.
    """

    __tablename__ = "shadow_runs"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    bundle: Mapped[str] = mapped_column(_ID, index=True)
    version: Mapped[str] = mapped_column(_VERSION)
    query: Mapped[str] = mapped_column(Text)
    settings: Mapped[dict[str, Any]] = mapped_column(_JSON)
    verdict: Mapped[str] = mapped_column(String(16))
    result: Mapped[dict[str, Any]] = mapped_column(_JSON)
    created: Mapped[float] = mapped_column(Double)
    created_by: Mapped[str] = mapped_column(String(128))
    chosen: Mapped[float | None] = mapped_column(Double)
    stopped: Mapped[float | None] = mapped_column(Double)
    ended: Mapped[float | None] = mapped_column(Double)


class ShadowDeviceRow(Base):
    """A device in a shadow run: when it was told, and all that it has reported since.

    `counts` is a list, an entry for each version that has served meanwhile.
    """

    __tablename__ = "shadow_devices"

    run: Mapped[str] = mapped_column(
        _ID, ForeignKey("shadow_runs.id", ondelete="CASCADE"), primary_key=True
    )
    device_id: Mapped[str] = mapped_column(
        _ID, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    told: Mapped[float | None] = mapped_column(Double)
    reported: Mapped[float | None] = mapped_column(Double)
    counts: Mapped[list[dict[str, Any]]] = mapped_column(_JSON)


class AuditRow(Base):
    """One entry of the audit log: `digest` covers all of it and the digest before.

    `detail` is the very text that was hashed. Devices stand here by pseudonym, so that deleting
    a device needs no change here.
    """

    __tablename__ = "audit"

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(String(32))
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64), index=True)
    subject: Mapped[str] = mapped_column(String(256), index=True)
    detail: Mapped[str] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))


class TokenRow(Base):
    """A token of a person or a program; `secret_sha256` is all that is kept of its secret."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(32))
    secret_sha256: Mapped[str] = mapped_column(String(64))
    created: Mapped[float] = mapped_column(Double)
    expires: Mapped[float | None] = mapped_column(Double)
    revoked: Mapped[float | None] = mapped_column(Double)
    last_used: Mapped[float | None] = mapped_column(Double)


class SettingRow(Base):
    """A setting of the control plane that all its replicas share."""

    __tablename__ = "settings"

    name: Mapped[str] = mapped_column(_ID, primary_key=True)
    value: Mapped[Any] = mapped_column(_JSON)


class EnrolmentTokenRow(Base):
    """Takes one device in, once; `secret_sha256` is all that is kept of its secret.

    `device_id` is the device that it was made for, or that it took in; `labels` are set then.
    """

    __tablename__ = "enrolment_tokens"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    device_id: Mapped[str | None] = mapped_column(
        _ID, ForeignKey("devices.id", ondelete="CASCADE"), index=True
    )
    secret_sha256: Mapped[str] = mapped_column(String(64))
    labels: Mapped[dict[str, Any]] = mapped_column(_JSON)
    created: Mapped[float] = mapped_column(Double)
    created_by: Mapped[str] = mapped_column(String(128))
    expires: Mapped[float] = mapped_column(Double)
    used: Mapped[float | None] = mapped_column(Double)
    revoked: Mapped[float | None] = mapped_column(Double)


class CertificateRow(Base):
    """A certificate that the fleet gave a device; `serial` is in hex, `pem` public.

    `key_sha256` is of the public key: what a device renews is the same key's certificate.
    """

    __tablename__ = "certificates"

    serial: Mapped[str] = mapped_column(String(64), primary_key=True)
    device_id: Mapped[str] = mapped_column(
        _ID, ForeignKey("devices.id", ondelete="CASCADE"), index=True
    )
    key_sha256: Mapped[str] = mapped_column(String(64))
    begins: Mapped[float] = mapped_column(Double)
    ends: Mapped[float] = mapped_column(Double)
    revoked: Mapped[float | None] = mapped_column(Double)
    pem: Mapped[str] = mapped_column(Text)


class DeviceRequestRow(Base):
    """What one device is asked for; `number` grows with every request to it.

    `sent` is when it was published last, `answered` when all of the answer was there.
    """

    __tablename__ = "device_requests"

    device_id: Mapped[str] = mapped_column(
        _ID, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    arguments: Mapped[dict[str, Any]] = mapped_column(_JSON)
    created: Mapped[float] = mapped_column(Double, index=True)
    created_by: Mapped[str] = mapped_column(String(128))
    expires: Mapped[float] = mapped_column(Double, index=True)
    sent: Mapped[float | None] = mapped_column(Double)
    answered: Mapped[float | None] = mapped_column(Double, index=True)
    withdrawn: Mapped[float | None] = mapped_column(Double)
    ok: Mapped[bool | None] = mapped_column(Boolean)
    parts: Mapped[int] = mapped_column(Integer)


class ReplyPartRow(Base):
    """A part of a device's answer: figures, lines of its log, a piece of a sample."""

    __tablename__ = "reply_parts"

    device_id: Mapped[str] = mapped_column(
        _ID, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    part: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    received: Mapped[float] = mapped_column(Double, index=True)
    result: Mapped[dict[str, Any]] = mapped_column(_JSON)
