"""What must never be, and is looked for all the same: rows that do not fit together.

Each statement sees what is committed at one moment, and the rules hold at each commit: whatever is found is broken. It
is looked at again under the lock of its run before anything is done about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from arcentra_server.db.deadlines import Passed
from arcentra_server.db.engine import Tx

PassedJobs = Iterable[tuple[UUID, UUID]]
"""The same of jobs, with their runs."""

_OPEN_RUNS = "(SELECT id FROM pipeline_runs WHERE finished_at IS NULL)"

_UNHELD = """
    SELECT s.id FROM step_runs s
     WHERE s.run_id IN (SELECT run_id FROM job_runs WHERE finished_at IS NULL) AND s.status = 'RUNNING'
       AND s.id <> ALL($1::uuid[])
       AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.step_run_id = s.id AND l.ended_at IS NULL)
     ORDER BY s.id LIMIT $2
"""
_UNQUEUED = f"""
    SELECT s.id FROM step_runs s
     WHERE s.run_id IN {_OPEN_RUNS} AND s.status = 'QUEUED' AND s.id <> ALL($1::uuid[])
       AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.step_run_id = s.id AND l.ended_at IS NULL)
       AND NOT EXISTS (SELECT 1 FROM step_queue q WHERE q.step_run_id = s.id)
     ORDER BY s.id LIMIT $2
"""
_STRAY_QUEUE = """
    SELECT q.step_run_id AS id FROM step_queue q JOIN step_runs s ON s.id = q.step_run_id
     WHERE s.id <> ALL($1::uuid[])
       AND (s.status <> 'QUEUED'
            OR EXISTS (SELECT 1 FROM leases l WHERE l.step_run_id = s.id AND l.ended_at IS NULL))
     ORDER BY q.step_run_id LIMIT $2
"""
# Each row is looked up by itself: a join would read all step runs there are, as most of a long queue has not started.
_UNTIMED = """
    SELECT q.step_run_id AS id FROM pipeline_runs r JOIN step_queue q ON q.run_id = r.id
     WHERE r.finished_at IS NULL AND r.running_jobs > 0 AND NOT q.job_started AND q.step_run_id <> ALL($1::uuid[])
       AND (SELECT j.status FROM step_runs s JOIN job_runs j ON j.id = s.job_run_id WHERE s.id = q.step_run_id) = 'RUNNING'
     ORDER BY q.step_run_id LIMIT $2
"""
_STRAY_LEASES = """
    SELECT l.step_run_id AS id FROM leases l JOIN step_runs s ON s.id = l.step_run_id
     WHERE l.ended_at IS NULL AND s.status NOT IN ('QUEUED', 'RUNNING') AND s.id <> ALL($1::uuid[])
     ORDER BY l.id LIMIT $2
"""
# Not just now: what is leased in the moment in which its agent leaves is taken back by who looks for lost agents.
_LEFT_LEASES = """
    SELECT l.step_run_id AS id FROM leases l JOIN agents a ON a.id = l.agent_id
     WHERE l.ended_at IS NULL AND greatest(l.created_at, a.deleted_at) < clock_timestamp() - interval '1 min'
       AND a.deleted_at IS NOT NULL AND l.step_run_id <> ALL($1::uuid[])
     ORDER BY l.id LIMIT $2
"""
_LEFT_JOBS = """
    SELECT j.id, j.run_id FROM job_runs j JOIN pipeline_runs r ON r.id = j.run_id
     WHERE j.finished_at IS NULL AND r.finished_at IS NOT NULL AND j.id <> ALL($1::uuid[]) ORDER BY j.id LIMIT $2
"""
_STALLED_JOBS = f"""
    SELECT j.id, j.run_id FROM job_runs j
     WHERE j.run_id IN {_OPEN_RUNS} AND j.finished_at IS NULL AND j.gate <> 'WAITING' AND j.total_steps > 0
       AND j.completed_steps = j.total_steps AND j.id <> ALL($1::uuid[]) ORDER BY j.id LIMIT $2
"""
_STALLED_RUNS = """
    SELECT id FROM pipeline_runs
     WHERE finished_at IS NULL AND total_jobs > 0 AND completed_jobs = total_jobs AND id <> ALL($1::uuid[])
     ORDER BY id LIMIT $2
"""
_STRAY_KEYS = """
    SELECT c.run_id, j.id FROM concurrency_claims c JOIN job_runs j ON j.id = c.job_run_id
     WHERE j.finished_at IS NOT NULL AND j.id <> ALL($1::uuid[]) ORDER BY c.job_run_id LIMIT $2
