"""Write what a ledger changed, in the transaction that loaded it.

Each kind of row is written by one set-based statement, or by a part of one. A step is written against the state it was loaded with: a row
that is not in that state any more means that another writer was first, which the lock on the run excludes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from arcentra_server.db import events
from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.execution_consequences import write_consequences, write_turns
from arcentra_server.db.shares import LEVEL, last_share
from arcentra_server.domain.errors import WriteConflict
from arcentra_server.domain.execution import JobState, RunState, StageState
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import RunStatus, StepStatus


@dataclass(frozen=True, slots=True)
class _Update:
    """Rows of one kind to be written: `sql` has them as {rows}, named `c`, with these columns and their types."""

    name: str
    columns: str
    sql: str


_STEPS = _Update(
    "steps",
    """id uuid, expected text, status text, agent_id uuid, cancel_cause text, cancel_reason text, exit_code int,
       error_message text, failure_reason text, metrics text, log_size bigint, started bool, finished bool, outputs text""",
    """UPDATE step_runs s
          SET status = c.status, agent_id = c.agent_id, cancel_cause = c.cancel_cause, cancel_reason = c.cancel_reason,
              cancel_requested_at = CASE WHEN c.cancel_cause IS NOT NULL
                                         THEN coalesce(s.cancel_requested_at, clock_timestamp()) END,
              exit_code = c.exit_code, error_message = c.error_message, failure_reason = c.failure_reason,
              outputs = CASE WHEN c.outputs IS NULL THEN s.outputs ELSE c.outputs::jsonb END,
              metrics = CASE WHEN c.metrics IS NULL THEN s.metrics ELSE c.metrics::jsonb END,
              log_size = coalesce(c.log_size, s.log_size),
              started_at = CASE WHEN c.started THEN clock_timestamp() ELSE s.started_at END,
              finished_at = CASE WHEN c.finished THEN clock_timestamp() ELSE s.finished_at END
         FROM {rows} WHERE s.id = c.id AND s.status = c.expected""",
)
_LEASE_ENDS = _Update(
    "lease_ends",
    "id uuid, reason text",
    """UPDATE leases l SET ended_at = clock_timestamp(), end_reason = c.reason
         FROM {rows} WHERE l.id = c.id AND l.ended_at IS NULL""",
)
_JOBS = _Update(
    "jobs",
    """id uuid, status text, outcome text, completed int, failed int, running int, current int, agent_id uuid,
       message text, exit_code int, started bool, finished bool, total int""",
    """UPDATE job_runs j
          SET status = c.status, outcome = c.outcome, completed_steps = c.completed, failed_steps = c.failed,
              running_steps = c.running, current_step = c.current, agent_id = c.agent_id, error_message = c.message,
              exit_code = c.exit_code, total_steps = c.total,
              started_at = CASE WHEN c.started THEN clock_timestamp() ELSE j.started_at END,
              finished_at = CASE WHEN c.finished THEN coalesce(j.finished_at, clock_timestamp()) END
         FROM {rows} WHERE j.id = c.id""",
)
_STAGES = _Update(
    "stages",
    "run_id uuid, stage_index int, open_jobs int, outcome text, opened bool, gate text",
    """UPDATE run_stages t SET open_jobs = c.open_jobs, outcome = c.outcome, opened = c.opened, gate = c.gate
         FROM {rows} WHERE t.run_id = c.run_id AND t.stage_index = c.stage_index""",
)
_RUNS = _Update(
    "runs",
    """id uuid, status text, outcome text, completed int, failed int, running int, paused bool, stopped bool,
       reason text, finished bool, total int, started bool""",
    """UPDATE pipeline_runs r
          SET status = c.status, outcome = c.outcome, completed_jobs = c.completed, failed_jobs = c.failed,
              running_jobs = c.running, paused = c.paused, stopped = c.stopped, status_reason = c.reason,
              total_jobs = c.total,
              -- Whoever retries a run that ended gives it its whole time again: it has not started then.
              started_at = CASE WHEN c.started THEN coalesce(r.started_at, clock_timestamp()) END,
              finished_at = CASE WHEN c.finished THEN coalesce(r.finished_at, clock_timestamp()) END
         FROM {rows} WHERE r.id = c.id""",
)
# Locked in the order of ids, after the runs: the one order in which anyone locks both.
_PIPELINES = """
    UPDATE pipelines p
       SET success_runs = p.success_runs + c.success, failed_runs = p.failed_runs + c.failed, last_status = c.status
      FROM (SELECT locked.id, c.success, c.failed, c.status
              FROM (SELECT id FROM pipelines WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE) locked
              JOIN unnest($1::uuid[], $2::int[], $3::int[], $4::text[]) AS c(id, success, failed, status) USING (id)) c
     WHERE p.id = c.id
