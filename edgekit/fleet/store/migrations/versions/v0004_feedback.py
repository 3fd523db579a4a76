"""Feedback from the field is remembered piece by piece, so that each counts once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "feedback",
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("received", sa.Double(), nullable=False),
        sa.Column("right", sa.BigInteger(), nullable=False),
        sa.Column("wrong", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name="fk_feedback_device_id_devices",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("device_id", "id", name="pk_feedback"),
    )
    op.create_index("ix_feedback_received", "feedback", ["received"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_feedback_received", table_name="feedback")
    op.drop_table("feedback")
