"""Read pipeline runs, with their jobs and steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from arcentra_server.db import approvals
from arcentra_server.db.approvals import ApprovalRow
from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.paging import Page
from arcentra_server.db.step_runs import StepRow, of_run
from arcentra_server.domain.execution import Waiting
from arcentra_server.domain.states import GateState, RunStatus, TriggerType

_SELECT = """
    SELECT r.id, r.pipeline_id, p.name AS pipeline_name, r.namespace, r.spec_version, r.status, r.trigger_type,
           r.triggered_by, r.branch, r.commit_sha, r.variables, r.status_reason, r.total_jobs, r.completed_jobs,
           r.failed_jobs, r.running_jobs, r.created_at, r.started_at, r.finished_at, r.timeout_ms, r.event,
           clock_timestamp() AS now
      FROM pipeline_runs r JOIN pipelines p ON p.id = r.pipeline_id
"""
_JOBS = """
    SELECT j.id, j.name, t.name AS stage, j.stage_index, j.status, j.agent_id, j.exit_code, j.error_message,
           j.started_at, j.finished_at, coalesce(nullif(j.definition_name, ''), j.name) AS definition_name, j.matrix,
           j.attempt, j.outputs, j.failure_reason, j.allow_failure, j.gate, j.waits_for, j.concurrency,
           CASE WHEN j.retry IS NULL THEN 0 ELSE j.attempt + j.retries_left END AS max_attempts
      FROM job_runs j JOIN run_stages t ON t.run_id = j.run_id AND t.stage_index = j.stage_index
     WHERE j.run_id = $1 ORDER BY j.stage_index, j.job_index
"""
# What each unfinished job of a run waits for, by name: jobs that have not ended, and who holds the key.
_NEEDS = """
    SELECT n.job_run_id, d.name, d.finished_at IS NULL AS open FROM job_needs n
      JOIN job_runs j ON j.id = n.job_run_id JOIN job_runs d ON d.id = n.needed_id
     WHERE j.run_id = $1 ORDER BY n.job_run_id, d.job_index
"""
_HOLDERS = """
    SELECT w.job_run_id, j.name, h.run_id, p.name AS pipeline_name
      FROM concurrency_claims w
      JOIN concurrency_claims h ON h.namespace = w.namespace AND h.key = w.key AND h.place IS NOT NULL
      JOIN job_runs j ON j.id = h.job_run_id
      JOIN pipeline_runs r ON r.id = h.run_id
      JOIN pipelines p ON p.id = r.pipeline_id
     WHERE w.run_id = $1 AND w.place IS NULL ORDER BY w.job_run_id, h.place
"""
_SORT = {
    "created_at": "r.created_at",
    "started_at": "r.started_at",
    "finished_at": "r.finished_at",
    "status": "r.status",
}


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job run with all its step runs, every attempt of them.

    `holders`: who holds the key that it waits for. `max_attempts`: the last attempt by its rule, 0 without one.
    """

    id: UUID
    name: str
    stage: str
    stage_index: int
    status: RunStatus
    agent_id: UUID | None
    exit_code: int
    error_message: str
    started_at: datetime | None
    finished_at: datetime | None
    definition_name: str
    matrix: Mapping[str, Any]
    attempt: int
    outputs: Mapping[str, str]
    failure_reason: str | None
    allow_failure: bool
    gate: GateState
    waits_for: Waiting
    concurrency: str
    steps: list[StepRow] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    open_needs: list[str] = field(default_factory=list)
    holders: list[str] = field(default_factory=list)
    max_attempts: int = 0


@dataclass(frozen=True, slots=True)
class RunRow:
    """A pipeline run. `now`: the clock of the database when it was read. `jobs` is empty in lists."""

    id: UUID
    pipeline_id: UUID
    pipeline_name: str
    namespace: str
    spec_version: int
    status: RunStatus
    trigger_type: TriggerType
    triggered_by: str
    branch: str
    commit_sha: str
    variables: Mapping[str, str]
    status_reason: str
    total_jobs: int
    completed_jobs: int
    failed_jobs: int
    running_jobs: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    timeout_ms: int | None
    event: Mapping[str, Any]
    now: datetime
    jobs: list[JobRow] = field(default_factory=list)
    gates: list[ApprovalRow] = field(default_factory=list)


