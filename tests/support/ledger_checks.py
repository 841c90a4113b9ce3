"""What must hold of the rows of a run at any time, counted afresh from the steps up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from uuid import UUID

from arcentra_server.domain import rollup
from arcentra_server.domain.execution import Event, Resource, StepState
from arcentra_server.domain.states import RunStatus, StepStatus
from arcentra_server.domain.transitions import JOB_TRANSITIONS, RUN_TRANSITIONS, STEP_TRANSITIONS
from tests.support.ledger_store import LedgerStore

_STARTED = (StepStatus.QUEUED, StepStatus.RUNNING)
_FAILED = (StepStatus.FAILED, StepStatus.TIMEOUT)


class RunChecks:
    """Checks a store after each change; remembers what it saw, to hold what must not change."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._ended: dict[UUID, StepStatus] = {}
        self._begun: set[UUID] = set()
        self._last: dict[Hashable, str] = {}
        self._events = 0

    def check(self) -> None:
        self._check_leases()
        self._check_ends()
        self._check_turns()
        self._check_jobs()
        self._check_run()
        self._check_events()

    def _check_leases(self) -> None:
        """A queued step is in the queue or leased, a running one leased, any other neither; one lease a step."""
        store = self._store
        leased = Counter(lease.step_run_id for lease in store.leases.values())
        assert all(number == 1 for number in leased.values())
        for step in store.steps.values():
            places = (step.id in store.queue) + leased[step.id]
            assert places == (step.status in _STARTED), f"{step.status} in {places} places"
            assert step.status is not StepStatus.RUNNING or (leased[step.id] and step.id in store.started)
        assert all(row.held == store.run.paused for row in store.queue.values())

    def _check_ends(self) -> None:
        for step_id, step in self._store.steps.items():
            if step_id in self._ended:
                assert step.status is self._ended[step_id], "the end of a step changed"
            elif step.status.terminal:
                self._ended[step_id] = step.status

    def _check_turns(self) -> None:
        """No step begins before those before it in its job have ended, nor before the turn of its stage."""
        store = self._store
        for job in store.jobs.values():
            steps = store.current_steps(job.id)
            for place, step in enumerate(steps):
                if step.status not in _STARTED:
                    continue
                assert all(before.status.terminal for before in steps[:place]), "a step before its turn"
                if step.id not in self._begun:
                    self._begun.add(step.id)
                    earlier = [other for other in store.jobs.values() if other.stage_index < job.stage_index]
                    assert all(other.status.terminal for other in earlier), "a stage before its turn"

    def _check_jobs(self) -> None:
        store = self._store
        for job in store.jobs.values():
            steps = store.current_steps(job.id)
            ended = [step for step in steps if step.status.terminal]
            running = [step for step in steps if step.status is StepStatus.RUNNING]
            failed = [step for step in ended if step.status in _FAILED]
            counted = (len(steps), len(ended), len(failed), len(running))
            assert (job.total_steps, job.completed_steps, job.failed_steps, job.running_steps) == counted
            outcome = rollup.job_outcome((step.status, step.continue_on_error) for step in ended)
            assert job.outcome is outcome
            begun = any(step.id in store.started for step in steps)
            assert job.id in store.started or not begun, "a job has begun and has no start"
            assert job.status is _job_status(steps, outcome, begun=begun), f"{job.status}: {steps}"

    def _check_run(self) -> None:
        store, run = self._store, self._store.run
        jobs = list(store.jobs.values())
        ended = [job.status for job in jobs if job.status.terminal]
        failed = [status for status in ended if status in (RunStatus.FAILED, RunStatus.TIMEOUT)]
        running = [job for job in jobs if job.status is RunStatus.RUNNING]
        counted = (len(jobs), len(ended), len(failed), len(running))
        assert (run.total_jobs, run.completed_jobs, run.failed_jobs, run.running_jobs) == counted
        open_jobs = Counter(job.stage_index for job in jobs if not job.status.terminal)
        assert store.stages == {index: open_jobs[index] for index in range(run.stage_count)}
        assert run.status.terminal == (len(ended) == len(jobs))
        if run.status.terminal:
            assert run.status is rollup.run_outcome(ended)
            assert not run.paused
            assert not store.queue
            assert not store.leases
        else:
            assert (run.status is RunStatus.PAUSED) == run.paused or run.stopped
            assert not (run.stopped and run.paused)
            assert run.status is not RunStatus.PENDING or not running

    def _check_events(self) -> None:
        """The events of each resource form a chain of allowed transitions that ends in its row."""
        for event in self._store.events[self._events :]:
            key, table = _subject(event)
            assert event.previous == self._last.get(key), f"{event} after {self._last.get(key)}"
            if event.previous is not None:
                assert event.status in table[event.previous], f"{event} is not allowed"
            self._last[key] = event.status
        self._events = len(self._store.events)
        store = self._store
        rows = {(Resource.STEP, step.id): step.status.value for step in store.steps.values()}
        rows |= {(Resource.JOB, job.id): job.status.value for job in store.jobs.values()}
        assert self._last == {**rows, (Resource.RUN, store.run.id): store.run.status.value}


def _job_status(steps: Sequence[StepState], outcome: RunStatus, *, begun: bool) -> RunStatus:
    if all(step.status.terminal for step in steps):
        return outcome
    return RunStatus.RUNNING if begun else RunStatus.PENDING


_TABLES: dict[Resource, dict[str, frozenset[str]]] = {
    Resource.STEP: {source.value: frozenset(to) for source, to in STEP_TRANSITIONS.items()},
    Resource.JOB: {source.value: frozenset(to) for source, to in JOB_TRANSITIONS.items()},
    Resource.RUN: {source.value: frozenset(to) for source, to in RUN_TRANSITIONS.items()},
}


def _subject(event: Event) -> tuple[Hashable, dict[str, frozenset[str]]]:
    identity = {Resource.STEP: event.step_id, Resource.JOB: event.job_id, Resource.RUN: event.run_id}[event.resource]
    return (event.resource, identity), _TABLES[event.resource]
