"""Step runs: read, list, and what their service changes of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.paging import Page
from arcentra_server.domain.states import StepStatus

_SELECT = """
    SELECT s.id, s.pipeline_id, s.run_id, s.job_run_id AS job_id, j.name AS job_name, s.name, s.step_index, s.attempt,
           s.superseded, s.status, s.dispatch, s.rendered, s.continue_on_error, s.agent_id,
           a.claimed_labels || a.server_labels AS agent_labels, s.cancel_cause IS NOT NULL AS cancel_requested,
           s.exit_code, s.error_message, s.failure_reason, s.metrics, s.created_by, s.created_at, s.started_at,
           s.finished_at, coalesce(g.size, 0) AS log_size, s.added, r.paused, s.outputs,
           (SELECT l.id FROM leases l WHERE l.step_run_id = s.id AND l.end_reason IS NULL) IS NOT NULL AS leased,
           s.secrets, s.condition, s.kind, j.waits_for, coalesce(q.ready_at > clock_timestamp(), false) AS delayed,
           clock_timestamp() AS now
      FROM step_runs s
      JOIN job_runs j ON j.id = s.job_run_id
      JOIN pipeline_runs r ON r.id = s.run_id
      LEFT JOIN agents a ON a.id = s.agent_id
      LEFT JOIN step_logs g ON g.step_run_id = s.id
      LEFT JOIN step_queue q ON q.step_run_id = s.id
"""
_SORT = {
    "created_at": "s.created_at",
    "started_at": "s.started_at",
    "finished_at": "s.finished_at",
    "status": "s.status",
    "name": "s.name",
}


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step run as it is shown. `dispatch` is its stored wire form, `now` the clock when it was read."""

    id: UUID
    pipeline_id: UUID
    run_id: UUID
    job_id: UUID
    job_name: str
    name: str
    step_index: int
    attempt: int
    superseded: bool
    status: StepStatus
    dispatch: bytes
    rendered: bytes | None
    continue_on_error: bool
    agent_id: UUID | None
    agent_labels: Mapping[str, str] | None
    cancel_requested: bool
    exit_code: int | None
    error_message: str
    failure_reason: str | None
    metrics: Mapping[str, str]
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    log_size: int
    added: bool
    paused: bool
    leased: bool
    outputs: Mapping[str, str]
    secrets: Mapping[str, str]
    condition: str
    kind: str
    waits_for: str
    delayed: bool
    now: datetime

    @property
    def waiting_reason(self) -> str:
        """Why the step run waits, empty when it does not."""
        if self.status is StepStatus.PENDING:
            return self.waits_for or ("previous_step" if self.step_index else "stage")
        if self.status is not StepStatus.QUEUED:
            return ""
        if self.leased:
            return "dispatched"
        return "paused" if self.paused else "retry" if self.delayed else "agent"


@dataclass(frozen=True, slots=True)
class StepFilter:
    """Which step runs a list is of; what is None or empty does not matter."""

    pipeline_id: UUID | None = None
    run_id: UUID | None = None
    job_id: UUID | None = None
    job_name: str = ""
    name: str = ""
    status: StepStatus | None = None
    agent_id: UUID | None = None


async def get(tx: Tx, step_id: UUID) -> StepRow | None:
    """Return a step run."""
    row = await tx.fetchrow(_SELECT + "WHERE s.id = $1", step_id)
    return _step(row) if row else None


async def of_run(tx: Tx, run_id: UUID) -> list[StepRow]:
    """Return every step run of a run, in order."""
    rows = await tx.fetch(_SELECT + "WHERE s.run_id = $1 ORDER BY s.job_run_id, s.step_index, s.attempt", run_id)
    return [_step(row) for row in rows]


async def list_page(tx: Tx, wanted: StepFilter, page: Page) -> tuple[list[StepRow], int]:
    """Return one page of step runs and how many there are in all."""
    where = """WHERE ($1::uuid IS NULL OR s.pipeline_id = $1) AND ($2::uuid IS NULL OR s.run_id = $2)
                 AND ($3::uuid IS NULL OR s.job_run_id = $3) AND ($4 = '' OR j.name = $4) AND ($5 = '' OR s.name = $5)
                 AND ($6::text IS NULL OR s.status = $6) AND ($7::uuid IS NULL OR s.agent_id = $7) """
    values = (
        wanted.pipeline_id,
        wanted.run_id,
        wanted.job_id,
        wanted.job_name,
        wanted.name,
        wanted.status.value if wanted.status else None,
        wanted.agent_id,
    )
    rows = await tx.fetch(_SELECT + where + page.clause(_SORT).replace(", id ", ", s.id "), *values)
    count = f"SELECT count(*) FROM step_runs s JOIN job_runs j ON j.id = s.job_run_id {where}"
    return [_step(row) for row in rows], await tx.fetchval(count, *values)


async def set_dispatch(
    tx: Tx, step_id: UUID, dispatch: bytes, rendered: bytes | None, timeout_ms: int | None, plain: Collection[str]
) -> None:
    """Replace the wire form of a step run that was not dispatched; a timeout of None leaves the stored one.

    `plain`: the environment variables that are set in it: an expression that was to give one its value does not any more.
    """
    await tx.execute(
        """UPDATE step_runs
              SET dispatch = $2, rendered = $3, timeout_ms = coalesce($4, timeout_ms),
                  templates = jsonb_set(templates, '{env}', (templates->'env') - $5::text[])
            WHERE id = $1""",
        step_id,
        dispatch,
        rendered,
        timeout_ms,
        list(plain),
    )


async def lock_queued(tx: Tx, step_id: UUID) -> bool:
    """Keep a step run that waits in the queue from being claimed; False when it does not wait there."""
    return bool(await tx.fetchval("SELECT true FROM step_queue WHERE step_run_id = $1 FOR UPDATE", step_id))


async def delete(tx: Tx, step_id: UUID) -> None:
    """Remove a step run with everything of it."""
    await tx.execute("DELETE FROM step_runs WHERE id = $1", step_id)


async def lost_by(tx: Tx, job_id: UUID, agent_id: UUID) -> bool:
    """Answer whether an agent was lost while it ran a step of the latest attempt of a job."""
    query = """SELECT EXISTS (SELECT 1 FROM step_runs WHERE job_run_id = $1 AND agent_id = $2 AND NOT superseded
                                 AND failure_reason = 'agent_lost')"""
    return bool(await tx.fetchval(query, job_id, agent_id))


async def held_before(tx: Tx, step_ids: list[UUID], agent_id: UUID) -> set[UUID]:
    """Return those of the step runs of which this agent had a lease that ended."""
    rows = await tx.fetch(
        "SELECT DISTINCT step_run_id FROM leases WHERE step_run_id = ANY($1) AND agent_id = $2 AND ended_at IS NOT NULL",
        step_ids,
        agent_id,
    )
    return {row["step_run_id"] for row in rows}


async def part_in_job(tx: Tx, job_id: UUID, agent_id: UUID) -> bool | None:
    """Answer whether a step of a job that this agent ran is of the attempt in force; None: it never ran one."""
    query = "SELECT bool_or(NOT superseded) FROM step_runs WHERE job_run_id = $1 AND agent_id = $2"
    in_force: bool | None = await tx.fetchval(query, job_id, agent_id)
    return in_force


def _step(row: Row) -> StepRow:
    values = dict(row)
    values["status"] = StepStatus(values["status"])
    return StepRow(**values)
