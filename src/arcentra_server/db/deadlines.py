"""What is overdue, by the clock of the database, without what is passed over as it could not be dealt with."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from uuid import UUID

from arcentra_server.db.engine import Tx

Passed = Iterable[Hashable]
"""Ids of what is left alone for now."""


async def lapsed_agents(tx: Tx, passed_over: Passed, limit: int) -> list[UUID]:
    """Return agents whose lease time has passed; not locked."""
    rows = await tx.fetch(
        """SELECT id FROM agents
            WHERE lease_until < clock_timestamp() AND deleted_at IS NULL AND id <> ALL($1::uuid[])
            ORDER BY id LIMIT $2""",
        list(passed_over),
        limit,
    )
    return [row["id"] for row in rows]


async def forsaken_steps(tx: Tx, passed_over: Passed, limit: int) -> list[UUID]:
    """Return step runs that are leased to an agent which is away, or has left; not locked."""
    rows = await tx.fetch(
        """SELECT step_run_id FROM leases
            WHERE ended_at IS NULL AND agent_id = ANY(ARRAY(SELECT id FROM agents WHERE lease_until IS NULL))
              AND step_run_id <> ALL($1::uuid[])
            ORDER BY id LIMIT $2""",
        list(passed_over),
        limit,
    )
    return [row["step_run_id"] for row in rows]


async def orphaned_steps(tx: Tx, passed_over: Passed, limit: int) -> list[UUID]:
    """Return queued step runs that only an agent could take which is gone, with the workspace of their job."""
    rows = await tx.fetch(
        """SELECT q.step_run_id FROM step_queue q JOIN agents a ON a.id = q.agent_id
            WHERE q.agent_id IS NOT NULL AND (a.deleted_at IS NOT NULL OR a.lease_until IS NULL)
              AND q.step_run_id <> ALL($1::uuid[])
            ORDER BY q.step_run_id LIMIT $2""",
        list(passed_over),
        limit,
    )
    return [row["step_run_id"] for row in rows]


async def unstarted_steps(tx: Tx, seconds: float, passed_over: Passed, limit: int) -> list[UUID]:
    """Return step runs that were leased so long ago and have not been started; not locked."""
    rows = await tx.fetch(
        """SELECT s.id FROM leases l JOIN step_runs s ON s.id = l.step_run_id
            WHERE l.ended_at IS NULL AND s.status = 'QUEUED'
              AND l.created_at < clock_timestamp() - make_interval(secs => $1) AND s.id <> ALL($2::uuid[])
            ORDER BY l.id LIMIT $3""",
        seconds,
        list(passed_over),
        limit,
    )
    return [row["id"] for row in rows]


async def ignored_cancels(tx: Tx, seconds: float, passed_over: Passed, limit: int) -> list[UUID]:
    """Return the running step runs that were asked to end so long ago; not locked."""
    rows = await tx.fetch(
        """SELECT s.id FROM leases l JOIN step_runs s ON s.id = l.step_run_id
            WHERE l.ended_at IS NULL AND s.status = 'RUNNING'
              AND s.cancel_requested_at < clock_timestamp() - make_interval(secs => $1) AND s.id <> ALL($2::uuid[])
            ORDER BY l.id LIMIT $3""",
        seconds,
        list(passed_over),
        limit,
    )
    return [row["id"] for row in rows]


async def overdue_steps(tx: Tx, grace_seconds: float, passed_over: Passed, limit: int) -> list[UUID]:
    """Return running step runs that are past their timeout and the grace; not locked."""
    rows = await tx.fetch(
        """SELECT s.id FROM leases l JOIN step_runs s ON s.id = l.step_run_id
            WHERE l.ended_at IS NULL AND s.status = 'RUNNING' AND s.cancel_cause IS NULL
              AND clock_timestamp() > s.started_at + s.timeout_ms * interval '1 ms' + make_interval(secs => $1)
              AND s.id <> ALL($2::uuid[])
            ORDER BY l.id LIMIT $3""",
        grace_seconds,
        list(passed_over),
        limit,
    )
    return [row["id"] for row in rows]


async def overdue_jobs(tx: Tx, passed_over: Iterable[tuple[UUID, UUID]], limit: int) -> list[tuple[UUID, UUID]]:
    """Return (run, job run) of jobs that are past their timeout and of which something runs or waits; not locked.

    Whatever has started has a step that is leased, or in the queue with a mark (the watchdog marks what the previous
    release queues). A job that waits at its gate has done its work; one that was asked to end is being ended.
    """
    rows = await tx.fetch(
        """WITH going AS (
               SELECT step_run_id FROM leases WHERE ended_at IS NULL
                UNION ALL SELECT step_run_id FROM step_queue WHERE job_started)
           SELECT DISTINCT j.run_id, j.id
             FROM going JOIN step_runs s ON s.id = going.step_run_id JOIN job_runs j ON j.id = s.job_run_id
            WHERE j.status = 'RUNNING' AND j.closing = '' AND j.timeout_ms IS NOT NULL AND j.gate <> 'WAITING'
              AND clock_timestamp() > j.started_at + j.timeout_ms * interval '1 ms' AND j.id <> ALL($1::uuid[])
            ORDER BY j.id LIMIT $2""",
        [job_id for _, job_id in passed_over],
        limit,
    )
    return [(row["run_id"], row["id"]) for row in rows]


async def overdue_runs(tx: Tx, passed_over: Passed, limit: int) -> list[UUID]:
    """Return runs that are past their timeout; not locked."""
    rows = await tx.fetch(
        """SELECT id FROM pipeline_runs
            WHERE finished_at IS NULL AND timeout_ms IS NOT NULL AND NOT stopped AND NOT timed_out
              AND clock_timestamp() > started_at + timeout_ms * interval '1 ms' AND id <> ALL($1::uuid[])
            ORDER BY id LIMIT $2""",
        list(passed_over),
        limit,
    )
    return [row["id"] for row in rows]


async def expired_approvals(tx: Tx, passed_over: Passed, limit: int) -> list[UUID]:
    """Return gates that were not decided in time, without those that are left alone for now; not locked."""
    rows = await tx.fetch(
        """SELECT id FROM approvals
            WHERE state = 'PENDING' AND expires_at < clock_timestamp() AND id <> ALL($1::uuid[])
            ORDER BY expires_at LIMIT $2""",
        list(passed_over),
        limit,
    )
    return [row["id"] for row in rows]
