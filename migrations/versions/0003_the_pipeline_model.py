"""The whole pipeline model: order, conditions, gates, concurrency keys, attempts, outputs, deployments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


# Rules for rows that are there already: added without a look at them, and checked when the tables are free again.
_CHECKS = {
    "run_stages": {"gate": "gate IN ('', 'APPROVED', 'REJECTED', 'REQUIRED', 'WAITING')"},
    "job_runs": {
        "gate": "gate IN ('', 'APPROVED', 'REJECTED', 'REQUIRED', 'WAITING')",
        "waits_for": "waits_for IN ('', 'approval', 'concurrency', 'needs', 'retry', 'stage')",
        "open_needs": "open_needs >= 0",
        "retries_left": "retries_left >= 0",
    },
    "step_runs": {"kind": "kind IN ('', 'source', 'target')"},
}


def upgrade() -> None:
    # What is above the block is stored as a whole when the block begins. What is in it can be repeated, and is where
    # the migration was broken off there: the revision is noted at the end.
    if not _is_extended():
        _extend_runs()
        _extend_stages()
        _extend_jobs()
        _extend_steps()
        _extend_events()
        _add_checks()
        _create_needs()
        _create_concurrency()
        _create_approvals()
        _create_deployments()
    # Each statement on its own, so that no table is locked against reading while all its rows are read.
    with op.get_context().autocommit_block():
        _validate_checks()
        _create_deadline_indexes()
        _fill_stages()


def downgrade() -> None:
    for table in ("deployments", "approval_votes", "approvals", "concurrency_claims", "job_needs"):
        op.drop_table(table)
    op.drop_column("events", "waiting")
    op.drop_index("ix_job_runs_deadline", table_name="job_runs")
    for column in ("outputs", "kind", "pin", "condition", "secrets", "templates", "rendered"):
        op.drop_column("step_runs", column)
    for column in (
        "waits_for",
        "target",
        "notify",
        "outputs",
        "output_texts",
        "approval",
        "gate",
        "closing",
        "attempt",
        "retries_left",
        "retry",
        "cancel_in_progress",
        "concurrency_limit",
        "concurrency",
        "priority",
        "allow_failure",
        "walled",
        "upstream",
        "has_dependants",
        "open_needs",
        "total_needs",
        "condition",
        "matrix",
        "definition_name",
        "failure_reason",
    ):
        op.drop_column("job_runs", column)
    for column in ("approval", "gate", "opened", "outcome"):
        op.drop_column("run_stages", column)
    for column in ("rejected", "timed_out", "timeout_ms", "pins", "event", "trigger_actor"):
        op.drop_column("pipeline_runs", column)


def _extend_runs() -> None:
    op.add_column("pipeline_runs", sa.Column("trigger_actor", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column(
        "pipeline_runs", sa.Column("event", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False)
    )
    op.add_column(
        "pipeline_runs", sa.Column("pins", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False)
    )
    op.add_column("pipeline_runs", sa.Column("timeout_ms", sa.BigInteger(), nullable=True))
    op.add_column(
        "pipeline_runs", sa.Column("timed_out", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("pipeline_runs", sa.Column("rejected", sa.Boolean(), server_default=sa.text("false"), nullable=False))


def _extend_stages() -> None:
    op.add_column("run_stages", sa.Column("outcome", sa.Text(), server_default=sa.text("'SKIPPED'"), nullable=False))
    op.add_column("run_stages", sa.Column("opened", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("run_stages", sa.Column("gate", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("run_stages", sa.Column("approval", postgresql.JSONB(), nullable=True))


def _extend_jobs() -> None:
    op.add_column("job_runs", sa.Column("failure_reason", sa.Text(), nullable=True))
    op.add_column("job_runs", sa.Column("definition_name", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("job_runs", sa.Column("matrix", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("job_runs", sa.Column("condition", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("job_runs", sa.Column("total_needs", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("job_runs", sa.Column("open_needs", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column(
        "job_runs", sa.Column("has_dependants", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("job_runs", sa.Column("upstream", sa.Text(), server_default=sa.text("'SKIPPED'"), nullable=False))
    op.add_column("job_runs", sa.Column("walled", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("job_runs", sa.Column("allow_failure", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("job_runs", sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("job_runs", sa.Column("concurrency", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("job_runs", sa.Column("concurrency_limit", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column(
        "job_runs", sa.Column("cancel_in_progress", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("job_runs", sa.Column("retry", postgresql.JSONB(), nullable=True))
    op.add_column("job_runs", sa.Column("retries_left", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("job_runs", sa.Column("attempt", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column("job_runs", sa.Column("closing", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("job_runs", sa.Column("gate", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("job_runs", sa.Column("approval", postgresql.JSONB(), nullable=True))
    op.add_column(
        "job_runs", sa.Column("output_texts", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False)
    )
    op.add_column("job_runs", sa.Column("outputs", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("job_runs", sa.Column("notify", postgresql.JSONB(), nullable=True))
    op.add_column("job_runs", sa.Column("target", postgresql.JSONB(), nullable=True))
    op.add_column("job_runs", sa.Column("waits_for", sa.Text(), server_default=sa.text("''"), nullable=False))


def _extend_steps() -> None:
    op.add_column("step_runs", sa.Column("rendered", sa.LargeBinary(), nullable=True))
    op.add_column("step_runs", sa.Column("templates", postgresql.JSONB(), nullable=True))
    op.add_column("step_runs", sa.Column("secrets", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("step_runs", sa.Column("condition", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("step_runs", sa.Column("kind", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("step_runs", sa.Column("pin", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("step_runs", sa.Column("outputs", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False))


def _create_needs() -> None:
    op.create_table(
        "job_needs",
        sa.Column("job_run_id", sa.UUID(), nullable=False),
        sa.Column("needed_id", sa.UUID(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_run_id"], ["job_runs.id"], name=op.f("fk_job_needs_job_run_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["needed_id"], ["job_runs.id"], name=op.f("fk_job_needs_needed_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_run_id", "needed_id", name=op.f("pk_job_needs")),
    )
    op.create_index("ix_job_needs_needed", "job_needs", ["needed_id"], unique=False)


def _create_concurrency() -> None:
    op.create_table(
        "concurrency_claims",
        sa.Column("job_run_id", sa.UUID(), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("job_index", sa.Integer(), nullable=False),
        sa.Column("most", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("cancel_in_progress", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("place", sa.Integer(), nullable=True),
        sa.Column(
            "since", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("place >= 0 AND place < most", name=op.f("ck_concurrency_claims_place")),
        sa.ForeignKeyConstraint(
            ["job_run_id"], ["job_runs.id"], name=op.f("fk_concurrency_claims_job_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_run_id", name=op.f("pk_concurrency_claims")),
    )
    op.create_index(
        "ix_concurrency_claims_waiting", "concurrency_claims", ["namespace", "key", "run_id", "job_index"], unique=False
    )
    op.create_index(
        "uq_concurrency_claims_place",
        "concurrency_claims",
        ["namespace", "key", "place"],
        unique=True,
        postgresql_where=sa.text("place IS NOT NULL"),
    )


def _create_approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("pipeline_id", sa.UUID(), nullable=False),
        sa.Column("stage_index", sa.Integer(), nullable=True),
        sa.Column("job_run_id", sa.UUID(), nullable=True),
        sa.Column("state", sa.Text(), server_default=sa.text("'PENDING'"), nullable=False),
        sa.Column("needed", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("approvers", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("separation", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("spec_digest", sa.LargeBinary(), nullable=False),
        sa.Column("commit_sha", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("decided_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'PENDING') = (decided_at IS NULL)", name=op.f("ck_approvals_decided")),
        sa.CheckConstraint(
            "state IN ('APPROVED', 'CANCELLED', 'EXPIRED', 'PENDING', 'REJECTED')", name=op.f("ck_approvals_state")
        ),
        sa.CheckConstraint("(stage_index IS NULL) <> (job_run_id IS NULL)", name=op.f("ck_approvals_place")),
        sa.ForeignKeyConstraint(
            ["job_run_id"], ["job_runs.id"], name=op.f("fk_approvals_job_run_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["pipeline_runs.id"], name=op.f("fk_approvals_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approvals")),
    )
    op.create_index(
        "ix_approvals_pending", "approvals", ["expires_at"], unique=False, postgresql_where=sa.text("state = 'PENDING'")
    )
    op.create_index("ix_approvals_run", "approvals", ["run_id"], unique=False)
    op.create_index("ix_approvals_created", "approvals", ["created_at", "id"], unique=False)
    op.create_index("ix_approvals_pipeline", "approvals", ["pipeline_id", "created_at"], unique=False)
    op.create_index(
        "uq_approvals_job",
        "approvals",
        ["job_run_id"],
        unique=True,
        postgresql_where=sa.text("state = 'PENDING' AND job_run_id IS NOT NULL"),
    )
    op.create_index(
        "uq_approvals_stage",
        "approvals",
        ["run_id", "stage_index"],
        unique=True,
        postgresql_where=sa.text("state = 'PENDING' AND stage_index IS NOT NULL"),
    )
    op.create_table(
        "approval_votes",
        sa.Column("approval_id", sa.UUID(), nullable=False),
        sa.Column("voter", sa.Text(), nullable=False),
        sa.Column("approved", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("comment", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "voted_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["approval_id"], ["approvals.id"], name=op.f("fk_approval_votes_approval_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("approval_id", "voter", name=op.f("pk_approval_votes")),
    )


def _create_deployments() -> None:
    op.create_table(
        "deployments",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("pipeline_id", sa.UUID(), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("job_run_id", sa.UUID(), nullable=False),
        sa.Column("step_run_id", sa.UUID(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("commit_sha", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("triggered_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "finished_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["job_run_id"], ["job_runs.id"], name=op.f("fk_deployments_job_run_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["pipeline_id"], ["pipelines.id"], name=op.f("fk_deployments_pipeline_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["pipeline_runs.id"], name=op.f("fk_deployments_run_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["step_run_id"], ["step_runs.id"], name=op.f("fk_deployments_step_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
        sa.UniqueConstraint("step_run_id", name=op.f("uq_deployments_step_run_id")),
    )
    op.create_index("ix_deployments_pipeline", "deployments", ["pipeline_id", "finished_at"], unique=False)
    op.create_index("ix_deployments_run", "deployments", ["run_id"], unique=False)
    op.create_index("ix_deployments_finished", "deployments", ["finished_at", "id"], unique=False)
    op.create_index("ix_deployments_target", "deployments", ["namespace", "target", "finished_at"], unique=False)


def _extend_events() -> None:
    op.add_column("events", sa.Column("waiting", sa.Text(), server_default=sa.text("''"), nullable=False))


def _is_extended() -> bool:
    return any(column["name"] == "waiting" for column in sa.inspect(op.get_bind()).get_columns("events"))


def _add_checks() -> None:
    for table, checks in _CHECKS.items():
        for name, rule in checks.items():
            op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, rule, postgresql_not_valid=True)


def _validate_checks() -> None:
    for table, checks in _CHECKS.items():
        for name in checks:
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_{name}")


def _create_deadline_indexes() -> None:
    # Not CONCURRENTLY: that waits for every older transaction, and so for the servers that wait for this migration.
    op.create_index(
        "ix_pipeline_runs_deadline",
        "pipeline_runs",
        ["id"],
        unique=False,
        if_not_exists=True,
        postgresql_where=sa.text("finished_at IS NULL AND timeout_ms IS NOT NULL"),
    )
    op.create_index(
        "ix_job_runs_deadline",
        "job_runs",
        ["id"],
        unique=False,
        if_not_exists=True,
        postgresql_where=sa.text("status = 'RUNNING' AND closing = '' AND timeout_ms IS NOT NULL"),
    )


def _fill_stages() -> None:
    """Say of the runs that are there how their stages ended so far, and how far they are.

    `job_runs.upstream` stays: it is set as a stage is entered, and asked for by what only jobs with `needs` have.
    """
    op.execute("""
        UPDATE run_stages t SET outcome = e.outcome
          FROM (SELECT run_id, stage_index,
                       CASE WHEN bool_or(status = 'CANCELLED') THEN 'CANCELLED'
                            WHEN bool_or(status IN ('FAILED', 'TIMEOUT')) THEN 'FAILED'
                            WHEN bool_or(status = 'PARTIAL') THEN 'PARTIAL'
                            WHEN bool_or(status = 'SUCCESS') THEN 'SUCCESS'
                            ELSE 'SKIPPED' END AS outcome
                  FROM job_runs WHERE finished_at IS NOT NULL GROUP BY run_id, stage_index) e
         WHERE t.run_id = e.run_id AND t.stage_index = e.stage_index AND t.outcome <> e.outcome
    """)
    # Stages that runs which are not finished have reached: all before have no open job.
    op.execute("""
        UPDATE run_stages t SET opened = true
          FROM pipeline_runs r
         WHERE r.id = t.run_id AND r.finished_at IS NULL AND NOT EXISTS (
               SELECT 1 FROM run_stages b WHERE b.run_id = t.run_id AND b.stage_index < t.stage_index AND b.open_jobs > 0)
    """)
    op.execute("""
        UPDATE job_runs j SET waits_for = 'stage'
          FROM pipeline_runs r, run_stages t
         WHERE r.id = j.run_id AND r.finished_at IS NULL AND j.status = 'PENDING'
           AND t.run_id = j.run_id AND t.stage_index = j.stage_index AND NOT t.opened
    """)
