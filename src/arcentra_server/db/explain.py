"""What an explanation of a waiting step run is made of: its place in the queue, its selector, and the agents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.engine import Tx
from arcentra_server.domain.labels import in_force
from arcentra_server.domain.selectors import Selector
from arcentra_server.scheduling.explain import AgentView


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """A step run in the queue. `bound_to`: the only agent that may take it. `delayed`: `ready_at` has not come."""

    selector_id: int
    bound_to: UUID | None
    priority: int
    held: bool
    delayed: bool
    ready_at: datetime
    queued_at: datetime


async def place_of(tx: Tx, step_id: UUID) -> QueuePlace | None:
    """Return where a step run stands in the queue, None when it does not stand there."""
    row = await tx.fetchrow(
        """SELECT q.selector_id, q.agent_id, q.priority, q.held, q.ready_at > clock_timestamp() AS delayed, q.ready_at,
                  greatest(s.created_at, least(q.ready_at, clock_timestamp())) AS queued_at
             FROM step_queue q JOIN step_runs s ON s.id = q.step_run_id WHERE q.step_run_id = $1""",
        step_id,
    )
    return QueuePlace(*row) if row else None


async def selector_of(tx: Tx, selector_id: int) -> Selector:
    """Return a selector."""
    return Selector.from_json(await tx.fetchval("SELECT document FROM selectors WHERE id = $1", selector_id))


async def queued_selectors(tx: Tx) -> dict[int, Selector]:
    """Return the selectors of what any agent may take that waits in the queue."""
    rows = await tx.fetch(
        """SELECT id, document FROM selectors c
            WHERE EXISTS (SELECT 1 FROM step_queue q WHERE q.selector_id = c.id AND q.agent_id IS NULL AND NOT q.held)"""
    )
    return {row["id"]: Selector.from_json(row["document"]) for row in rows}


async def rank(tx: Tx, step_id: UUID, selector_ids: Sequence[int]) -> tuple[int, int]:
    """Return the place of a step run, from 1, among those of some selectors that wait for any agent, and how many.

    The order is that in which they are placed (docs/scheduling.md).
    """
    row = await tx.fetchrow(
        """SELECT count(*) FILTER (WHERE (-q.priority, q.share, q.run_id, q.step_run_id)
                                       <= (-s.priority, s.share, s.run_id, s.step_run_id)) AS place, count(*) AS length
             FROM step_queue q, (SELECT * FROM step_queue WHERE step_run_id = $1) s
            WHERE q.selector_id = ANY($2) AND q.agent_id IS NULL AND NOT q.held
              AND q.ready_at <= clock_timestamp()""",
        step_id,
        selector_ids,
    )
    return (row["place"], row["length"]) if row else (0, 0)


async def rank_of_bound(tx: Tx, step_id: UUID, agent_id: UUID) -> tuple[int, int]:
    """Return the place of a step run among those that only its agent may take, and how many these are."""
    row = await tx.fetchrow(
        """SELECT count(*) FILTER (WHERE (-q.priority, q.share, q.run_id, q.step_run_id)
                                       <= (-s.priority, s.share, s.run_id, s.step_run_id)) AS place, count(*) AS length
             FROM step_queue q, (SELECT * FROM step_queue WHERE step_run_id = $1) s
            WHERE q.agent_id = $2 AND NOT q.held AND q.ready_at <= clock_timestamp()""",
        step_id,
        agent_id,
    )
    return (row["place"], row["length"]) if row else (0, 0)


async def agents(tx: Tx) -> list[AgentView]:
    """Return every agent that has not left, by name."""
    rows = await tx.fetch(
        """SELECT a.id, a.name, a.claimed_labels, a.server_labels, a.capacity,
                  (SELECT count(*) FROM leases l WHERE l.agent_id = a.id AND l.ended_at IS NULL)::int AS running,
                  coalesce(a.lease_until > clock_timestamp(), false) AS online,
                  extract(epoch FROM a.last_contact_at)::float8 AS last_contact, a.approved, a.disabled,
                  a.drained OR a.draining AS drains, a.note
             FROM agents a WHERE a.deleted_at IS NULL ORDER BY a.name, a.id"""
    )
    return [
        AgentView(
            row["id"], row["name"], in_force(row["claimed_labels"], row["server_labels"]), *list(row.values())[4:]
        )
        for row in rows
    ]


async def now(tx: Tx) -> float:
    """Return the clock of the database, Unix seconds."""
    seconds: float = await tx.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    return seconds
