"""The queue and the leases: what is free, what waits, and the claim that turns one into the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.shares import LEVEL
from arcentra_server.domain.labels import LabelSet, in_force
from arcentra_server.domain.selectors import Selector
from arcentra_server.scheduling.plan import AgentSlots, Takes

_FREE = """
    WITH room AS MATERIALIZED (
        SELECT a.id, a.claimed_labels::text AS claimed, a.server_labels::text AS given, a.drained OR a.draining AS drains,
               a.capacity - (SELECT count(*) FROM leases l WHERE l.agent_id = a.id AND l.ended_at IS NULL)::int AS free
          FROM agents a
         WHERE a.id = ANY($1) AND a.deleted_at IS NULL AND a.lease_until > clock_timestamp() AND a.approved
           AND NOT a.disabled)
    SELECT id, claimed, given, drains, free FROM room WHERE free > 0 ORDER BY id
"""
# Two servers may reach one agent for a moment: the slots of those that get something are counted again under a lock.
_LOCK = """
    WITH agent AS (
        SELECT id FROM agents WHERE id = ANY($1) AND deleted_at IS NULL AND approved AND NOT disabled
         ORDER BY id FOR NO KEY UPDATE SKIP LOCKED),
    queued AS (SELECT step_run_id FROM step_queue WHERE step_run_id = ANY($2) FOR UPDATE SKIP LOCKED)
    SELECT ARRAY(SELECT id FROM agent) AS agents, ARRAY(SELECT step_run_id FROM queued) AS steps
"""
# Rows that another server claims at this moment are passed over, and those that may not be placed any more.
_CLAIM = f"""
    WITH chosen AS (
        SELECT c.lease_id, c.step_id, c.agent_id, c.place,
               row_number() OVER (PARTITION BY c.agent_id ORDER BY c.place) AS slot
          FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) WITH ORDINALITY AS c(lease_id, step_id, agent_id, place)),
    room AS MATERIALIZED (
        SELECT a.id, a.capacity - (SELECT count(*) FROM leases l WHERE l.agent_id = a.id AND l.ended_at IS NULL) AS free,
               a.drained OR a.draining AS drains
          FROM agents a WHERE a.id = ANY($4)),
    fitting AS (
        SELECT q.step_run_id
          FROM chosen c JOIN room ON room.id = c.agent_id JOIN step_queue q ON q.step_run_id = c.step_id
         WHERE c.slot <= room.free AND NOT q.held AND q.ready_at <= clock_timestamp()
           AND coalesce(q.agent_id = c.agent_id, NOT room.drains)),
    taken AS (
        DELETE FROM step_queue q USING fitting WHERE q.step_run_id = fitting.step_run_id
        RETURNING q.step_run_id, q.pipeline_id, q.share, q.agent_id IS NULL AS free),
    leased AS (
        INSERT INTO leases (id, step_run_id, agent_id, pipeline_id, share)
        SELECT c.lease_id, c.step_id, c.agent_id, t.pipeline_id,
               greatest(v.level, least(t.share, v.level + count(*) FILTER (WHERE t.free) OVER (ORDER BY c.place)))
          FROM taken t JOIN chosen c ON c.step_id = t.step_run_id CROSS JOIN (SELECT {LEVEL} AS level) v
        RETURNING id, step_run_id, agent_id)
    SELECT leased.id, leased.step_run_id, leased.agent_id, s.attempt, coalesce(s.rendered, s.dispatch) AS dispatch,
           s.secrets, s.run_id, r.commit_sha
      FROM leased JOIN step_runs s ON s.id = leased.step_run_id JOIN pipeline_runs r ON r.id = s.run_id
     ORDER BY leased.id
"""
_UNSTARTED = """
    SELECT l.id, l.agent_id, octet_length(coalesce(s.rendered, s.dispatch)) AS size
      FROM leases l JOIN step_runs s ON s.id = l.step_run_id
     WHERE l.agent_id = ANY($1) AND l.ended_at IS NULL AND s.status = 'QUEUED' ORDER BY l.id
