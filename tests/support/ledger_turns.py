"""Settle what became due in a ledger over a store in memory, in the order and with the questions of `db/turns.py`.

A condition is a letter of `tests/support/shapes.py` here, so that no expression has to be evaluated.
"""

from __future__ import annotations

from uuid import UUID

from arcentra_server.domain import rollup
from arcentra_server.domain.execution import OWN, JobState, NeedEnd, StepState, Verdict
from arcentra_server.domain.expressions import Outcome
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.ledger_book import Before
from arcentra_server.domain.ledger_turns import end_of
from arcentra_server.domain.states import RunStatus
from tests.support.ledger_store import LedgerStore

CANNOT = "this condition cannot be evaluated"


def settle(store: LedgerStore, ledger: Ledger) -> None:
    """Let everything that is due have its turn."""
    while True:
        if ledger.due_outputs:
            _outputs(ledger)
        elif ledger.due_attempts:
            _attempts(store, ledger)
        elif ledger.due_dependants:
            _dependants(store, ledger)
        elif ledger.due_jobs:
            _jobs(store, ledger)
        elif ledger.due_steps:
            _steps(store, ledger)
        elif ledger.due_stages:
            due = ledger.next_stage()
            run = ledger.runs[due.run_id]
            if run.ending or run.rejected or rollup.blocks(run.outcome):
                store.load_jobs(ledger, [job.id for job in store.jobs_of(run.id)])
            jobs, upstream = load_stage(store, ledger, due.run_id, due.index)
            ledger.enter_stage(run, ledger.stages[due.run_id, due.index], jobs, upstream)
        else:
            return


def load_stage(store: LedgerStore, ledger: Ledger, run_id: UUID, index: int) -> tuple[list[JobState], RunStatus]:
    """Load the jobs of a stage; return them, in order, and the gravest end of the stages before it."""
    ids = [job.id for job in store.rows.jobs.values() if (job.run_id, job.stage_index) == (run_id, index)]
    store.load_jobs(ledger, ids)
    stages = {**store.rows.stages, **ledger.stages}
    before = (stage.outcome for stage in stages.values() if stage.run_id == run_id and stage.index < index)
    jobs = ({**store.rows.jobs, **ledger.jobs}).values()
    walled = any(job.walled for job in jobs if job.run_id == run_id and job.stage_index < index)
    known = ledger.note_before(run_id, Before(index, rollup.gravest(before), walled))
    return [ledger.jobs[job_id] for job_id in ids], known.outcome


def _outputs(ledger: Ledger) -> None:
    ended, ledger.due_outputs = ledger.due_outputs, []
    for job_id in ended:
        ledger.job_outputs[job_id] = {"end": ledger.jobs[job_id].outcome.value}


def _attempts(store: LedgerStore, ledger: Ledger) -> None:
    due, ledger.due_attempts = ledger.due_attempts, {}
    steps = store.copy_attempts(due)
    for job_id, delay in due.items():
        ledger.begin_attempt(ledger.jobs[job_id], [step for step in steps if step.job_id == job_id], delay)


def _dependants(store: LedgerStore, ledger: Ledger) -> None:
    ended, ledger.due_dependants = ledger.due_dependants, []
    edges = [job_id for job_id, needs in store.rows.needs.items() for need in needs if need in ended]
    store.load_jobs(ledger, edges)
    ledger.need_ended(ledger.jobs[job_id] for job_id in edges)


def _jobs(store: LedgerStore, ledger: Ledger) -> None:
    due, ledger.due_jobs = ledger.due_jobs, {}
    for job_id in due:
        job = ledger.jobs[job_id]
        if not job.status.terminal:
            needs = [_end_of_need(ledger.jobs.get(need) or store.rows.jobs[need]) for need in _needs(store, job)]
            all_well = ledger.judge_needs(job, needs)
            ledger.decide_job(job, _judge_job(job, all_well=all_well))


def _needs(store: LedgerStore, job: JobState) -> tuple[UUID, ...]:
    return store.rows.needs.get(job.id, ())


def _end_of_need(need: JobState) -> NeedEnd:
    assert need.status.terminal, "a job is judged whose needs have not ended"
    return end_of(need)


def _steps(store: LedgerStore, ledger: Ledger) -> None:
    due, ledger.due_steps = ledger.due_steps, {}
    for step_id, one in due.items():
        step = ledger.steps[step_id]
        verdict = judge(step.condition, _outcome(ledger.jobs[step.job_id].outcome))
        if step.kind == "source" and verdict.holds and not verdict.error:
            _pin(store, ledger, step)
        ledger.decide_step(one, verdict)


def _pin(store: LedgerStore, ledger: Ledger, step: StepState) -> None:
    """Note which source the step clones, and whether it is told the commit of it."""
    step.pin = store.rows.shapes[step.job_id].source
    step.of_run = step.pin.partition(":")[0] == OWN
    step.told = bool(ledger.runs[step.run_id].pins.get(step.pin))
    ledger.pinned.add(step.id)


def _judge_job(job: JobState, *, all_well: bool) -> Verdict:
    outcome = Outcome.SUCCESS if all_well else _outcome(job.upstream)
    if outcome is Outcome.SUCCESS and not all_well:
        outcome = Outcome.SKIPPED
    return judge(job.condition, outcome)


def _outcome(status: RunStatus) -> Outcome:
    if status is RunStatus.CANCELLED:
        return Outcome.CANCELLED
    return Outcome.FAILURE if rollup.blocks(status) else Outcome.SUCCESS


def judge(condition: str, outcome: Outcome) -> Verdict:
    """Evaluate a condition; one that does not ask how things stand means success() as well."""
    well = outcome is Outcome.SUCCESS
    if condition == "E" or (condition == "e" and well):
        return Verdict(error=CANNOT)
    holds = {
        "a": True,
        "f": outcome is Outcome.FAILURE,
        "c": outcome is Outcome.CANCELLED,
        "n": False,
        "e": False,
    }
    return Verdict(holds=holds.get(condition, well))
