"""Load what runs into a ledger. The runs are locked first; what is read after that cannot change under the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.execution_consequences import OF_RUN, TOLD
from arcentra_server.domain import rollup
from arcentra_server.domain.definition_json import retry_from_json
from arcentra_server.domain.execution import (
    OWN,
    CancelCause,
    Closing,
    JobState,
    Lease,
    RunState,
    StageState,
    StepState,
    Waiting,
)
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.ledger_book import Before
from arcentra_server.domain.ledger_turns import end_of
from arcentra_server.domain.states import FailureReason, GateState, RunStatus, StepStatus

_RUN = """
    SELECT id, pipeline_id, status, stage_count, total_jobs, outcome, completed_jobs, failed_jobs, running_jobs,
           paused, stopped, timed_out, rejected, commit_sha, pins, status_reason,
           started_at IS NOT NULL AS started
      FROM pipeline_runs
"""
_JOB = """
    SELECT j.id, j.run_id, j.stage_index, j.status, j.selector_id, j.total_steps, j.outcome, j.completed_steps,
           j.failed_steps, j.running_steps, j.current_step, j.agent_id, j.error_message, j.exit_code, j.failure_reason,
           j.condition, j.total_needs, j.open_needs, j.has_dependants, j.upstream, j.walled, j.allow_failure, j.priority,
           j.concurrency, j.retry, j.retries_left, j.attempt, j.closing, j.gate, j.output_texts <> '{}' AS has_outputs,
           j.notify ? 'on_success' AS tells_success, j.notify ? 'on_failure' AS tells_failure, j.waits_for,
           j.definition_name = '' AS unnamed, t.open_jobs, t.outcome AS stage_outcome, t.opened, t.gate AS stage_gate
      FROM job_runs j JOIN run_stages t ON t.run_id = j.run_id AND t.stage_index = j.stage_index
"""
# The lease is looked up step by step, and ids are found by `ANY(ARRAY(...))`, whose length the planner does not know: a
# database that is too young for statistics would read, and join, whole tables for a batch of reports otherwise.
_STEP = """
    SELECT s.id, s.job_run_id, s.run_id, s.step_index, s.status, s.selector_id, s.attempt, s.own_selector,
           s.continue_on_error, s.cancel_cause, s.cancel_reason, s.agent_id, s.exit_code, s.error_message,
           s.failure_reason, s.condition, s.kind, s.pin,
           s.templates IS NOT NULL OR s.secrets <> '{}' OR s.kind = 'source' AS dynamic, l.id AS lease_id, l.agent_id AS lease_agent,
           l.barred
      FROM step_runs s LEFT JOIN LATERAL (
           SELECT held.id, held.agent_id, a.disabled OR NOT a.approved AS barred
             FROM leases held JOIN agents a ON a.id = held.agent_id
            WHERE held.step_run_id = s.id AND held.end_reason IS NULL LIMIT 1) l ON true
"""
# The previous release, which may still be running, names no definition in the jobs it stores. It keeps neither how a
# stage ended nor whether it is open: both follow from the jobs, as its runs have no gates and tolerate no failure.
_OLDER_STAGES = """
    SELECT t.run_id, t.stage_index,
           NOT EXISTS (SELECT 1 FROM run_stages b
                        WHERE b.run_id = t.run_id AND b.stage_index < t.stage_index AND b.open_jobs > 0) AS opened,
           ARRAY(SELECT DISTINCT j.status FROM job_runs j WHERE j.run_id = t.run_id AND j.stage_index = t.stage_index
                    AND j.finished_at IS NOT NULL) AS ends
      FROM run_stages t
     WHERE t.run_id = ANY($1)
       AND NOT EXISTS (SELECT 1 FROM job_runs n WHERE n.run_id = t.run_id AND n.definition_name <> '')