"""


async def unheld_steps(tx: Tx, passed_over: Passed, limit: int) -> list[UUID]:
    """Return steps that run and that no agent holds; as all here, not locked."""
    return [row["id"] for row in await tx.fetch(_UNHELD, list(passed_over), limit)]


async def unqueued_steps(tx: Tx, passed_over: Passed, limit: int) -> list[UUID]:
    """Return queued steps that are not in the queue, and that no agent holds."""
    return [row["id"] for row in await tx.fetch(_UNQUEUED, list(passed_over), limit)]


async def stray_queue_rows(tx: Tx, passed_over: Passed, limit: int) -> list[UUID]:
    """Return steps that are in the queue, and that an agent holds or that are not queued."""
    return [row["id"] for row in await tx.fetch(_STRAY_QUEUE, list(passed_over), limit)]


async def untimed_queue_rows(tx: Tx, passed_over: Passed, limit: int) -> list[UUID]:
    """Return steps in the queue whose job has started, which their rows do not say: its timeout would not be seen."""
    return [row["id"] for row in await tx.fetch(_UNTIMED, list(passed_over), limit)]


async def stray_leases(tx: Tx, passed_over: Passed, limit: int) -> list[UUID]:
    """Return steps that have ended, or not begun, and whose lease takes a slot."""
    return [row["id"] for row in await tx.fetch(_STRAY_LEASES, list(passed_over), limit)]


async def left_leases(tx: Tx, passed_over: Passed, limit: int) -> list[UUID]:
    """Return steps that an agent holds which has left."""
    return [row["id"] for row in await tx.fetch(_LEFT_LEASES, list(passed_over), limit)]


async def left_jobs(tx: Tx, passed_over: PassedJobs, limit: int) -> list[tuple[UUID, UUID]]:
    """Return (run, job run) of jobs that go on in a run that has ended."""
    return [(row["run_id"], row["id"]) for row in await tx.fetch(_LEFT_JOBS, _jobs(passed_over), limit)]


async def stalled_jobs(tx: Tx, passed_over: PassedJobs, limit: int) -> list[tuple[UUID, UUID]]:
    """Return (run, job run) of jobs whose steps have all ended, and that have not."""
    return [(row["run_id"], row["id"]) for row in await tx.fetch(_STALLED_JOBS, _jobs(passed_over), limit)]


async def stalled_runs(tx: Tx, passed_over: Passed, limit: int) -> list[UUID]:
    """Return runs whose jobs have all ended, and that have not."""
    return [row["id"] for row in await tx.fetch(_STALLED_RUNS, list(passed_over), limit)]


async def stray_keys(tx: Tx, passed_over: PassedJobs, limit: int) -> list[tuple[UUID, UUID]]:
    """Return (run, job run) of jobs that have ended, and claim a concurrency key."""
    return [(row["run_id"], row["id"]) for row in await tx.fetch(_STRAY_KEYS, _jobs(passed_over), limit)]


async def left_agents(tx: Tx, agent_ids: Sequence[UUID]) -> set[UUID]:
    """Return those of the agents that have left: for good."""
    rows = await tx.fetch("SELECT id FROM agents WHERE id = ANY($1) AND deleted_at IS NOT NULL", agent_ids)
    return {row["id"] for row in rows}


async def take_from_queue(tx: Tx, step_ids: Sequence[UUID]) -> list[UUID]:
    """Take steps out of the queue that have no place there; return which. Their runs are locked."""
    rows = await tx.fetch(
        """DELETE FROM step_queue q USING step_runs s
            WHERE q.step_run_id = ANY($1) AND s.id = q.step_run_id
              AND (s.status <> 'QUEUED'
                   OR EXISTS (SELECT 1 FROM leases l WHERE l.step_run_id = s.id AND l.ended_at IS NULL))
        RETURNING q.step_run_id AS id""",
        step_ids,
    )
    return [row["id"] for row in rows]


async def let_time_go_on(tx: Tx, step_ids: Sequence[UUID]) -> list[UUID]:
    """Note of steps in the queue that their jobs have started; return which. Their runs are locked."""
    rows = await tx.fetch(
        """UPDATE step_queue q SET job_started = true FROM step_runs s JOIN job_runs j ON j.id = s.job_run_id
            WHERE q.step_run_id = ANY($1) AND s.id = q.step_run_id AND j.status = 'RUNNING' AND NOT q.job_started
        RETURNING q.step_run_id AS id""",
        step_ids,
    )
    return [row["id"] for row in rows]


async def still_unqueued(tx: Tx, step_ids: Sequence[UUID]) -> list[UUID]:
    """Return those of these steps that are in no queue, and that no agent holds. Their runs are locked."""
    rows = await tx.fetch(
        """SELECT c.id FROM unnest($1::uuid[]) AS c(id)
            WHERE NOT EXISTS (SELECT 1 FROM step_queue q WHERE q.step_run_id = c.id)
              AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.step_run_id = c.id AND l.ended_at IS NULL)""",
        step_ids,
    )
    return [row["id"] for row in rows]


async def end_leases(tx: Tx, step_ids: Sequence[UUID]) -> list[UUID]:
    """End the leases of steps that do not run; return which. Their runs are locked."""
    rows = await tx.fetch(
        """UPDATE leases l SET ended_at = clock_timestamp(), end_reason = 'repaired' FROM step_runs s
            WHERE l.step_run_id = ANY($1) AND l.ended_at IS NULL AND s.id = l.step_run_id
              AND s.status NOT IN ('QUEUED', 'RUNNING')
        RETURNING s.id""",
        step_ids,
    )
    return [row["id"] for row in rows]


def _jobs(passed_over: PassedJobs) -> list[UUID]:
    return [job_id for _, job_id in passed_over]
