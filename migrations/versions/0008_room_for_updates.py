"""Room for each step run to start and to end within its page, where no index has to be written."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Counts for what is stored from here on; nothing is rewritten.
    op.execute("ALTER TABLE step_runs SET (fillfactor = 50)")


def downgrade() -> None:
    op.execute("ALTER TABLE step_runs SET (fillfactor = 70)")
