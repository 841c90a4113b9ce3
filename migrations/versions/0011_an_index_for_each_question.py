"""The leases of agents and the lease of a step are each found by an index that answers nothing else."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Dropped first: it takes the stronger lock. Who waits for it does not hold what the other waits for.
    op.drop_index("uq_leases_active", "leases")
    op.create_index(
        "uq_leases_held", "leases", ["step_run_id"], unique=True, postgresql_where=sa.text("end_reason IS NULL")
    )


def downgrade() -> None:
    op.drop_index("uq_leases_held", "leases")
    op.create_index(
        "uq_leases_active", "leases", ["step_run_id"], unique=True, postgresql_where=sa.text("ended_at IS NULL")
    )
