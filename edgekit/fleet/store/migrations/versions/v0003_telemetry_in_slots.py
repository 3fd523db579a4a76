"""Measurements are added up by device as they come; single windows are kept no more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply; what the windows held is in the fleet's sums already."""
    op.drop_index("ix_telemetry_received", table_name="telemetry")
    op.drop_table("telemetry")
    op.create_table(
        "telemetry_streams",
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("stream", sa.String(length=16), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("missing", _JSON, nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.Double(), nullable=False),
        _device("telemetry_streams"),
        sa.PrimaryKeyConstraint("device_id", "stream", name="pk_telemetry_streams"),
    )
    op.create_index("ix_telemetry_streams_seen", "telemetry_streams", ["seen"])
    op.create_table(
        "telemetry_slots",
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("slot", sa.Double(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.Column("feedback", sa.BigInteger(), nullable=False),
        sa.Column("right", sa.BigInteger(), nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
        _device("telemetry_slots"),
        sa.PrimaryKeyConstraint(
            "device_id", "bundle", "version", "slot", name="pk_telemetry_slots"
        ),
    )
    op.create_index(
        "ix_telemetry_slots_bundle_version_updated",
        "telemetry_slots",
        ["bundle", "version", "updated"],
    )
    op.create_index("ix_telemetry_slots_slot", "telemetry_slots", ["slot"])
    op.create_table(
        "telemetry_faults",
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "kind", name="pk_telemetry_faults"),
    )
    op.create_index("ix_telemetry_faults_last", "telemetry_faults", ["last"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_telemetry_faults_last", table_name="telemetry_faults")
    op.drop_table("telemetry_faults")
    op.drop_index("ix_telemetry_slots_slot", table_name="telemetry_slots")
    op.drop_index("ix_telemetry_slots_bundle_version_updated", table_name="telemetry_slots")
    op.drop_table("telemetry_slots")
    op.drop_index("ix_telemetry_streams_seen", table_name="telemetry_streams")
    op.drop_table("telemetry_streams")
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
        _device("telemetry"),
        sa.PrimaryKeyConstraint("id", name="pk_telemetry"),
        sa.UniqueConstraint(
            "device_id", "stream", "sequence", name="uq_telemetry_device_id_stream_sequence"
        ),
    )
    op.create_index("ix_telemetry_received", "telemetry", ["received"])


def _device(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["device_id"], ["devices.id"], name=f"fk_{table}_device_id_devices", ondelete="CASCADE"
    )