"""
# What was served before, or is bound to the agent that serves its job, does not queue again: it has the level as it is.
_ENQUEUE = f"""
    WITH c AS (
        SELECT *, count(*) FILTER (WHERE NOT served)
                      OVER (PARTITION BY pipeline_id, selector_id, priority ORDER BY place) AS nth
          FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::uuid[], $5::bool[], $6::float8[], $7::int[], $8::uuid[],
                      $9::bool[], $10::bool[]) WITH ORDINALITY
               AS u(id, selector_id, run_id, agent_id, held, delay, priority, pipeline_id, served, job_started, place)),
    p AS (
        SELECT d.*, {last_share("d.pipeline_id", "d.selector_id", "d.priority")} AS last
          FROM (SELECT DISTINCT pipeline_id, selector_id, priority FROM c) d),
    v AS (SELECT {LEVEL} AS level)
    INSERT INTO step_queue (step_run_id, selector_id, run_id, agent_id, held, ready_at, priority, pipeline_id, share,
                            job_started)
    SELECT c.id, c.selector_id, c.run_id, c.agent_id, c.held, clock_timestamp() + make_interval(secs => c.delay),
           c.priority, c.pipeline_id, CASE WHEN c.served THEN v.level ELSE p.last + c.nth END, c.job_started
      FROM c JOIN p USING (pipeline_id, selector_id, priority) CROSS JOIN v
"""
# The next step of a job goes on in the slot of the last one: it is no new turn of its pipeline.
_NEW_LEASES = f"""
    WITH leased AS (
        INSERT INTO leases (id, step_run_id, agent_id, pipeline_id, share)
        SELECT c.*, v.level
          FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[]) AS c, (SELECT {LEVEL} AS level) v
        RETURNING id, step_run_id, agent_id)
    SELECT leased.id, leased.step_run_id, leased.agent_id, s.attempt, coalesce(s.rendered, s.dispatch) AS dispatch,
           s.secrets, s.run_id
      FROM leased JOIN step_runs s ON s.id = leased.step_run_id
