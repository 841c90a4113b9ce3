"""Jobs start and end within their page, where no index has to be written: none names their state any more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # What waits of jobs that have started is found by the queue, where the release before leaves it out: a job whose next
    # step that one queues is found by its agent, or when the step starts.
    op.add_column("step_queue", sa.Column("job_started", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.execute(
        "UPDATE step_queue q SET job_started = true FROM step_runs s JOIN job_runs j ON j.id = s.job_run_id"
        " WHERE s.id = q.step_run_id AND j.status = 'RUNNING'"
    )
    op.create_index("ix_step_queue_started", "step_queue", ["step_run_id"], postgresql_where=sa.text("job_started"))
    op.drop_index("ix_job_runs_deadline", "job_runs")
    # Counts for what is stored from here on; nothing is rewritten.
    op.execute("ALTER TABLE job_runs SET (fillfactor = 50)")


def downgrade() -> None:
    op.execute("ALTER TABLE job_runs SET (fillfactor = 70)")
    op.create_index(
        "ix_job_runs_deadline",
        "job_runs",
        ["id"],
        postgresql_where=sa.text("status = 'RUNNING' AND closing = '' AND timeout_ms IS NOT NULL"),
    )
    op.drop_index("ix_step_queue_started", "step_queue")
    op.drop_column("step_queue", "job_started")
