"""Load what runs into a ledger. The runs are locked first; what is read after that cannot change under the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain.execution import CancelCause, JobState, Lease, RunState, StageDue, StageState, StepState
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import FailureReason, RunStatus, StepStatus

_RUN = """
    SELECT id, pipeline_id, status, stage_count, total_jobs, outcome, completed_jobs, failed_jobs, running_jobs,
           paused, stopped, status_reason
      FROM pipeline_runs
"""
_JOB = """
    SELECT j.id, j.run_id, j.stage_index, j.status, j.selector_id, j.total_steps, j.outcome, j.completed_steps,
           j.failed_steps, j.running_steps, j.current_step, j.agent_id, j.error_message, j.exit_code, t.open_jobs
      FROM job_runs j JOIN run_stages t ON t.run_id = j.run_id AND t.stage_index = j.stage_index
"""
_STEP = """
    SELECT s.id, s.job_run_id, s.run_id, s.step_index, s.status, s.selector_id, s.attempt, s.own_selector,
           s.continue_on_error, s.cancel_cause, s.cancel_reason, s.agent_id, s.exit_code, s.error_message,
           s.failure_reason, l.id AS lease_id, l.agent_id AS lease_agent
      FROM step_runs s LEFT JOIN leases l ON l.step_run_id = s.id AND l.ended_at IS NULL
"""
_UNFINISHED = "s.status IN ('PENDING', 'QUEUED', 'RUNNING')"


async def load_steps(tx: Tx, ledger: Ledger, step_ids: Sequence[UUID]) -> None:
    """Lock the runs of these steps and load them, with their jobs and what is unfinished in those jobs."""
    runs = await tx.fetch(
        _RUN + "WHERE id IN (SELECT run_id FROM step_runs WHERE id = ANY($1)) ORDER BY id FOR NO KEY UPDATE", step_ids
    )
    if not runs:
        return
    jobs = await tx.fetch(_JOB + "WHERE j.id IN (SELECT job_run_id FROM step_runs WHERE id = ANY($1))", step_ids)
    steps = await tx.fetch(
        _STEP
        + f"WHERE s.job_run_id = ANY($1) AND (({_UNFINISHED} AND NOT s.superseded) OR s.id = ANY($2))"
        + " ORDER BY s.job_run_id, s.step_index, s.attempt",
        [job["id"] for job in jobs],
        step_ids,
    )
    _add(ledger, runs, jobs, steps)


async def load_run(tx: Tx, ledger: Ledger, run_id: UUID) -> RunState | None:
    """Lock a run and load it whole, as far as it is unfinished. None when there is no such run."""
    runs = await tx.fetch(_RUN + "WHERE id = $1 FOR NO KEY UPDATE", run_id)
    if not runs:
        return None
    jobs = await tx.fetch(_JOB + "WHERE j.run_id = $1 ORDER BY j.stage_index, j.job_index", run_id)
    steps = await tx.fetch(
        _STEP + f"WHERE s.run_id = $1 AND {_UNFINISHED} AND NOT s.superseded ORDER BY s.job_run_id, s.step_index",
        run_id,
    )
    _add(ledger, runs, jobs, steps)
    return ledger.runs[run_id]


async def settle_stages(tx: Tx, ledger: Ledger) -> None:
    """Open or skip the stages that became due, and those that become due by that."""
    while ledger.due:
        due = ledger.next_due()
        jobs = await _load_stage(tx, ledger, due)
        if due.skip:
            ledger.skip_stage(ledger.runs[due.run_id], due.index, jobs)
        else:
            ledger.open_stage(ledger.runs[due.run_id], due.index, jobs)


async def _load_stage(tx: Tx, ledger: Ledger, due: StageDue) -> list[JobState]:
    jobs = await tx.fetch(
        _JOB + "WHERE j.run_id = $1 AND j.stage_index = $2 ORDER BY j.job_index", due.run_id, due.index
    )
    steps = await tx.fetch(
        _STEP
        + f"WHERE s.job_run_id = ANY($1) AND {_UNFINISHED} AND NOT s.superseded ORDER BY s.job_run_id, s.step_index",
        [job["id"] for job in jobs],
    )
    _add(ledger, (), jobs, steps)
    return [ledger.jobs[job["id"]] for job in jobs]


def _add(
    ledger: Ledger,
    runs: Iterable[Row],
    jobs: Sequence[Row],
    steps: Iterable[Row],
) -> None:
    stages = {
        (row["run_id"], row["stage_index"]): StageState(row["run_id"], row["stage_index"], row["open_jobs"])
        for row in jobs
        if (row["run_id"], row["stage_index"]) not in ledger.stages
    }
    ledger.add_runs([_run(row) for row in runs], stages.values())
    ledger.add_jobs([_job(row) for row in jobs if row["id"] not in ledger.jobs], [_step(row) for row in steps])


def _run(row: Row) -> RunState:
    return RunState(
        id=row["id"],
        pipeline_id=row["pipeline_id"],
        status=RunStatus(row["status"]),
        stage_count=row["stage_count"],
        total_jobs=row["total_jobs"],
        outcome=RunStatus(row["outcome"]),
        completed_jobs=row["completed_jobs"],
        failed_jobs=row["failed_jobs"],
        running_jobs=row["running_jobs"],
        paused=row["paused"],
        stopped=row["stopped"],
        status_reason=row["status_reason"],
    )


def _job(row: Row) -> JobState:
    return JobState(
        id=row["id"],
        run_id=row["run_id"],
        stage_index=row["stage_index"],
        status=RunStatus(row["status"]),
        selector_id=row["selector_id"],
        total_steps=row["total_steps"],
        outcome=RunStatus(row["outcome"]),
        completed_steps=row["completed_steps"],
        failed_steps=row["failed_steps"],
        running_steps=row["running_steps"],
        current_step=row["current_step"],
        agent_id=row["agent_id"],
        error_message=row["error_message"],
        exit_code=row["exit_code"],
    )


def _step(row: Row) -> StepState:
    lease_id = row["lease_id"]
    return StepState(
        id=row["id"],
        job_id=row["job_run_id"],
        run_id=row["run_id"],
        index=row["step_index"],
        status=StepStatus(row["status"]),
        selector_id=row["selector_id"],
        attempt=row["attempt"],
        own_selector=row["own_selector"],
        continue_on_error=row["continue_on_error"],
        cancel_cause=CancelCause(row["cancel_cause"]) if row["cancel_cause"] else None,
        cancel_reason=row["cancel_reason"],
        agent_id=row["agent_id"],
        lease=Lease(lease_id, row["id"], row["lease_agent"]) if lease_id else None,
        exit_code=row["exit_code"],
        error_message=row["error_message"],
        failure_reason=FailureReason(row["failure_reason"]) if row["failure_reason"] else None,
    )
