"""Scheduling: fair shares in the queue, what operators want of an agent, leases that were spared."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NO = sa.text("false")
_YES = sa.text("true")
_FREE = sa.text("agent_id IS NULL AND NOT held")


def upgrade() -> None:
    # The release before leaves these out of what it writes: its rows come first, and count for no pipeline.
    op.add_column("step_queue", sa.Column("pipeline_id", sa.UUID(), nullable=True))
    op.add_column("step_queue", sa.Column("share", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("leases", sa.Column("pipeline_id", sa.UUID(), nullable=True))
    op.add_column("leases", sa.Column("share", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.drop_index("ix_step_queue_free", "step_queue")
    op.create_index(
        "ix_step_queue_free",
        "step_queue",
        ["selector_id", sa.text("priority DESC"), "share", "run_id", "step_run_id"],
        postgresql_where=_FREE,
    )
    op.create_index(
        "ix_step_queue_order",
        "step_queue",
        [sa.text("priority DESC"), "share", "run_id", "step_run_id"],
        postgresql_where=_FREE,
    )
    op.create_index(
        "ix_step_queue_pipeline",
        "step_queue",
        ["pipeline_id", "selector_id", "priority", "share"],
        postgresql_where=_FREE,
    )
    op.create_index("ix_leases_share", "leases", ["share"])
    for name, default in (("approved", _YES), ("disabled", _NO), ("drained", _NO), ("draining", _NO)):
        op.add_column("agents", sa.Column(name, sa.Boolean(), server_default=default, nullable=False))
    op.add_column("agents", sa.Column("note", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("agents", sa.Column("spared_at", postgresql.TIMESTAMP(timezone=True), nullable=True))
    op.drop_constraint(op.f("ck_agents_status"), "agents")
    op.create_check_constraint(
        op.f("ck_agents_status"),
        "agents",
        "status IN ('BUSY', 'DISABLED', 'DRAINING', 'IDLE', 'OFFLINE', 'ONLINE', 'PENDING_APPROVAL')",
    )
    op.add_column("tokens", sa.Column("needs_approval", sa.Boolean(), server_default=_NO, nullable=False))


def downgrade() -> None:
    op.drop_column("tokens", "needs_approval")
    op.execute("UPDATE agents SET status = 'OFFLINE' WHERE status IN ('DISABLED', 'DRAINING', 'PENDING_APPROVAL')")
    op.drop_constraint(op.f("ck_agents_status"), "agents")
    op.create_check_constraint(op.f("ck_agents_status"), "agents", "status IN ('BUSY', 'IDLE', 'OFFLINE', 'ONLINE')")
    for name in ("spared_at", "note", "draining", "drained", "disabled", "approved"):
        op.drop_column("agents", name)
    op.drop_index("ix_leases_share", "leases")
    op.drop_index("ix_step_queue_pipeline", "step_queue")
    op.drop_index("ix_step_queue_order", "step_queue")
    op.drop_index("ix_step_queue_free", "step_queue")
    op.create_index(
        "ix_step_queue_free",
        "step_queue",
        ["selector_id", sa.text("priority DESC"), "run_id", "step_run_id"],
        postgresql_where=_FREE,
    )
    for table in ("leases", "step_queue"):
        op.drop_column(table, "share")
        op.drop_column(table, "pipeline_id")