"""
# `done`: bytes of the payloads before it. What is left out is not read at all: its size stands beside it.
_FIRST_UNACKED = """
    SELECT id, step_run_id, agent_id, attempt, dispatch, secrets, run_id, commit_sha
      FROM (SELECT l.id, l.step_run_id, l.agent_id, s.attempt, coalesce(s.rendered, s.dispatch) AS dispatch, s.secrets,
                   s.run_id, r.commit_sha, coalesce(sum(octet_length(coalesce(s.rendered, s.dispatch)))
                   OVER (ORDER BY l.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS done
              FROM leases l JOIN step_runs s ON s.id = l.step_run_id JOIN pipeline_runs r ON r.id = s.run_id
             WHERE l.{column} = ANY($1) AND l.ended_at IS NULL AND s.status = 'QUEUED') AS unacked
     WHERE done < $2 ORDER BY id
"""
_FIRST_OF_AGENTS, _FIRST_OF_LEASES = (_FIRST_UNACKED.format(column=column) for column in ("agent_id", "id"))
_HELD = """
    SELECT l.id AS lease_id, l.agent_id, l.step_run_id, s.status, s.cancel_cause, s.cancel_reason
      FROM leases l JOIN step_runs s ON s.id = l.step_run_id WHERE l.agent_id = ANY($1) AND l.ended_at IS NULL
"""
# Each in the order of an index: an empty queue is known at once, however much is held of what is bound to no agent.
_WAITS = """
    SELECT EXISTS (SELECT FROM (SELECT ready_at FROM step_queue WHERE agent_id IS NULL AND NOT held
                                 ORDER BY priority DESC, share, run_id, step_run_id) free
                    WHERE ready_at <= clock_timestamp())
        OR EXISTS (SELECT FROM (SELECT held, ready_at FROM step_queue WHERE agent_id IS NOT NULL ORDER BY agent_id) bound
                    WHERE NOT held AND ready_at <= clock_timestamp())
"""
LARGEST_READ = 32 * 1024 * 1024  # bytes of step runs, about, that are read together for several agents


@lru_cache(maxsize=10_000)
def _labels(claimed: str, given: str) -> LabelSet:
    """Return the labels in force of two documents; equal ones give one set, so that it is matched once."""
    return in_force(json.loads(claimed), json.loads(given))


async def free_slots(tx: Tx, agent_ids: Sequence[UUID]) -> list[AgentSlots]:
    """Return those of the agents that have room, by the leases they hold, and may get something."""
    return [
        AgentSlots(
            row["id"],
            _labels(row["claimed"], row["given"]),
            row["free"],
            Takes.BOUND if row["drains"] else Takes.ALL,
        )
        for row in await tx.fetch(_FREE, agent_ids)
    ]


async def work_waits(tx: Tx) -> bool:
    """Answer whether there is anything in the queue that may be placed now, on whatever agent."""
    return bool(await tx.fetchval(_WAITS))


async def selectors_after(tx: Tx, selector_id: int, passed: Sequence[int]) -> dict[int, Selector]:
    """Return the selectors with a larger id, and those of the passed ids that have been committed meanwhile."""
    query = "SELECT id, document FROM selectors WHERE id > $1 OR id = ANY($2)"
    rows = await tx.fetch(query, selector_id, passed)
    return {row["id"]: Selector.from_json(row["document"]) for row in rows}


async def claim(tx: Tx, leases: Sequence[tuple[UUID, UUID, UUID]]) -> list[Row]:
    """Turn queue rows into leases, given as (lease, step run, agent); return what is to be dispatched.

    What is not in the queue any more, held, or claimed by another server at this moment is left out, and so are agents
    that have no room by now, or that another server claims for.
    """
    # A statement of its own: the claim then sees what whoever had a row locked before has made of its step run.
    agent_ids, step_ids = list({agent_id for _, _, agent_id in leases}), [step_id for _, step_id, _ in leases]
    [(agents, steps)] = await tx.fetch(_LOCK, agent_ids, step_ids)
    locked = set(steps)
    claimed = [lease for lease in leases if lease[1] in locked]
    if not claimed:
        return []
    columns = [list(column) for column in zip(*claimed, strict=True)]
    return list(await tx.fetch(_CLAIM, *columns, agents))


async def unstarted(tx: Tx, agent_ids: Sequence[UUID]) -> list[Row]:
    """Return the leases of agents that they have not started, the oldest first, with the bytes of their step runs.

    The step runs themselves are not read: they may be very large, and more than one message holds.
    """
    return list(await tx.fetch(_UNSTARTED, agent_ids))


async def first_unacknowledged(tx: Tx, agent_ids: Sequence[UUID]) -> list[Row]:
    """Return what agents have not started, the oldest leases first and no more than `LARGEST_READ`; there may be more."""
    return list(await tx.fetch(_FIRST_OF_AGENTS, agent_ids, LARGEST_READ))


async def first_unsent(tx: Tx, lease_ids: Sequence[UUID]) -> list[Row]:
    """Return those of the leases that are not started, the oldest first and no more than `LARGEST_READ`."""
    return list(await tx.fetch(_FIRST_OF_LEASES, lease_ids, LARGEST_READ))


async def held(tx: Tx, agent_ids: Sequence[UUID]) -> list[Row]:
    """Return the step runs that are leased to agents, with their state and whether they are to be cancelled."""
    return list(await tx.fetch(_HELD, agent_ids))


async def step_of(tx: Tx, lease_id: UUID, agent_id: UUID) -> UUID | None:
    """Return the step run of a lease that an agent holds."""
    found: UUID | None = await tx.fetchval(
        "SELECT step_run_id FROM leases WHERE id = $1 AND agent_id = $2 AND ended_at IS NULL", lease_id, agent_id
    )
    return found


async def finished_jobs(tx: Tx, kept: Sequence[tuple[UUID, UUID]]) -> list[tuple[UUID, UUID]]:
    """Return those of the job runs that have ended, do not exist, or have neither their workspace nor a step there.

    Each is given, and returned, as (agent, job run).
    """
    if not kept:
        return []
    rows = await tx.fetch(
        """SELECT c.agent_id, c.id
             FROM unnest($1::uuid[], $2::uuid[]) AS c(agent_id, id) LEFT JOIN job_runs j ON j.id = c.id
            WHERE j.id IS NULL OR j.finished_at IS NOT NULL
               OR j.agent_id IS DISTINCT FROM c.agent_id AND NOT EXISTS (
                  SELECT 1 FROM step_runs s
                   WHERE s.job_run_id = j.id
                     AND (SELECT l.agent_id FROM leases l WHERE l.step_run_id = s.id AND l.end_reason IS NULL)
                         = c.agent_id)""",
        [agent_id for agent_id, _ in kept],
        [job_id for _, job_id in kept],
    )
    return [(row["agent_id"], row["id"]) for row in rows]
