"""Agents and their tokens, pipelines and their definitions, runs and their jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_agents()
    _create_pipelines()
    _create_selectors()
    _create_server_keys()
    _create_pipeline_runs()
    _create_pipeline_specs()
    _create_tokens()
    _create_job_runs()
    _create_run_stages()


def downgrade() -> None:
    op.drop_table("run_stages")
    op.drop_table("job_runs")
    op.drop_table("tokens")
    op.drop_table("pipeline_specs")
    op.drop_table("pipeline_runs")
    op.drop_table("server_keys")
    op.drop_table("selectors")
    op.drop_table("pipelines")
    op.drop_table("agents")


def _create_agents() -> None:
    op.create_table(
        "agents",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ip", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("os", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("arch", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("capacity", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column(
            "claimed_labels", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column(
            "server_labels", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column("status", sa.Text(), server_default=sa.text("'OFFLINE'"), nullable=False),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("last_contact_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("lease_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("deleted_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("status IN ('BUSY', 'IDLE', 'OFFLINE', 'ONLINE')", name=op.f("ck_agents_status")),
        sa.CheckConstraint("capacity BETWEEN 1 AND 10000", name=op.f("ck_agents_capacity")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
        postgresql_with={"fillfactor": "70"},
    )


def _create_pipelines() -> None:
    op.create_table(
        "pipelines",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("spec_version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("deleted_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("total_runs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("success_runs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed_runs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_status", sa.Text(), server_default=sa.text("'PENDING'"), nullable=False),
        sa.CheckConstraint(
            "last_status IN ('CANCELLED', 'FAILED', 'PARTIAL', 'PAUSED', 'PENDING', 'RUNNING', 'SKIPPED', 'SUCCESS', 'TIMEOUT')",
            name=op.f("ck_pipelines_last_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pipelines")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "uq_pipelines_name",
        "pipelines",
        ["namespace", "name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )


def _create_selectors() -> None:
    op.create_table(
        "selectors",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_selectors")),
        sa.UniqueConstraint("digest", name=op.f("uq_selectors_digest")),
    )


def _create_server_keys() -> None:
    op.create_table(
        "server_keys",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_server_keys")),
    )


def _create_pipeline_runs() -> None:
    op.create_table(
        "pipeline_runs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("pipeline_id", sa.UUID(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'PENDING'"), nullable=False),
        sa.Column("outcome", sa.Text(), server_default=sa.text("'SKIPPED'"), nullable=False),
        sa.Column("trigger_type", sa.Text(), server_default=sa.text("'MANUAL'"), nullable=False),
        sa.Column("triggered_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("branch", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("commit_sha", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("variables", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("stopped", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("status_reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("stage_count", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("total_jobs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("completed_jobs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed_jobs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("running_jobs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (status IN ('CANCELLED', 'FAILED', 'PARTIAL', 'SKIPPED', 'SUCCESS', 'TIMEOUT'))",
            name=op.f("ck_pipeline_runs_ended"),
        ),
        sa.CheckConstraint(
            "status IN ('CANCELLED', 'FAILED', 'PARTIAL', 'PAUSED', 'PENDING', 'RUNNING', 'SKIPPED', 'SUCCESS', 'TIMEOUT')",
            name=op.f("ck_pipeline_runs_status"),
        ),
        sa.CheckConstraint("trigger_type IN ('CRON', 'EVENT', 'MANUAL')", name=op.f("ck_pipeline_runs_trigger_type")),
        sa.CheckConstraint(
            "running_jobs >= 0 AND completed_jobs + running_jobs <= total_jobs AND failed_jobs <= completed_jobs",
            name=op.f("ck_pipeline_runs_counters"),
        ),
        sa.ForeignKeyConstraint(
            ["pipeline_id"], ["pipelines.id"], name=op.f("fk_pipeline_runs_pipeline_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pipeline_runs")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index("ix_pipeline_runs_created", "pipeline_runs", ["created_at"], unique=False)
    op.create_index("ix_pipeline_runs_namespace", "pipeline_runs", ["namespace", "created_at"], unique=False)
    op.create_index("ix_pipeline_runs_pipeline", "pipeline_runs", ["pipeline_id", "created_at"], unique=False)
    op.create_index(
        "ix_pipeline_runs_unfinished",
        "pipeline_runs",
        ["pipeline_id"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_index(
        "uq_pipeline_runs_request",
        "pipeline_runs",
        ["pipeline_id", "request_id"],
        unique=True,
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )


def _create_pipeline_specs() -> None:
    op.create_table(
        "pipeline_specs",
        sa.Column("pipeline_id", sa.UUID(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("created_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"], ["pipelines.id"], name=op.f("fk_pipeline_specs_pipeline_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pipeline_id", "version", name=op.f("pk_pipeline_specs")),
    )


def _create_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("agent_id", sa.UUID(), nullable=True),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("max_uses", sa.Integer(), nullable=True),
        sa.Column("uses", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("revoked_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_used_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(kind = 'agent') = (agent_id IS NOT NULL)", name=op.f("ck_tokens_agent")),
        sa.CheckConstraint("kind IN ('agent', 'registration', 'user')", name=op.f("ck_tokens_kind")),
        sa.CheckConstraint("max_uses IS NULL OR uses <= max_uses", name=op.f("ck_tokens_uses")),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_tokens_agent_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )
    op.create_index(
        "ix_tokens_agent", "tokens", ["agent_id"], unique=False, postgresql_where=sa.text("agent_id IS NOT NULL")
    )


def _create_job_runs() -> None:
    op.create_table(
        "job_runs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("pipeline_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("stage_index", sa.Integer(), nullable=False),
        sa.Column("job_index", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'PENDING'"), nullable=False),
        sa.Column("outcome", sa.Text(), server_default=sa.text("'SKIPPED'"), nullable=False),
        sa.Column("selector_id", sa.Integer(), nullable=False),
        sa.Column("agent_id", sa.UUID(), nullable=True),
        sa.Column("timeout_ms", sa.BigInteger(), nullable=True),
        sa.Column("total_steps", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("completed_steps", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed_steps", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("running_steps", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("current_step", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("exit_code", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("error_message", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (status IN ('CANCELLED', 'FAILED', 'PARTIAL', 'SKIPPED', 'SUCCESS', 'TIMEOUT'))",
            name=op.f("ck_job_runs_ended"),
        ),
        sa.CheckConstraint(
            "status IN ('CANCELLED', 'FAILED', 'PARTIAL', 'PAUSED', 'PENDING', 'RUNNING', 'SKIPPED', 'SUCCESS', 'TIMEOUT')",
            name=op.f("ck_job_runs_status"),
        ),
        sa.CheckConstraint(
            "completed_steps + running_steps <= total_steps AND running_steps >= 0", name=op.f("ck_job_runs_counters")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["pipeline_runs.id"], name=op.f("fk_job_runs_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_runs")),
        sa.UniqueConstraint("run_id", "name", name=op.f("uq_job_runs_run_id_name")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index("ix_job_runs_stage", "job_runs", ["run_id", "stage_index"], unique=False)


def _create_run_stages() -> None:
    op.create_table(
        "run_stages",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("stage_index", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("open_jobs", sa.Integer(), nullable=False),
        sa.CheckConstraint("open_jobs >= 0", name=op.f("ck_run_stages_open_jobs")),
        sa.ForeignKeyConstraint(
            ["run_id"], ["pipeline_runs.id"], name=op.f("fk_run_stages_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "stage_index", name=op.f("pk_run_stages")),
        postgresql_with={"fillfactor": "70"},
    )
