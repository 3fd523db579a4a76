"""Versions that run beside those that serve: what was asked, and what devices have reported."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "shadow_runs",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("settings", _JSON, nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("result", _JSON, nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("chosen", sa.Double(), nullable=True),
        sa.Column("stopped", sa.Double(), nullable=True),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_shadow_runs"),
    )
    op.create_index("ix_shadow_runs_bundle", "shadow_runs", ["bundle"])
    op.create_table(
        "shadow_devices",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("told", sa.Double(), nullable=True),
        sa.Column("reported", sa.Double(), nullable=True),
        sa.Column("counts", _JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["run"],
            ["shadow_runs.id"],
            name="fk_shadow_devices_run_shadow_runs",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name="fk_shadow_devices_device_id_devices",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run", "device_id", name="pk_shadow_devices"),
    )
    op.create_index("ix_shadow_devices_device_id", "shadow_devices", ["device_id"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_shadow_devices_device_id", table_name="shadow_devices")
    op.drop_table("shadow_devices")
    op.drop_index("ix_shadow_runs_bundle", table_name="shadow_runs")
    op.drop_table("shadow_runs")
