"""The queue and the leases: what is free, what waits, and the claim that turns one into the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain.selectors import Selector
from arcentra_server.scheduling.plan import AgentSlots, QueuedStep

# Two servers may reach one agent for a moment: whoever locks it first has counted its slots for both.
_LOCK_AGENTS = """
    SELECT id FROM agents WHERE id = ANY($1) AND deleted_at IS NULL ORDER BY id FOR NO KEY UPDATE
"""
_FREE = """
    SELECT a.id, a.claimed_labels || a.server_labels AS labels, (a.capacity - count(l.id))::int AS free
      FROM agents a LEFT JOIN leases l ON l.agent_id = a.id AND l.ended_at IS NULL
     WHERE a.id = ANY($1) AND a.deleted_at IS NULL
     GROUP BY a.id HAVING a.capacity > count(l.id) ORDER BY a.id
"""
# The head of each selector's queue. Rows that another server claims at this moment are passed over.
_FREE_HEADS = """
    SELECT q.step_run_id, q.selector_id
      FROM unnest($1::int[], $2::int[]) AS c(selector_id, room)
     CROSS JOIN LATERAL (
           SELECT step_run_id, selector_id, priority, run_id FROM step_queue
            WHERE selector_id = c.selector_id AND agent_id IS NULL AND NOT held AND ready_at <= clock_timestamp()
            ORDER BY priority DESC, run_id, step_run_id
            LIMIT c.room FOR UPDATE SKIP LOCKED) q
     ORDER BY q.priority DESC, q.run_id, q.step_run_id LIMIT $3
"""
_BOUND_HEADS = """
    SELECT step_run_id, selector_id, agent_id FROM step_queue
     WHERE agent_id = ANY($1) AND NOT held AND ready_at <= clock_timestamp()
     ORDER BY priority DESC, run_id, step_run_id LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_CLAIM = """
    WITH taken AS (
        DELETE FROM step_queue q USING unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS c(lease_id, step_id, agent_id)
         WHERE q.step_run_id = c.step_id RETURNING c.lease_id, c.step_id, c.agent_id),
    leased AS (
        INSERT INTO leases (id, step_run_id, agent_id) SELECT lease_id, step_id, agent_id FROM taken
        RETURNING id, step_run_id, agent_id)
    SELECT leased.id, leased.step_run_id, leased.agent_id, s.attempt, s.dispatch
      FROM leased JOIN step_runs s ON s.id = leased.step_run_id ORDER BY leased.id
"""
_UNACKED = """
    SELECT l.id, l.step_run_id, l.agent_id, s.attempt, s.dispatch
      FROM leases l JOIN step_runs s ON s.id = l.step_run_id
     WHERE l.agent_id = $1 AND l.ended_at IS NULL AND s.status = 'QUEUED' ORDER BY l.id
"""
_HELD = """
    SELECT l.step_run_id, s.status, s.cancel_cause, s.cancel_reason
      FROM leases l JOIN step_runs s ON s.id = l.step_run_id WHERE l.agent_id = $1 AND l.ended_at IS NULL
"""


async def free_slots(tx: Tx, agent_ids: Sequence[UUID]) -> list[AgentSlots]:
    """Lock agents; return those that have room, by the leases they hold."""
    await tx.execute(_LOCK_AGENTS, agent_ids)
    return [AgentSlots(row["id"], row["labels"], row["free"]) for row in await tx.fetch(_FREE, agent_ids)]


async def selectors_after(tx: Tx, selector_id: int, passed: Sequence[int]) -> dict[int, Selector]:
    """Return the selectors with a larger id, and those of the passed ids that have been committed meanwhile."""
    query = "SELECT id, document FROM selectors WHERE id > $1 OR id = ANY($2)"
    rows = await tx.fetch(query, selector_id, passed)
    return {row["id"]: Selector.from_json(row["document"]) for row in rows}


async def lock_heads(tx: Tx, rooms: Mapping[int, int], agent_ids: Sequence[UUID], limit: int) -> list[QueuedStep]:
    """Lock and return the most urgent step runs that any of the agents could take, those bound to one of them first.

    Args:
        tx: The transaction.
        rooms: For each selector how many step runs its agents have room for.
        agent_ids: The agents.
        limit: How many step runs to return of each of the two kinds.
    """
    bound = await tx.fetch(_BOUND_HEADS, agent_ids, limit)
    free = await tx.fetch(_FREE_HEADS, list(rooms), list(rooms.values()), limit)
    steps = [QueuedStep(row["step_run_id"], row["selector_id"], row["agent_id"]) for row in bound]
    return steps + [QueuedStep(row["step_run_id"], row["selector_id"]) for row in free]


async def claim(tx: Tx, leases: Sequence[tuple[UUID, UUID, UUID]]) -> list[Row]:
    """Turn queue rows into leases, given as (lease, step run, agent); return what is to be dispatched."""
    return list(await tx.fetch(_CLAIM, *(list(column) for column in zip(*leases, strict=True))))


async def unacknowledged(tx: Tx, agent_id: UUID) -> list[Row]:
    """Return the leases of an agent that it has not started: they are sent again when it connects."""
    return list(await tx.fetch(_UNACKED, agent_id))


async def held(tx: Tx, agent_id: UUID) -> list[Row]:
    """Return the step runs that are leased to an agent, with their state and whether they are to be cancelled."""
    return list(await tx.fetch(_HELD, agent_id))


async def step_of(tx: Tx, lease_id: UUID, agent_id: UUID) -> UUID | None:
    """Return the step run of a lease that an agent holds."""
    found: UUID | None = await tx.fetchval(
        "SELECT step_run_id FROM leases WHERE id = $1 AND agent_id = $2 AND ended_at IS NULL", lease_id, agent_id
    )
    return found


async def finished_jobs(tx: Tx, job_ids: Sequence[UUID], agent_id: UUID) -> list[UUID]:
    """Return those of the job runs that have ended, do not exist, or are not on this agent."""
    rows = await tx.fetch(
        """SELECT c.id FROM unnest($1::uuid[]) AS c(id) LEFT JOIN job_runs j ON j.id = c.id
            WHERE j.id IS NULL OR j.finished_at IS NOT NULL OR j.agent_id IS DISTINCT FROM $2""",
        job_ids,
        agent_id,
    )
    return [row["id"] for row in rows]