"""
# What depends on jobs that end now: on those that end well ($1), and on those that do not ($2). What waits for one of these
# alone, and asks nothing, ends with it, and so does what waits for that one.
_DEPENDANTS = """
    WITH RECURSIVE ill AS (
        SELECT unnest($2::uuid[]) AS id
        UNION SELECT j.id FROM ill JOIN job_needs n ON n.needed_id = ill.id JOIN job_runs j ON j.id = n.job_run_id
               WHERE j.open_needs = 1 AND j.condition = '' AND j.status = 'PENDING'),
    ended AS (SELECT unnest($1::uuid[]) AS id, true AS well UNION ALL SELECT id, false FROM ill)
    SELECT n.needed_id, n.job_run_id, ended.well, j.open_needs, j.condition = '' AND j.has_dependants AS leads_on
      FROM ended JOIN job_needs n ON n.needed_id = ended.id JOIN job_runs j ON j.id = n.job_run_id
"""
_NEEDS = "SELECT job_run_id, needed_id FROM job_needs WHERE job_run_id = ANY($1)"
# What came of the stages of a range, of some of which ($4) only the walls are wanted.
_BEFORE = """
    SELECT ARRAY(SELECT DISTINCT outcome FROM run_stages
                  WHERE run_id = $1 AND stage_index >= $2 AND stage_index < $3 AND stage_index <> ALL($4::int[])) AS outcomes,
           EXISTS (SELECT 1 FROM job_runs
                    WHERE run_id = $1 AND stage_index >= $2 AND stage_index < $3 AND walled) AS walled
