"""What is overdue, by the clock of the database."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from uuid import UUID

from arcentra_server.db.engine import Tx
from arcentra_server.domain.execution import CancelCommand


async def lapsed_agents(tx: Tx, limit: int) -> list[UUID]:
    """Return agents whose lease time has passed; not locked."""
    rows = await tx.fetch(
        "SELECT id FROM agents WHERE lease_until < clock_timestamp() AND deleted_at IS NULL ORDER BY id LIMIT $1", limit
    )
    return [row["id"] for row in rows]


async def orphaned_steps(tx: Tx, limit: int) -> list[UUID]:
    """Return queued step runs that only an agent could take which is gone, with the workspace of their job."""
    rows = await tx.fetch(
        """SELECT q.step_run_id FROM step_queue q JOIN agents a ON a.id = q.agent_id
            WHERE q.agent_id IS NOT NULL AND (a.deleted_at IS NOT NULL OR a.lease_until IS NULL)
            ORDER BY q.step_run_id LIMIT $1""",
        limit,
    )
    return [row["step_run_id"] for row in rows]


async def unstarted_steps(tx: Tx, seconds: float, limit: int) -> list[UUID]:
    """Return step runs that were leased so long ago and have not been started; not locked."""
    rows = await tx.fetch(
        """SELECT s.id FROM leases l JOIN step_runs s ON s.id = l.step_run_id
            WHERE l.ended_at IS NULL AND s.status = 'QUEUED'
              AND l.created_at < clock_timestamp() - make_interval(secs => $1)
            ORDER BY l.id LIMIT $2""",
        seconds,
        limit,
    )
    return [row["id"] for row in rows]


async def pending_cancels(tx: Tx, limit: int) -> list[CancelCommand]:
    """Return the running step runs that were asked to end and have not, with the agents that hold them."""
    rows = await tx.fetch(
        """SELECT l.agent_id, s.id, s.cancel_reason FROM leases l JOIN step_runs s ON s.id = l.step_run_id
            WHERE l.ended_at IS NULL AND s.cancel_cause IS NOT NULL AND s.status = 'RUNNING' ORDER BY l.id LIMIT $1""",
        limit,
    )
    return [CancelCommand(*row) for row in rows]


async def ignored_cancels(tx: Tx, seconds: float, limit: int) -> list[UUID]:
    """Return the running step runs that were asked to end so long ago; not locked."""
    rows = await tx.fetch(
        """SELECT s.id FROM leases l JOIN step_runs s ON s.id = l.step_run_id
            WHERE l.ended_at IS NULL AND s.status = 'RUNNING'
              AND s.cancel_requested_at < clock_timestamp() - make_interval(secs => $1)
            ORDER BY l.id LIMIT $2""",
        seconds,
        limit,
    )
    return [row["id"] for row in rows]


async def overdue_steps(tx: Tx, grace_seconds: float, limit: int) -> list[UUID]:
    """Return running step runs that are past their timeout and the grace; not locked."""
    rows = await tx.fetch(
        """SELECT s.id FROM leases l JOIN step_runs s ON s.id = l.step_run_id
            WHERE l.ended_at IS NULL AND s.status = 'RUNNING' AND s.cancel_cause IS NULL
              AND clock_timestamp() > s.started_at + s.timeout_ms * interval '1 ms' + make_interval(secs => $1)
            ORDER BY l.id LIMIT $2""",
        grace_seconds,
        limit,
    )
    return [row["id"] for row in rows]


async def overdue_jobs(tx: Tx, limit: int) -> list[tuple[UUID, UUID]]:
    """Return (run, job run) of jobs that are past their timeout and of which something runs or waits; not locked.

    A job that waits at its gate has done its work; one that was asked to end is being ended.
    """
    rows = await tx.fetch(
        """SELECT run_id, id FROM job_runs
            WHERE status = 'RUNNING' AND closing = '' AND timeout_ms IS NOT NULL AND gate <> 'WAITING'
              AND clock_timestamp() > started_at + timeout_ms * interval '1 ms'
            ORDER BY id LIMIT $1""",
        limit,
    )
    return [(row["run_id"], row["id"]) for row in rows]


async def overdue_runs(tx: Tx, limit: int) -> list[UUID]:
    """Return runs that are past their timeout; not locked."""
    rows = await tx.fetch(
        """SELECT id FROM pipeline_runs
            WHERE finished_at IS NULL AND timeout_ms IS NOT NULL AND NOT stopped AND NOT timed_out
              AND clock_timestamp() > started_at + timeout_ms * interval '1 ms'
            ORDER BY id LIMIT $1""",
        limit,
    )
    return [row["id"] for row in rows]


async def expired_approvals(tx: Tx, passed_over: Iterable[Hashable], limit: int) -> list[UUID]:
    """Return gates that were not decided in time, without those that are left alone for now; not locked."""
    rows = await tx.fetch(
        """SELECT id FROM approvals
            WHERE state = 'PENDING' AND expires_at < clock_timestamp() AND id <> ALL($1::uuid[])
            ORDER BY expires_at LIMIT $2""",
        list(passed_over),
        limit,
    )
    return [row["id"] for row in rows]
