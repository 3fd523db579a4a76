"""Enrolment tokens, certificates, and what devices are asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "enrolment_tokens",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=True),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("labels", _JSON, nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=True),
        sa.Column("revoked", sa.Double(), nullable=True),
        _device("enrolment_tokens"),
        sa.PrimaryKeyConstraint("id", name="pk_enrolment_tokens"),
    )
    op.create_index("ix_enrolment_tokens_device_id", "enrolment_tokens", ["device_id"])
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(length=64), nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("key_sha256", sa.String(length=64), nullable=False),
        sa.Column("begins", sa.Double(), nullable=False),
        sa.Column("ends", sa.Double(), nullable=False),
        sa.Column("revoked", sa.Double(), nullable=True),
        sa.Column("pem", sa.Text(), nullable=False),
        _device("certificates"),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
    )
    op.create_index("ix_certificates_device_id", "certificates", ["device_id"])
    op.create_table(
        "device_requests",
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("arguments", _JSON, nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("sent", sa.Double(), nullable=True),
        sa.Column("answered", sa.Double(), nullable=True),
        sa.Column("withdrawn", sa.Double(), nullable=True),
        sa.Column("ok", sa.Boolean(), nullable=True),
        sa.Column("parts", sa.Integer(), nullable=False),
        _device("device_requests"),
        sa.PrimaryKeyConstraint("device_id", "number", name="pk_device_requests"),
    )
    for column in ("created", "expires", "answered"):
        op.create_index(f"ix_device_requests_{column}", "device_requests", [column])
    op.create_table(
        "reply_parts",
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("received", sa.Double(), nullable=False),
        sa.Column("result", _JSON, nullable=False),
        _device("reply_parts"),
        sa.PrimaryKeyConstraint("device_id", "number", "part", name="pk_reply_parts"),
    )
    op.create_index("ix_reply_parts_received", "reply_parts", ["received"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_reply_parts_received", table_name="reply_parts")
    op.drop_table("reply_parts")
    for column in ("created", "expires", "answered"):
        op.drop_index(f"ix_device_requests_{column}", table_name="device_requests")
    op.drop_table("device_requests")
    op.drop_index("ix_certificates_device_id", table_name="certificates")
    op.drop_table("certificates")
    op.drop_index("ix_enrolment_tokens_device_id", table_name="enrolment_tokens")
    op.drop_table("enrolment_tokens")


def _device(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["device_id"], ["devices.id"], name=f"fk_{table}_device_id_devices", ondelete="CASCADE"
    )
