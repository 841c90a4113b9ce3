"""What agents are to be told: leases that they have not started, and cancellations that they have not obeyed."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from arcentra_server.db.engine import Tx
from arcentra_server.domain.execution import CancelCommand

# A lease younger than this may be on its way from the server that gave it.
FRESH_SECONDS = 0.5


async def unstarted_leases(tx: Tx) -> tuple[dict[UUID, UUID], set[UUID]]:
    """Return the open leases whose step runs are not started, with their agents, and those that were given just now."""
    rows = await tx.fetch(
        """SELECT l.id, l.agent_id, l.created_at >= clock_timestamp() - make_interval(secs => $1) AS fresh
             FROM leases l JOIN step_runs s ON s.id = l.step_run_id
            WHERE l.ended_at IS NULL AND s.status = 'QUEUED'""",
        FRESH_SECONDS,
    )
    return {row["id"]: row["agent_id"] for row in rows}, {row["id"] for row in rows if row["fresh"]}


async def pending_cancels(tx: Tx, agent_ids: Sequence[UUID], limit: int) -> list[CancelCommand]:
    """Return the running step runs of these agents that were asked to end and have not, the longest asked first."""
    rows = await tx.fetch(
        """SELECT l.agent_id, s.id, s.cancel_reason FROM leases l JOIN step_runs s ON s.id = l.step_run_id
            WHERE l.ended_at IS NULL AND s.cancel_cause IS NOT NULL AND s.status = 'RUNNING' AND l.agent_id = ANY($1)
            ORDER BY s.cancel_requested_at, l.id LIMIT $2""",
        agent_ids,
        limit,
    )
    return [CancelCommand(*row) for row in rows]
