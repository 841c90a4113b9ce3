"""What must never be, and is looked for all the same: rows that do not fit together.

Each statement sees what is committed at one moment, and the rules hold at each commit: whatever is found is broken. It
is looked at again under the lock of its run before anything is done about it.

What only the rows of runs tell is looked for in a number of runs at a time, so that a long queue costs no more than a
short one: the unfinished runs take turns, and those that ended since the last look are with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from arcentra_server.db.engine import Tx

START = UUID(int=0)
MOST_JOBS = 10_000  # about, of the runs that are looked at together

# Runs that ended are looked at for a minute more, that is by several passes: what is wrong with them came with their end,
# which may be committed a little later than it says, and what was not put right is tried again. The first look of a
# process begins an hour ago: nobody may have looked before. What ended at one moment is not parted, as the next look
# begins after it. Of these only the runs are looked into of which a job or something in the queue is left: hardly any.
_IN_TURN = """
    WITH unfinished AS MATERIALIZED (
        SELECT id, sum(total_jobs) OVER (ORDER BY id) - total_jobs AS jobs FROM pipeline_runs
         WHERE finished_at IS NULL AND id > $1),
    ended AS MATERIALIZED (
        SELECT id, finished_at, coalesce(sum(total_jobs) OVER (
                   ORDER BY finished_at GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS jobs
          FROM (SELECT id, finished_at, total_jobs FROM pipeline_runs
                 WHERE finished_at > coalesce($3::timestamptz, now() - interval '1 hour')
                 ORDER BY finished_at FETCH FIRST ($2) ROWS WITH TIES) first)
    SELECT ARRAY(SELECT id FROM unfinished WHERE jobs < $2 ORDER BY id) AS unfinished,
           EXISTS (SELECT FROM unfinished WHERE jobs >= $2) AS more,
           ARRAY(SELECT id FROM ended
                  WHERE jobs < $2
                    AND ((SELECT count(*) FROM job_runs j WHERE j.run_id = ended.id AND j.finished_at IS NULL) > 0
                         OR (SELECT count(*) FROM step_queue q WHERE q.run_id = ended.id) > 0)) AS ended,
           (SELECT max(finished_at) FROM ended WHERE jobs < $2) AS last_end,
           EXISTS (SELECT FROM ended WHERE jobs >= $2) OR (SELECT count(*) FROM ended) >= $2 AS more_ended,
           now() - interval '1 min' AS just_now
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """Where to go on: after this unfinished run, and after this end of a run, of which `ended_left` tells of more."""

    after: UUID = START
    ended_after: datetime | None = None
    ended_left: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """Where to look: these runs, without what rests (ids of steps, jobs or runs), for so many at most."""

    runs: Sequence[UUID]
    passed_over: Sequence[Any]
    limit: int


# Each row is looked up by itself, by the index that is for it, and sorted when all are found. PostgreSQL believes behind
# each vacuum that next to nothing is leased or unfinished: it would compare each step with each lease, or go through all
# that there is in the order that is asked for.
_LEASE = "(SELECT l.id FROM leases l WHERE l.step_run_id = s.id AND l.end_reason IS NULL)"
_FOUND = "WITH found AS MATERIALIZED ({rows}) SELECT * FROM found ORDER BY id LIMIT $2"
_UNHELD = _FOUND.format(
    rows=f"""
        SELECT s.id FROM step_runs s
         WHERE s.run_id = ANY($3::uuid[]) AND s.status = 'RUNNING' AND s.id <> ALL($1::uuid[]) AND {_LEASE} IS NULL
           AND (SELECT count(*) FROM job_runs j WHERE j.run_id = s.run_id AND j.finished_at IS NULL) > 0"""
)
_UNQUEUED = _FOUND.format(
    rows=f"""
        SELECT s.id FROM step_runs s
         WHERE s.run_id = ANY($3::uuid[]) AND s.status = 'QUEUED' AND s.id <> ALL($1::uuid[]) AND {_LEASE} IS NULL
           AND (SELECT q.run_id FROM step_queue q WHERE q.step_run_id = s.id) IS NULL
           AND (SELECT r.finished_at FROM pipeline_runs r WHERE r.id = s.run_id) IS NULL"""
)
_STRAY_QUEUE = _FOUND.format(
    rows="""
        SELECT q.step_run_id AS id FROM step_queue q
         WHERE q.run_id = ANY($3::uuid[]) AND q.step_run_id <> ALL($1::uuid[])
           AND ((SELECT s.status FROM step_runs s WHERE s.id = q.step_run_id) <> 'QUEUED'
                OR (SELECT l.id FROM leases l WHERE l.step_run_id = q.step_run_id AND l.end_reason IS NULL) IS NOT NULL)"""
)
_UNTIMED = _FOUND.format(
    rows="""
        SELECT q.step_run_id AS id FROM pipeline_runs r JOIN step_queue q ON q.run_id = r.id
         WHERE r.id = ANY($3::uuid[]) AND r.finished_at IS NULL AND r.running_jobs > 0
           AND NOT q.job_started AND q.step_run_id <> ALL($1::uuid[])
           AND (SELECT j.status FROM step_runs s JOIN job_runs j ON j.id = s.job_run_id
                 WHERE s.id = q.step_run_id) = 'RUNNING'"""
)
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
_LEFT_JOBS = _FOUND.format(
    rows="""
        SELECT j.id, j.run_id FROM job_runs j
         WHERE j.run_id = ANY($3::uuid[]) AND j.finished_at IS NULL AND j.id <> ALL($1::uuid[])
           AND (SELECT r.finished_at FROM pipeline_runs r WHERE r.id = j.run_id) IS NOT NULL"""
)
_STALLED_JOBS = _FOUND.format(
    rows="""
        SELECT j.id, j.run_id FROM job_runs j
         WHERE j.run_id = ANY($3::uuid[]) AND j.finished_at IS NULL AND j.gate <> 'WAITING' AND j.total_steps > 0
           AND j.completed_steps = j.total_steps AND j.id <> ALL($1::uuid[])
           AND (SELECT r.finished_at FROM pipeline_runs r WHERE r.id = j.run_id) IS NULL"""
)
_STALLED_RUNS = """
    SELECT id FROM pipeline_runs
     WHERE finished_at IS NULL AND total_jobs > 0 AND completed_jobs = total_jobs AND id <> ALL($1::uuid[])
     ORDER BY id LIMIT $2
"""
_STRAY_KEYS = """
    SELECT c.run_id, j.id FROM concurrency_claims c JOIN job_runs j ON j.id = c.job_run_id
     WHERE j.finished_at IS NOT NULL AND j.id <> ALL($1::uuid[]) ORDER BY c.job_run_id LIMIT $2
"""


async def runs_in_turn(tx: Tx, turn: Turn) -> tuple[list[UUID], Turn]:
    """Return runs with about `MOST_JOBS` jobs, unfinished ones, and as many that ended; and whose turn it is next time."""
    [row] = await tx.fetch(_IN_TURN, turn.after, MOST_JOBS, turn.ended_after)
    after = row["unfinished"][-1] if row["more"] else START
    ended_after = row["last_end"] if row["more_ended"] else row["just_now"]
    return [*row["unfinished"], *row["ended"]], Turn(after, ended_after, row["more_ended"])


async def unheld_steps(tx: Tx, look: Look) -> list[UUID]:
    """Return steps that run and that no agent holds; as all here, not locked."""
    return await _ids(tx, look, _UNHELD)


async def unqueued_steps(tx: Tx, look: Look) -> list[UUID]:
    """Return queued steps that are not in the queue, and that no agent holds."""
    return await _ids(tx, look, _UNQUEUED)


async def stray_queue_rows(tx: Tx, look: Look) -> list[UUID]:
    """Return steps that are in the queue, and that an agent holds or that are not queued."""
    return await _ids(tx, look, _STRAY_QUEUE)


async def untimed_queue_rows(tx: Tx, look: Look) -> list[UUID]:
    """Return steps in the queue whose job has started, which their rows do not say: its timeout would not be seen."""
    return await _ids(tx, look, _UNTIMED)


async def stray_leases(tx: Tx, look: Look) -> list[UUID]:
    """Return steps that have ended, or not begun, and whose lease takes a slot; of whatever run."""
    return [row["id"] for row in await tx.fetch(_STRAY_LEASES, look.passed_over, look.limit)]


async def left_leases(tx: Tx, look: Look) -> list[UUID]:
    """Return steps that an agent holds which has left; of whatever run."""
    return [row["id"] for row in await tx.fetch(_LEFT_LEASES, look.passed_over, look.limit)]


async def left_jobs(tx: Tx, look: Look) -> list[tuple[UUID, UUID]]:
    """Return (run, job run) of jobs that go on in a run that has ended."""
    return await _jobs(tx, look, _LEFT_JOBS)


async def stalled_jobs(tx: Tx, look: Look) -> list[tuple[UUID, UUID]]:
    """Return (run, job run) of jobs whose steps have all ended, and that have not."""
    return await _jobs(tx, look, _STALLED_JOBS)


async def stalled_runs(tx: Tx, look: Look) -> list[UUID]:
    """Return runs whose jobs have all ended, and that have not; whichever."""
    return [row["id"] for row in await tx.fetch(_STALLED_RUNS, look.passed_over, look.limit)]


async def stray_keys(tx: Tx, look: Look) -> list[tuple[UUID, UUID]]:
    """Return (run, job run) of jobs that have ended, and claim a concurrency key; of whatever run."""
    passed_over = [job_id for _, job_id in look.passed_over]
    return [(row["run_id"], row["id"]) for row in await tx.fetch(_STRAY_KEYS, passed_over, look.limit)]


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
                   OR EXISTS (SELECT 1 FROM leases l WHERE l.step_run_id = s.id AND l.end_reason IS NULL))
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
              AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.step_run_id = c.id AND l.end_reason IS NULL)""",
        step_ids,
    )
    return [row["id"] for row in rows]


async def end_leases(tx: Tx, step_ids: Sequence[UUID]) -> list[UUID]:
    """End the leases of steps that do not run; return which. Their runs are locked."""
    rows = await tx.fetch(
        """UPDATE leases l SET ended_at = clock_timestamp(), end_reason = 'repaired' FROM step_runs s
            WHERE l.step_run_id = ANY($1) AND l.end_reason IS NULL AND s.id = l.step_run_id
              AND s.status NOT IN ('QUEUED', 'RUNNING')
        RETURNING s.id""",
        step_ids,
    )
    return [row["id"] for row in rows]


async def _ids(tx: Tx, look: Look, query: str) -> list[UUID]:
    return [row["id"] for row in await tx.fetch(query, look.passed_over, look.limit, look.runs)]


async def _jobs(tx: Tx, look: Look, query: str) -> list[tuple[UUID, UUID]]:
    passed_over = [job_id for _, job_id in look.passed_over]
    return [(row["run_id"], row["id"]) for row in await tx.fetch(query, passed_over, look.limit, look.runs)]
