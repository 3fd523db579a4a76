"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

# Spelt out here, not imported: a migration stays what it was when the tables move on.
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=256), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit"),
    )
    op.create_index("ix_audit_action", "audit", ["action"])
    op.create_index("ix_audit_subject", "audit", ["subject"])
    op.create_table(
        "device_groups",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_device_groups"),
    )
    op.create_table(
        "devices",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("pseudonym", sa.String(length=32), nullable=False),
        sa.Column("first_seen", sa.Double(), nullable=False),
        sa.Column("last_seen", sa.Double(), nullable=True),
        sa.Column("reported_at", sa.Double(), nullable=True),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("agent", sa.String(length=64), nullable=False),
        sa.Column("order_version", sa.BigInteger(), nullable=False),
        sa.Column("labels", _JSON, nullable=False),
        sa.Column("hardware", _JSON, nullable=False),
        sa.Column("state", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
        sa.UniqueConstraint("pseudonym", name="uq_devices_pseudonym"),
    )
    op.create_index("ix_devices_last_seen", "devices", ["last_seen"])
    op.create_table(
        "experiments",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("version_a", sa.String(length=128), nullable=False),
        sa.Column("version_b", sa.String(length=128), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("answer", sa.String(length=64), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.Column("comparable_by", _JSON, nullable=False),
        sa.Column("arms", _JSON, nullable=False),
        sa.Column("told", sa.Double(), nullable=True),
        sa.Column("question", _JSON, nullable=False),
        sa.Column("looked", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_experiments"),
    )
    op.create_index("ix_experiments_bundle", "experiments", ["bundle"])
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("approved_by", sa.String(length=128), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.Column("plan", _JSON, nullable=False),
        sa.Column("state", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rollouts"),
    )
    op.create_index("ix_rollouts_bundle", "rollouts", ["bundle"])
    op.create_index("ix_rollouts_status", "rollouts", ["status"])
    op.create_table(
        "settings",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_settings"),
    )
    op.create_table(
        "telemetry_hours",
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("hour", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("insane", sa.BigInteger(), nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("bundle", "version", "hour", name="pk_telemetry_hours"),
    )
    op.create_index("ix_telemetry_hours_hour", "telemetry_hours", ["hour"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=True),
        sa.Column("revoked", sa.Double(), nullable=True),
        sa.Column("last_used", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
    )
    op.create_table(
        "versions",
        sa.Column("id", _COUNTER, autoincrement=True, nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("file_sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("registered", sa.Double(), nullable=False),
        sa.Column("registered_by", sa.String(length=128), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("manifest", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.UniqueConstraint("bundle", "version", name="uq_versions_bundle_version"),
    )
    op.create_index("ix_versions_stage", "versions", ["stage"])
    op.create_table(
        "alarms",
        sa.Column("id", _COUNTER, autoincrement=True, nullable=False),
        sa.Column("began", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=True),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("detail", _JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name="fk_alarms_device_id_devices", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_alarms"),
    )
    op.create_index("ix_alarms_began", "alarms", ["began"])
    op.create_index("ix_alarms_device_id", "alarms", ["device_id"])
    op.create_table(
        "deployments",
        sa.Column("id", _COUNTER, autoincrement=True, nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name="fk_deployments_device_id_devices",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_deployments"),
    )
    op.create_index("ix_deployments_bundle_version_at", "deployments", ["bundle", "version", "at"])
    op.create_index("ix_deployments_device_id", "deployments", ["device_id"])
    op.create_table(
        "device_bundles",
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("active", sa.String(length=128), nullable=False),
        sa.Column("variant", sa.String(length=128), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name="fk_device_bundles_device_id_devices",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("device_id", "bundle", name="pk_device_bundles"),
    )
    op.create_index("ix_device_bundles_bundle_active", "device_bundles", ["bundle", "active"])
    op.create_table(
        "events",
        sa.Column("id", _COUNTER, autoincrement=True, nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.Double(), nullable=False),
        sa.Column("device_time", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name="fk_events_device_id_devices", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.UniqueConstraint(
            "device_id", "sequence", "device_time", name="uq_events_device_id_sequence_device_time"
        ),
    )
    op.create_index("ix_events_bundle_version", "events", ["bundle", "version"])
    op.create_index("ix_events_received", "events", ["received"])
    op.create_table(
        "telemetry",
        sa.Column("id", _COUNTER, autoincrement=True, nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("stream", sa.String(length=16), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=False),
        sa.Column("received", sa.Double(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("insane", sa.BigInteger(), nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name="fk_telemetry_device_id_devices", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_telemetry"),
        sa.UniqueConstraint(
            "device_id", "stream", "sequence", name="uq_telemetry_device_id_stream_sequence"
        ),
    )
    op.create_index("ix_telemetry_received", "telemetry", ["received"])
    op.create_table(
        "version_metrics",
        sa.Column("version_id", _COUNTER, nullable=False),
        sa.Column("variant", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("origin", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["versions.id"],
            name="fk_version_metrics_version_id_versions",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "variant", "name", name="pk_version_metrics"),
    )
    op.create_table(
        "version_tags",
        sa.Column("version_id", _COUNTER, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=256), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["versions.id"],
            name="fk_version_tags_version_id_versions",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "name", name="pk_version_tags"),
    )
    op.create_index("ix_version_tags_name_value", "version_tags", ["name", "value"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_version_tags_name_value", table_name="version_tags")
    op.drop_table("version_tags")
    op.drop_table("version_metrics")
    op.drop_index("ix_telemetry_received", table_name="telemetry")
    op.drop_table("telemetry")
    op.drop_index("ix_events_received", table_name="events")
    op.drop_index("ix_events_bundle_version", table_name="events")
    op.drop_table("events")
    op.drop_index("ix_device_bundles_bundle_active", table_name="device_bundles")
    op.drop_table("device_bundles")
    op.drop_index("ix_deployments_device_id", table_name="deployments")
    op.drop_index("ix_deployments_bundle_version_at", table_name="deployments")
    op.drop_table("deployments")
    op.drop_index("ix_alarms_device_id", table_name="alarms")
    op.drop_index("ix_alarms_began", table_name="alarms")
    op.drop_table("alarms")
    op.drop_index("ix_versions_stage", table_name="versions")
    op.drop_table("versions")
    op.drop_table("tokens")
    op.drop_index("ix_telemetry_hours_hour", table_name="telemetry_hours")
    op.drop_table("telemetry_hours")
    op.drop_table("settings")
    op.drop_index("ix_rollouts_status", table_name="rollouts")
    op.drop_index("ix_rollouts_bundle", table_name="rollouts")
    op.drop_table("rollouts")
    op.drop_index("ix_experiments_bundle", table_name="experiments")
    op.drop_table("experiments")
    op.drop_index("ix_devices_last_seen", table_name="devices")
    op.drop_table("devices")
    op.drop_table("device_groups")
    op.drop_index("ix_audit_subject", table_name="audit")
    op.drop_index("ix_audit_action", table_name="audit")
    op.drop_table("audit")
