"""Step runs that agents refused to run: counted by the leases that ended so."""

from __future__ import annotations

from uuid import UUID

from arcentra_server.db.engine import Tx

REFUSED = "refused"
"""Why the lease of a step run ended that its agent would not run."""


async def times_refused(tx: Tx, step_id: UUID) -> int:
    """Return how often agents refused a step run so far."""
    query = "SELECT count(*) FROM leases WHERE step_run_id = $1 AND end_reason = $2"
    return int(await tx.fetchval(query, step_id, REFUSED))