"""


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...] | None]:
    """Return rows as columns for `unnest`, None for one of nothing but NULL: it fills those up that are shorter.

    Most columns say nothing most of the time, and to encode a NULL takes as long as anything else.
    """
    columns = zip(*rows, strict=True)
    return [None if column[0] is None and column.count(None) == len(column) else column for column in columns]


@lru_cache
def _statement(updates: tuple[_Update, ...]) -> str:
    """Return one statement that makes all these updates, and answers how many rows the first of them has written."""
    made, first = [], 1
    for update in updates:
        names, types = zip(*(column.split() for column in update.columns.split(",")), strict=True)
        # How long an array is that a query returns the planner does not guess: it keeps one plan for all lengths.
        arrays = ", ".join(f"(SELECT ${place}::{kind}[])" for place, kind in enumerate(types, first))
        rows = f"unnest({arrays}) AS c({', '.join(names)})"
        made.append(f"{update.name} AS ({update.sql.format(rows=rows)} RETURNING 1)")
        first += len(types)
    return f"WITH {', '.join(made)} SELECT count(*) FROM {updates[0].name}"


async def write(tx: Tx, ledger: Ledger) -> list[Row]:
    """Write the changes of a ledger and its events; return the rows of the leases it gave out.

    Raises:
        WriteConflict: a step was not in the state that it was loaded with.
    """
    await _write_states(tx, ledger)
    await write_turns(tx, ledger)
    leased = await _write_leases(tx, ledger)
    await _write_queue(tx, ledger)
    await write_consequences(tx, ledger)
    await events.append(tx, ledger.events)
    return leased


async def _write_states(tx: Tx, ledger: Ledger) -> None:
    """Write how steps, their leases, jobs, stages and runs stand: in one statement, as the way to the database is dear."""
    changes: list[tuple[_Update, list[tuple[Any, ...]]]] = [
        (_STEPS, _step_rows(ledger)),
        (_LEASE_ENDS, list(ledger.ended_leases.items())),
        (_JOBS, [_job_row(ledger, ledger.jobs[job_id]) for job_id in ledger.jobs_before]),
        (_STAGES, [_stage_row(ledger.stages[key]) for key in ledger.changed_stages]),
        (_RUNS, [_run_row(ledger.runs[run_id]) for run_id in ledger.runs_before]),
    ]
    changes = [(update, rows) for update, rows in changes if rows]
    if changes:
        statement = _statement(tuple(update for update, _ in changes))
        columns = [column for _, rows in changes for column in _columns(rows)]
        written = await tx.fetchval(statement, *columns)
        if ledger.steps_before and written != len(ledger.steps_before):
            raise WriteConflict("a step run was changed at the same time")


def _step_rows(ledger: Ledger) -> list[tuple[Any, ...]]:
    rows = []
    for step_id, before in ledger.steps_before.items():
        step = ledger.steps[step_id]
        rows.append(
            (
                step_id,
                before,
                step.status,
                step.agent_id,
                step.cancel_cause,
                step.cancel_reason,
                step.exit_code,
                step.error_message,
                step.failure_reason,
                json.dumps(dict(step.metrics)) if step.metrics else None,
                step.log_size,
                step_id in ledger.started_steps,
                step.status.terminal and not before.terminal,
                json.dumps(dict(step.outputs)) if step.outputs else None,
            )
        )
    return rows


def _job_row(ledger: Ledger, job: JobState) -> tuple[Any, ...]:
    return (
        job.id,
        job.status,
        job.outcome,
        job.completed_steps,
        job.failed_steps,
        job.running_steps,
        job.current_step,
        job.agent_id,
        job.error_message,
        job.exit_code,
        job.id in ledger.started_jobs,
        job.status.terminal,
        job.total_steps,
    )


def _stage_row(stage: StageState) -> tuple[Any, ...]:
    return stage.run_id, stage.index, stage.open_jobs, stage.outcome, stage.opened, stage.gate


def _run_row(run: RunState) -> tuple[Any, ...]:
    return (
        run.id,
        run.status,
        run.outcome,
        run.completed_jobs,
        run.failed_jobs,
        run.running_jobs,
        run.paused,
        run.stopped,
        run.status_reason,
        run.status.terminal,
        run.total_jobs,
        run.started,
    )


async def _write_leases(tx: Tx, ledger: Ledger) -> list[Row]:
    if not ledger.new_leases:
        return []
    rows = [
        (lease.id, lease.step_run_id, lease.agent_id, ledger.runs[ledger.steps[step_id].run_id].pipeline_id)
        for step_id, lease in ledger.new_leases.items()
    ]
    return list(await tx.fetch(_NEW_LEASES, *_columns(rows)))


async def _write_queue(tx: Tx, ledger: Ledger) -> None:
    if ledger.unqueued:
        gone = list(ledger.unqueued)
        # A claim that runs at this moment holds the row and takes it away: the step is leased then, not queued.
        if await tx.execute("DELETE FROM step_queue WHERE step_run_id = ANY($1)", gone) != f"DELETE {len(gone)}":
            raise WriteConflict("a step run was claimed at the same time")
    if ledger.queued:
        rows = []
        for step_id, agent_id in ledger.queued.items():
            step = ledger.steps[step_id]
            run, job = ledger.runs[step.run_id], ledger.jobs[step.job_id]
            delay = ledger.delays.get(step_id, 0.0)
            served = agent_id is not None or ledger.steps_before[step_id] is StepStatus.QUEUED
            row = (step_id, step.selector_id, step.run_id, agent_id, run.paused, delay, job.priority)
            rows.append((*row, run.pipeline_id, served, job.status is RunStatus.RUNNING))
        await tx.execute(_ENQUEUE, *_columns(rows))


async def count_runs(tx: Tx, ledger: Ledger) -> None:
    """Add the runs that ended to the counters of their pipelines.

    That is to come after all else of a change: all runs of a pipeline share its row, and wait here for one another.
    """
    counts: dict[Any, list[Any]] = {}
    for run_id, before in ledger.runs_before.items():
        run = ledger.runs[run_id]
        if run.status is before:
            continue
        entry = counts.setdefault(run.pipeline_id, [0, 0, ""])
        entry[0] += (run.status.value == "SUCCESS") - (before.value == "SUCCESS")
        entry[1] += (run.status.value == "FAILED") - (before.value == "FAILED")
        entry[2] = run.status.value
    if counts:
        await tx.execute(_PIPELINES, *_columns((key, *entry) for key, entry in sorted(counts.items())))