"""
# By what is stored: to look a member up takes a tenth of the time of a call of its class.
_RUN_STATUS = {status.value: status for status in RunStatus}
_STEP_STATUS = {status.value: status for status in StepStatus}
_CLOSING = {closing.value: closing for closing in Closing}
_GATE = {gate.value: gate for gate in GateState}
_WAITING = {waiting.value: waiting for waiting in Waiting}
# By whether somebody is told of a success, and of a failure; null is as good as no.
_NOTICES = {
    (success, failure): frozenset(side for side, told in (("success", success), ("failure", failure)) if told)
    for success in (None, False, True)
    for failure in (None, False, True)
}
_UNFINISHED = "s.status IN ('PENDING', 'QUEUED', 'RUNNING')"


async def load_steps(tx: Tx, ledger: Ledger, step_ids: Sequence[UUID]) -> None:
    """Lock the runs of these steps and load them, with their jobs and what is unfinished in those jobs."""
    runs = await tx.fetch(
        _RUN + "WHERE id = ANY(ARRAY(SELECT run_id FROM step_runs WHERE id = ANY($1))) ORDER BY id FOR NO KEY UPDATE",
        step_ids,
    )
    if not runs:
        return
    jobs = await tx.fetch(
        _JOB + "WHERE j.id = ANY(ARRAY(SELECT job_run_id FROM step_runs WHERE id = ANY($1)))", step_ids
    )
    steps = await tx.fetch(
        _STEP
        + f"WHERE s.job_run_id = ANY(ARRAY(SELECT unnest($1::uuid[]))) AND (({_UNFINISHED} AND NOT s.superseded)"
        + " OR s.id = ANY($2)) ORDER BY s.job_run_id, s.step_index, s.attempt",
        [job["id"] for job in jobs],
        step_ids,
    )
    _add(ledger, runs, jobs, steps, await _older_stages(tx, jobs))


async def lock_run(tx: Tx, ledger: Ledger, run_id: UUID) -> RunState | None:
    """Lock a run and load it without its jobs. None when there is no such run."""
    _add(ledger, await tx.fetch(_RUN + "WHERE id = $1 FOR NO KEY UPDATE", run_id), (), (), {})
    return ledger.runs.get(run_id)


async def load_run(tx: Tx, ledger: Ledger, run_id: UUID) -> RunState | None:
    """Lock a run and load it whole, as far as it is unfinished. None when there is no such run."""
    run = await lock_run(tx, ledger, run_id)
    if run is None:
        return None
    jobs = await tx.fetch(_JOB + "WHERE j.run_id = $1 ORDER BY j.stage_index, j.job_index", run_id)
    steps = await tx.fetch(
        _STEP + f"WHERE s.run_id = $1 AND {_UNFINISHED} AND NOT s.superseded ORDER BY s.job_run_id, s.step_index",
        run_id,
    )
    _add(ledger, (), jobs, steps, await _older_stages(tx, jobs))
    ledger.whole_runs.add(run_id)
    return run


async def load_jobs(tx: Tx, ledger: Ledger, job_ids: Sequence[UUID]) -> list[JobState]:
    """Load jobs of runs that are locked, with those of their steps that are unfinished; return them."""
    missing = [job_id for job_id in job_ids if job_id not in ledger.jobs]
    if missing:
        await _load(tx, ledger, await tx.fetch(_JOB + "WHERE j.id = ANY($1)", missing))
    return [ledger.jobs[job_id] for job_id in job_ids]


async def load_dependants(tx: Tx, ledger: Ledger, ended: Iterable[UUID]) -> None:
    """Load the jobs that depend on these, which have ended; and of those whose turn comes by that all that they depend on.

    What waits for nothing else any more behind a job that did not end well is likely to be skipped: what depends on it is
    loaded at once, and so on. Nothing is loaded for what goes on waiting but the job itself.
    """
    well: list[UUID] = []
    ill: list[UUID] = []
    for job_id in ended:
        if job_id not in ledger.dependants:
            (ill if end_of(ledger.jobs[job_id]).holds_up else well).append(job_id)
    open_needs: dict[UUID, int] = {}
    while well or ill:
        found: dict[UUID, list[UUID]] = {job_id: [] for job_id in (*well, *ill)}
        behind_ill: set[UUID] = set()
        for row in await tx.fetch(_DEPENDANTS, well, ill):
            needed, job_id = row["needed_id"], row["job_run_id"]
            if needed in ledger.dependants:
                continue
            found.setdefault(needed, []).append(job_id)
            loaded = ledger.jobs.get(job_id)
            left = open_needs.get(job_id, loaded.open_needs if loaded else row["open_needs"]) - 1
            open_needs[job_id] = left
            if row["leads_on"] and not row["well"]:
                behind_ill.add(job_id)
        ledger.dependants |= found
        well, ill = [], [one for one in behind_ill if open_needs[one] == 0 and one not in ledger.dependants]
    await load_jobs(tx, ledger, list(open_needs))
    await load_needs(tx, ledger, [job_id for job_id, left in open_needs.items() if left == 0])


async def load_needs(tx: Tx, ledger: Ledger, job_ids: Iterable[UUID]) -> None:
    """Load the jobs that these depend on."""
    missing = [job_id for job_id in job_ids if job_id not in ledger.needs]
    if missing:
        ledger.needs |= {job_id: [] for job_id in missing}
        edges = await tx.fetch(_NEEDS, missing)
        for edge in edges:
            ledger.needs[edge["job_run_id"]].append(edge["needed_id"])
        await load_jobs(tx, ledger, list({edge["needed_id"] for edge in edges}))


async def load_rest(tx: Tx, ledger: Ledger, run_id: UUID) -> None:
    """Load every job of a run that is locked which is not loaded yet: for what concerns all its stages."""
    if run_id not in ledger.whole_runs:
        await _load(
            tx, ledger, await tx.fetch(_JOB + "WHERE j.run_id = $1 ORDER BY j.stage_index, j.job_index", run_id)
        )
        ledger.whole_runs.add(run_id)


async def load_stage(tx: Tx, ledger: Ledger, run_id: UUID, index: int) -> tuple[list[JobState], RunStatus]:
    """Load the jobs of a stage; return them, in order, and the gravest end of the stages before it."""
    if run_id in ledger.whole_runs:
        return _loaded_stage(ledger, run_id, index)
    jobs = await tx.fetch(_JOB + "WHERE j.run_id = $1 AND j.stage_index = $2 ORDER BY j.job_index", run_id, index)
    await _load(tx, ledger, jobs)
    before = await _load_before(tx, ledger, run_id, index, await _older_stages(tx, jobs))
    return [ledger.jobs[job["id"]] for job in jobs], before.outcome


async def _load_before(
    tx: Tx, ledger: Ledger, run_id: UUID, index: int, older: Mapping[tuple[UUID, int], _OlderStage]
) -> Before:
    """Let the ledger know what came of the stages before one, those that it has not loaded too; return it.

    Only those are asked for of which it does not know it yet, as many stages may end together.
    """
    known = ledger.known_before(run_id, index)
    stages: dict[int, RunStatus] = {}
    walled = known.walled
    for place in range(known.index, index):
        if (stage := ledger.stages.get((run_id, place)) or older.get((run_id, place))) is not None:
            stages[place] = stage.outcome
        walled = walled or any(job.walled for job in ledger.jobs_of_stage.get((run_id, place), ()))
    if known.index < index:
        [row] = await tx.fetch(_BEFORE, run_id, known.index, index, list(stages))
        outcomes = [*stages.values(), *map(RunStatus, row["outcomes"])]
        known = Before(index, rollup.gravest([known.outcome, *outcomes]), walled or row["walled"])
    return ledger.note_before(run_id, known)


def _loaded_stage(ledger: Ledger, run_id: UUID, index: int) -> tuple[list[JobState], RunStatus]:
    jobs = ledger.jobs_of_stage.get((run_id, index), ())
    return sorted(jobs, key=lambda job: job.id), ledger.before(run_id, index).outcome


async def _load(tx: Tx, ledger: Ledger, jobs: Sequence[Row]) -> None:
    steps = await tx.fetch(
        _STEP
        + f"WHERE s.job_run_id = ANY($1) AND {_UNFINISHED} AND NOT s.superseded ORDER BY s.job_run_id, s.step_index",
        [job["id"] for job in jobs if job["id"] not in ledger.jobs],
    )
    _add(ledger, (), jobs, steps, await _older_stages(tx, jobs))


@dataclass(frozen=True, slots=True)
class _OlderStage:
    outcome: RunStatus
    opened: bool


async def _older_stages(tx: Tx, jobs: Iterable[Row]) -> dict[tuple[UUID, int], _OlderStage]:
    """Return what is not stored of the stages of those runs that the previous release stored."""
    run_ids = {job["run_id"] for job in jobs if job["unnamed"]}
    rows = await tx.fetch(_OLDER_STAGES, list(run_ids)) if run_ids else ()
    return {
        (row["run_id"], row["stage_index"]): _OlderStage(
            rollup.gravest(rollup.job_contribution(RunStatus(end)) for end in row["ends"]), row["opened"]
        )
        for row in rows
    }


def _add(
    ledger: Ledger,
    runs: Iterable[Row],
    jobs: Sequence[Row],
    steps: Iterable[Row],
    older: Mapping[tuple[UUID, int], _OlderStage],
) -> None:
    of_stages = {(row["run_id"], row["stage_index"]): row for row in jobs}
    stages = [_stage(row, older.get(key)) for key, row in of_stages.items() if key not in ledger.stages]
    ledger.add_runs([_run(row) for row in runs], stages)
    new = [_job(row) for row in jobs if row["id"] not in ledger.jobs]
    for job in new if older else ():
        if (stage := older.get((job.run_id, job.stage_index))) is not None:
            # The previous release opens a stage without taking back what its jobs wait for.
            waits = job.status is RunStatus.PENDING and not stage.opened
            job.waits_for = Waiting.STAGE if waits else Waiting.NOTHING
    ledger.add_jobs(new, [_step(row) for row in steps])
    ledger.barred_agents.update(row["lease_agent"] for row in steps if row["barred"])


def _run(row: Row) -> RunState:
    return RunState(
        id=row["id"],
        pipeline_id=row["pipeline_id"],
        status=_RUN_STATUS[row["status"]],
        stage_count=row["stage_count"],
        total_jobs=row["total_jobs"],
        outcome=_RUN_STATUS[row["outcome"]],
        completed_jobs=row["completed_jobs"],
        failed_jobs=row["failed_jobs"],
        running_jobs=row["running_jobs"],
        paused=row["paused"],
        stopped=row["stopped"],
        timed_out=row["timed_out"],
        rejected=row["rejected"],
        started=row["started"],
        commit_sha=row["commit_sha"],
        pins=row["pins"],
        status_reason=row["status_reason"],
    )


def _stage(row: Row, older: _OlderStage | None) -> StageState:
    """Return the stage of the row of one of its jobs."""
    return StageState(
        row["run_id"],
        row["stage_index"],
        row["open_jobs"],
        older.outcome if older else _RUN_STATUS[row["stage_outcome"]],
        older.opened if older else row["opened"],
        _GATE[row["stage_gate"]],
    )


def _job(row: Row) -> JobState:
    # By place, as the columns of _JOB stand: half of what a name takes, and every report loads a few rows.
    (
        identity,
        run_id,
        stage_index,
        status,
        selector_id,
        total_steps,
        outcome,
        completed_steps,
        failed_steps,
        running_steps,
        current_step,
        agent_id,
        error_message,
        exit_code,
        failure_reason,
        condition,
        total_needs,
        open_needs,
        has_dependants,
        upstream,
        walled,
        allow_failure,
        priority,
        concurrency,
        retry,
        retries_left,
        attempt,
        closing,
        gate,
        has_outputs,
        tells_success,
        tells_failure,
        waits_for,
        *_of_stage,
    ) = row
    return JobState(
        identity,
        run_id,
        stage_index,
        _RUN_STATUS[status],
        selector_id,
        total_steps,
        _RUN_STATUS[outcome],
        completed_steps,
        failed_steps,
        running_steps,
        current_step,
        agent_id,
        error_message,
        exit_code,
        FailureReason(failure_reason) if failure_reason else None,
        condition,
        total_needs,
        open_needs,
        has_dependants,
        _RUN_STATUS[upstream],
        walled,
        allow_failure,
        priority,
        concurrency,
        retry_from_json(retry) if retry else None,
        retries_left,
        attempt,
        _CLOSING[closing],
        _GATE[gate],
        has_outputs,
        _NOTICES[tells_success, tells_failure],
        _WAITING[waits_for],
    )


def _step(row: Row) -> StepState:
    # By place, as the columns of _STEP stand.
    (
        identity,
        job_id,
        run_id,
        index,
        status,
        selector_id,
        attempt,
        own_selector,
        continue_on_error,
        cancel_cause,
        cancel_reason,
        agent_id,
        exit_code,
        error_message,
        failure_reason,
        condition,
        kind,
        pin,
        dynamic,
        lease_id,
        lease_agent,
        _barred,
    ) = row
    step = StepState(
        identity,
        job_id,
        run_id,
        index,
        _STEP_STATUS[status],
        selector_id,
        attempt,
        own_selector,
        continue_on_error,
        CancelCause(cancel_cause) if cancel_cause else None,
        cancel_reason,
        agent_id,
        Lease(lease_id, identity, lease_agent) if lease_id else None,
        exit_code,
        error_message,
        FailureReason(failure_reason) if failure_reason else None,
        condition=condition,
        dynamic=dynamic,
        kind=kind,
    )
    if pin:
        step.told = pin.endswith(TOLD)
        step.pin = pin.removesuffix(TOLD).removesuffix(OF_RUN)
        step.of_run = OF_RUN in pin or step.pin == OWN
    return step
