"""Runs that ended just now are found by an index, to look whether something of them goes on."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The end of a run writes every index of its row already: others name whether it has ended.
    op.create_index("ix_pipeline_runs_finished", "pipeline_runs", ["finished_at"])


def downgrade() -> None:
    op.drop_index("ix_pipeline_runs_finished", "pipeline_runs")
