"""What waits of jobs that have started, whose time goes on, is found by the queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The watchdog marks what waits by now, and what the release before queues after this: it takes few rows at a time,
    # where an update here would keep everybody from the queue until it had looked at all of it. The index is empty.
    op.add_column("step_queue", sa.Column("job_started", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index("ix_step_queue_started", "step_queue", ["step_run_id"], postgresql_where=sa.text("job_started"))


def downgrade() -> None:
    op.drop_index("ix_step_queue_started", "step_queue")
    op.drop_column("step_queue", "job_started")