async def get(tx: Tx, run_id: UUID) -> RunRow | None:
    """Return a run with its jobs and steps."""
    row = await tx.fetchrow(_SELECT + "WHERE r.id = $1", run_id)
    if row is None:
        return None
    run = _run(row)
    steps: dict[UUID, list[StepRow]] = {}
    for step in await of_run(tx, run_id):
        steps.setdefault(step.job_id, []).append(step)
    run.jobs.extend(_job(job, steps.get(job["id"], [])) for job in await tx.fetch(_JOBS, run_id))
    await _add_waiting(tx, run)
    return run


async def _add_waiting(tx: Tx, run: RunRow) -> None:
    jobs = {job.id: job for job in run.jobs}
    for row in await tx.fetch(_NEEDS, run.id):
        job = jobs[row["job_run_id"]]
        job.needs.append(row["name"])
        if row["open"]:
            job.open_needs.append(row["name"])
    if any(job.waits_for is Waiting.CONCURRENCY for job in run.jobs):
        for row in await tx.fetch(_HOLDERS, run.id):
            holder = f"{row['pipeline_name']}/{row['name']} of run {row['run_id']}"
            jobs[row["job_run_id"]].holders.append(holder)
    if not run.status.terminal:
        run.gates.extend(await approvals.pending_of_run(tx, run.id))


async def list_page(
    tx: Tx, *, pipeline_id: UUID | None, namespace: str, status: RunStatus | None, page: Page
) -> tuple[list[RunRow], int]:
    """Return one page of runs, without their jobs, and how many there are in all."""
    where = """WHERE ($1::uuid IS NULL OR r.pipeline_id = $1) AND ($2 = '' OR r.namespace = $2)
                 AND ($3::text IS NULL OR r.status = $3) """
    values = (pipeline_id, namespace, status.value if status else None)
    rows = await tx.fetch(_SELECT + where + page.clause(_SORT).replace(", id ", ", r.id "), *values)
    total = await tx.fetchval(f"SELECT count(*) FROM pipeline_runs r {where}", *values)
    return [_run(row) for row in rows], total


async def of_request(tx: Tx, pipeline_id: UUID, request_id: str) -> UUID | None:
    """Return the run that a request id started."""
    found: UUID | None = await tx.fetchval(
        "SELECT id FROM pipeline_runs WHERE pipeline_id = $1 AND request_id = $2", pipeline_id, request_id
    )
    return found


async def job_ids(tx: Tx, run_id: UUID) -> list[UUID]:
    """Return the job runs of a run, in order."""
    rows = await tx.fetch("SELECT id FROM job_runs WHERE run_id = $1 ORDER BY stage_index, job_index", run_id)
    return [row["id"] for row in rows]


async def run_of_job(tx: Tx, job_id: UUID) -> UUID | None:
    """Return the run of a job run."""
    found: UUID | None = await tx.fetchval("SELECT run_id FROM job_runs WHERE id = $1", job_id)
    return found


async def add_actor(tx: Tx, run_id: UUID, name: str) -> None:
    """Note who retried a run beside who triggered it."""
    await tx.execute(
        """UPDATE pipeline_runs SET trigger_actor = trigger_actor || chr(10) || $2
            WHERE id = $1 AND $2 <> '' AND $2 <> ALL (string_to_array(trigger_actor, chr(10)))""",
        run_id,
        name,
    )


async def hold_queue(tx: Tx, run_id: UUID, *, held: bool) -> None:
    """Keep what a run has in the queue from being claimed, or let it be claimed again."""
    await tx.execute("UPDATE step_queue SET held = $2 WHERE run_id = $1", run_id, held)


def _run(row: Row) -> RunRow:
    values = dict(row)
    values["status"] = RunStatus(values["status"])
    values["trigger_type"] = TriggerType(values["trigger_type"])
    return RunRow(**values)


def _job(row: Row, steps: list[StepRow]) -> JobRow:
    values = dict(row)
    values["status"] = RunStatus(values["status"])
    values["gate"] = GateState(values["gate"])
    values["waits_for"] = Waiting(values["waits_for"])
    return JobRow(**values, steps=steps)
