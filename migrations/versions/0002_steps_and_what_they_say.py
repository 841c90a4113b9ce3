"""Step runs, their queue and leases, events, logs, artifacts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_events()
    _create_agent_events()
    _create_step_runs()
    _create_artifacts()
    _create_leases()
    _create_log_chunks()
    _create_step_logs()
    _create_step_queue()


def downgrade() -> None:
    op.drop_table("step_queue")
    op.drop_table("step_logs")
    op.drop_table("log_chunks")
    op.drop_table("leases")
    op.drop_table("artifacts")
    op.drop_table("step_runs")
    op.drop_table("agent_events")
    op.drop_table("events")


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "xid", sa.BigInteger(), server_default=sa.text("((pg_current_xact_id())::text)::bigint"), nullable=False
        ),
        sa.Column(
            "at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("pipeline_id", sa.UUID(), nullable=True),
        sa.Column("run_id", sa.UUID(), nullable=True),
        sa.Column("job_run_id", sa.UUID(), nullable=True),
        sa.Column("step_run_id", sa.UUID(), nullable=True),
        sa.Column("agent_id", sa.UUID(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("previous_status", sa.Text(), nullable=True),
        sa.Column("total", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("completed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("running", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("current", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("message", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("actor", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint("resource IN ('agent', 'job', 'run', 'step')", name=op.f("ck_events_resource")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_run", "events", ["run_id", "id"], unique=False)


def _create_agent_events() -> None:
    op.create_table(
        "agent_events",
        sa.Column("agent_id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("pipeline_id", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("step_run_id", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("occurred_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column(
            "received_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_agent_events_agent_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("agent_id", "seq", name=op.f("pk_agent_events")),
        sa.UniqueConstraint("agent_id", "event_id", name=op.f("uq_agent_events_agent_id_event_id")),
    )


def _create_step_runs() -> None:
    op.create_table(
        "step_runs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("job_run_id", sa.UUID(), nullable=False),
        sa.Column("pipeline_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("step_index", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("superseded", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'PENDING'"), nullable=False),
        sa.Column("selector_id", sa.Integer(), nullable=False),
        sa.Column("own_selector", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("continue_on_error", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("timeout_ms", sa.BigInteger(), nullable=True),
        sa.Column("dispatch", sa.LargeBinary(), nullable=False),
        sa.Column("added", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("agent_id", sa.UUID(), nullable=True),
        sa.Column("cancel_cause", sa.Text(), nullable=True),
        sa.Column("cancel_requested_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cancel_reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("error_message", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("log_size", sa.BigInteger(), nullable=True),
        sa.Column("created_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (status IN ('CANCELLED', 'FAILED', 'SKIPPED', 'SUCCESS', 'TIMEOUT'))",
            name=op.f("ck_step_runs_ended"),
        ),
        sa.CheckConstraint("cancel_cause IN ('request', 'timeout')", name=op.f("ck_step_runs_cancel_cause")),
        sa.CheckConstraint(
            "status <> 'RUNNING' OR (started_at IS NOT NULL AND agent_id IS NOT NULL)",
            name=op.f("ck_step_runs_running"),
        ),
        sa.CheckConstraint(
            "status IN ('CANCELLED', 'FAILED', 'PENDING', 'QUEUED', 'RUNNING', 'SKIPPED', 'SUCCESS', 'TIMEOUT')",
            name=op.f("ck_step_runs_status"),
        ),
        sa.CheckConstraint(
            "(cancel_cause IS NULL) = (cancel_requested_at IS NULL)", name=op.f("ck_step_runs_cancel_requested")
        ),
        sa.ForeignKeyConstraint(
            ["job_run_id"], ["job_runs.id"], name=op.f("fk_step_runs_job_run_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["pipeline_runs.id"], name=op.f("fk_step_runs_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_step_runs")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index("ix_step_runs_created", "step_runs", ["created_at"], unique=False)
    op.create_index("ix_step_runs_pipeline", "step_runs", ["pipeline_id", "created_at"], unique=False)
    op.create_index("ix_step_runs_run", "step_runs", ["run_id"], unique=False)
    op.create_index("uq_step_runs_attempt", "step_runs", ["job_run_id", "step_index", "attempt"], unique=True)


def _create_artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("job_run_id", sa.UUID(), nullable=False),
        sa.Column("step_run_id", sa.UUID(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("uri", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("size", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_run_id"], ["job_runs.id"], name=op.f("fk_artifacts_job_run_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["step_run_id"], ["step_runs.id"], name=op.f("fk_artifacts_step_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
        sa.UniqueConstraint("job_run_id", "name", name=op.f("uq_artifacts_job_run_id_name")),
    )


def _create_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("step_run_id", sa.UUID(), nullable=False),
        sa.Column("agent_id", sa.UUID(), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", name=op.f("ck_leases_ended")),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_leases_agent_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["step_run_id"], ["step_runs.id"], name=op.f("fk_leases_step_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "ix_leases_agent", "leases", ["agent_id"], unique=False, postgresql_where=sa.text("ended_at IS NULL")
    )
    op.create_index("ix_leases_step", "leases", ["step_run_id"], unique=False)
    op.create_index(
        "uq_leases_active", "leases", ["step_run_id"], unique=True, postgresql_where=sa.text("ended_at IS NULL")
    )


def _create_log_chunks() -> None:
    op.create_table(
        "log_chunks",
        sa.Column("step_run_id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("start_offset", sa.BigInteger(), nullable=False),
        sa.Column("raw_size", sa.Integer(), nullable=False),
        sa.Column("compression", sa.SmallInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column(
            "received_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["step_run_id"], ["step_runs.id"], name=op.f("fk_log_chunks_step_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("step_run_id", "seq", name=op.f("pk_log_chunks")),
    )
    op.execute("ALTER TABLE log_chunks ALTER COLUMN data SET STORAGE EXTERNAL")


def _create_step_logs() -> None:
    op.create_table(
        "step_logs",
        sa.Column("step_run_id", sa.UUID(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("size", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("lost_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("truncated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["step_run_id"], ["step_runs.id"], name=op.f("fk_step_logs_step_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("step_run_id", name=op.f("pk_step_logs")),
        postgresql_with={"fillfactor": "70"},
    )


def _create_step_queue() -> None:
    op.create_table(
        "step_queue",
        sa.Column("step_run_id", sa.UUID(), nullable=False),
        sa.Column("selector_id", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("agent_id", sa.UUID(), nullable=True),
        sa.Column("held", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "ready_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["step_run_id"], ["step_runs.id"], name=op.f("fk_step_queue_step_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("step_run_id", name=op.f("pk_step_queue")),
    )
    op.create_index(
        "ix_step_queue_bound",
        "step_queue",
        ["agent_id"],
        unique=False,
        postgresql_where=sa.text("agent_id IS NOT NULL"),
    )
    op.create_index(
        "ix_step_queue_free",
        "step_queue",
        ["selector_id", sa.literal_column("priority DESC"), "run_id", "step_run_id"],
        unique=False,
        postgresql_where=sa.text("agent_id IS NULL AND NOT held"),
    )
    op.create_index("ix_step_queue_run", "step_queue", ["run_id"], unique=False)
