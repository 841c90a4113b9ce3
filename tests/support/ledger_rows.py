"""Store the rows of a run as `db/new_runs.py` and `db/new_steps.py` do, in a store in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from uuid import UUID

from arcentra_server.domain.execution import (
    Event,
    JobState,
    Resource,
    RunState,
    StageDue,
    StageState,
    StepState,
    Waiting,
)
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import GateState, RunStatus, StepStatus
from tests.support.ledger_store import LedgerStore, QueueRow
from tests.support.shapes import JobShape, StageShape, StepShape

_PIPELINE = UUID(int=99)


def insert_run(store: LedgerStore, run_id: UUID, stages: tuple[StageShape, ...]) -> dict[str, UUID]:
    """Store a run and let its first stage have its turn; return its jobs by name."""
    total = sum(len(stage.jobs) for stage in stages)
    run = RunState(run_id, _PIPELINE, RunStatus.PENDING, len(stages), total)
    store.rows.runs[run_id] = run
    _record(store, Event(Resource.RUN, _PIPELINE, run_id, None, None, None, run.status, None, total))
    plainly = _starts_plainly(stages[0])
    jobs: dict[str, UUID] = {}
    for index, stage in enumerate(stages):
        gate = GateState.REQUIRED if stage.gate else GateState.NONE
        opened = index == 0 and plainly
        store.rows.stages[run_id, index] = StageState(run_id, index, len(stage.jobs), opened=opened, gate=gate)
        needed = {name for job in stage.jobs for name in job.needs}
        for shape in stage.jobs:
            job = insert_job(store, run_id, index, shape)
            jobs[shape.name] = job.id
            waits = Waiting.STAGE if not opened else Waiting.NEEDS if shape.needs else Waiting.NOTHING
            job = replace(job, has_dependants=shape.name in needed, has_outputs=shape.name in needed)
            job = replace(job, waits_for=waits, total_steps=len(shape.steps))
            store.rows.jobs[job.id] = job
            _record(store, _job_event(job))
            _insert_steps(store, job, shape.steps, start=opened and not shape.needs)
        for shape in stage.jobs:
            if shape.needs:
                store.rows.needs[jobs[shape.name]] = tuple(jobs[name] for name in shape.needs)
    if not plainly:
        store.change(lambda ledger: _begin(store, ledger, run_id))
    return jobs


def insert_job(store: LedgerStore, run_id: UUID, index: int, shape: JobShape) -> JobState:
    """Store a job without its steps."""
    job = JobState(
        store.new_id(),
        run_id,
        index,
        RunStatus.PENDING,
        selector_id=1,
        total_steps=0,
        condition=shape.when,
        total_needs=len(shape.needs),
        open_needs=len(shape.needs),
        allow_failure=shape.allow,
        concurrency=shape.key,
        retry=shape.retry,
        retries_left=shape.retry.max_attempts - 1 if shape.retry else 0,
        gate=GateState.REQUIRED if shape.gate else GateState.NONE,
    )
    store.rows.jobs[job.id] = job
    store.rows.shapes[job.id] = shape
    return replace(job)


def insert_step(store: LedgerStore, job: JobState, index: int, shape: StepShape) -> StepState:
    """Store a step, as PENDING."""
    step = StepState(
        id=store.new_id(),
        job_id=job.id,
        run_id=job.run_id,
        index=index,
        status=StepStatus.PENDING,
        selector_id=2 if shape.own else 1,
        own_selector=shape.own,
        continue_on_error=shape.tolerated,
        condition=shape.when,
        dynamic=shape.source,
        kind="source" if shape.source else "",
    )
    store.rows.steps[step.id] = step
    store.rows.step_shapes[step.id] = shape
    return replace(step)


def _begin(store: LedgerStore, ledger: Ledger, run_id: UUID) -> None:
    store.load_run(ledger, run_id)
    ledger.due_stages[run_id, 0] = StageDue(run_id, 0)


def _starts_plainly(stage: StageShape) -> bool:
    """Answer whether the jobs that need no other can be queued as they are stored."""
    first = [job for job in stage.jobs if not job.needs]
    looked_at = any(job.when or job.key or job.steps[0].when or job.steps[0].source for job in first)
    return not stage.gate and not looked_at


def _insert_steps(store: LedgerStore, job: JobState, shapes: Iterable[StepShape], *, start: bool) -> None:
    for index, shape in enumerate(shapes):
        step = insert_step(store, job, index, shape)
        if start and index == 0:
            step = replace(step, status=StepStatus.QUEUED)
            store.rows.steps[step.id] = step
            store.rows.queue[step.id] = QueueRow(None, held=False)
        _record(store, Event(Resource.STEP, _PIPELINE, job.run_id, job.id, step.id, None, step.status, None))


def _job_event(job: JobState) -> Event:
    return Event(Resource.JOB, _PIPELINE, job.run_id, job.id, None, None, job.status, None, job.total_steps)


def _record(store: LedgerStore, event: Event) -> None:
    store.rows.events.append(event)
