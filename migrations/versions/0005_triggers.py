"""Triggers, hooks and their deliveries, and the ledger of what came of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_triggers()
    _create_hooks()
    _create_hook_secrets()
    _create_hook_deliveries()
    _create_trigger_events()


def downgrade() -> None:
    for table in ("trigger_events", "hook_deliveries", "hook_secrets", "hooks", "triggers"):
        op.drop_table(table)


def _create_triggers() -> None:
    op.create_table(
        "triggers",
        sa.Column("pipeline_id", sa.UUID(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("trigger_index", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(), nullable=False),
        sa.Column("next_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("claimed_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_fired_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_run_id", sa.UUID(), nullable=True),
        sa.CheckConstraint("next_at IS NULL OR type = 'CRON'", name=op.f("ck_triggers_next_at")),
        sa.CheckConstraint("type IN ('CRON', 'EVENT')", name=op.f("ck_triggers_type")),
        sa.ForeignKeyConstraint(
            ["pipeline_id"], ["pipelines.id"], name=op.f("fk_triggers_pipeline_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pipeline_id", "digest", name=op.f("pk_triggers")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "ix_triggers_due", "triggers", ["next_at"], unique=False, postgresql_where=sa.text("next_at IS NOT NULL")
    )


def _create_hooks() -> None:
    op.create_table(
        "hooks",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("pipeline_id", sa.UUID(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("forge", sa.Text(), nullable=False),
        sa.Column("secret_version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("created_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("last_delivery_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("forge IN ('GENERIC', 'GITEA', 'GITHUB', 'GITLAB')", name=op.f("ck_hooks_forge")),
        sa.ForeignKeyConstraint(
            ["pipeline_id"], ["pipelines.id"], name=op.f("fk_hooks_pipeline_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hooks")),
        sa.UniqueConstraint("namespace", "name", name=op.f("uq_hooks_namespace_name")),
        postgresql_with={"fillfactor": "70"},
    )


def _create_hook_secrets() -> None:
    op.create_table(
        "hook_secrets",
        sa.Column("hook_id", sa.UUID(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("algorithm", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["hook_id"], ["hooks.id"], name=op.f("fk_hook_secrets_hook_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("hook_id", "version", name=op.f("pk_hook_secrets")),
    )
    op.create_index("ix_hook_secrets_key_id", "hook_secrets", ["key_id"], unique=False)


def _create_hook_deliveries() -> None:
    op.create_table(
        "hook_deliveries",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("hook_id", sa.UUID(), nullable=False),
        sa.Column("delivery_id", sa.Text(), nullable=True),
        sa.Column("body_hash", sa.LargeBinary(), nullable=False),
        sa.Column(
            "received_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("event", postgresql.JSONB(), nullable=True),
        sa.Column("claimed_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("runs", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('DUPLICATE', 'FILTERED', 'FIRED', 'MISSED', 'REFUSED')",
            name=op.f("ck_hook_deliveries_outcome"),
        ),
        sa.CheckConstraint("(event IS NULL) = (outcome IS NOT NULL)", name=op.f("ck_hook_deliveries_finished")),
        sa.ForeignKeyConstraint(["hook_id"], ["hooks.id"], name=op.f("fk_hook_deliveries_hook_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hook_deliveries")),
        sa.UniqueConstraint("hook_id", "body_hash", name=op.f("uq_hook_deliveries_hook_id_body_hash")),
    )
    op.create_index("ix_hook_deliveries_received", "hook_deliveries", ["received_at"], unique=False)
    op.create_index(
        "ix_hook_deliveries_unfinished",
        "hook_deliveries",
        ["claimed_until"],
        unique=False,
        postgresql_where=sa.text("outcome IS NULL"),
    )
    op.create_index(
        "uq_hook_deliveries_delivery",
        "hook_deliveries",
        ["hook_id", "delivery_id"],
        unique=True,
        postgresql_where=sa.text("delivery_id IS NOT NULL"),
    )


def _create_trigger_events() -> None:
    op.create_table(
        "trigger_events",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column(
            "at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("pipeline_id", sa.UUID(), nullable=True),
        sa.Column("trigger_index", sa.Integer(), server_default=sa.text("-1"), nullable=False),
        sa.Column("hook_id", sa.UUID(), nullable=True),
        sa.Column("delivery_id", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("tick_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=True),
        sa.Column("summary", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("count", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('DUPLICATE', 'FILTERED', 'FIRED', 'MISSED', 'REFUSED')", name=op.f("ck_trigger_events_outcome")
        ),
        sa.CheckConstraint("type IN ('CRON', 'EVENT')", name=op.f("ck_trigger_events_type")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trigger_events")),
        sa.UniqueConstraint("key", name=op.f("uq_trigger_events_key")),
    )
    op.create_index("ix_trigger_events_at", "trigger_events", ["at"], unique=False)
    op.create_index("ix_trigger_events_hook", "trigger_events", ["hook_id", "at"], unique=False)
    op.create_index("ix_trigger_events_namespace", "trigger_events", ["namespace", "at"], unique=False)
    op.create_index("ix_trigger_events_pipeline", "trigger_events", ["pipeline_id", "at"], unique=False)
