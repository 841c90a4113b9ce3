"""Jobs start and end within their page, where no index has to be written: none names their state any more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Dropped although the release before looks for overdue jobs by it, once a second, and scans job runs for that as long
    # as it runs: while it is there each start and end of a job has to write every index, which is what this mends, and
    # no index that names nothing of a job's progress finds those that run.
    # Of job runs alone: a change of a server that is still there holds these and then wants the queue.
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
