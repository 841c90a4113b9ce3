"""What waits of jobs that have started, whose time goes on, is found by the queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The release before leaves it out of what it queues: the watchdog puts that right.
    op.add_column("step_queue", sa.Column("job_started", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.execute(
        "UPDATE step_queue q SET job_started = true FROM step_runs s JOIN job_runs j ON j.id = s.job_run_id"
        " WHERE s.id = q.step_run_id AND j.status = 'RUNNING'"
    )
    op.create_index("ix_step_queue_started", "step_queue", ["step_run_id"], postgresql_where=sa.text("job_started"))


def downgrade() -> None:
    op.drop_index("ix_step_queue_started", "step_queue")
    op.drop_column("step_queue", "job_started")
