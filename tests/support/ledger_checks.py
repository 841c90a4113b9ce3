"""What must hold of the rows of a run at any time, counted afresh from the steps up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from uuid import UUID

from arcentra_server.domain.execution import Event, JobState, Lease, Resource, RunState, StepState, Waiting
from arcentra_server.domain.states import ApprovalState, FailureReason, GateState, RunStatus, StepStatus
from arcentra_server.domain.transitions import JOB_TRANSITIONS, RUN_TRANSITIONS, STEP_TRANSITIONS
from tests.support.independent import adds, worst
from tests.support.ledger_store import LedgerStore

_ACTIVE = (StepStatus.QUEUED, StepStatus.RUNNING)
_FAILED = (StepStatus.FAILED, StepStatus.TIMEOUT)


class RunChecks:
    """Checks the rows of one run after each change; remembers what it saw, to hold what must not change."""

    def __init__(self, store: LedgerStore, run_id: UUID) -> None:
        self._store = store
        self._run_id = run_id
        self._old: dict[UUID, StepState] = {}
        self._begun: set[UUID] = set()
        self._attempts: dict[tuple[UUID, int], int] = {}
        self._counted: set[UUID] = set()
        self._last: dict[UUID | None, str] = {}
        self._events = 0
        self._jobs: list[JobState] = []
        self._steps: dict[UUID, list[StepState]] = {}
        self._leases: dict[UUID, Lease] = {}
        self._seen_leases: set[UUID] = set()

    def check(self) -> None:
        rows = self._store.rows
        self._jobs = self._store.jobs_of(self._run_id)
        self._steps = {job.id: [] for job in self._jobs}
        self._leases = {lease.step_run_id: lease for lease in rows.leases.values()}
        for step in rows.steps.values():
            if step.run_id == self._run_id:
                self._check_end(step)
                if step.id not in rows.superseded:
                    self._steps[step.job_id].append(step)
        for job in self._jobs:
            steps = sorted(self._steps[job.id], key=lambda step: step.index)
            assert [step.index for step in steps] == list(range(len(steps))), "each step has one last attempt"
            self._check_places(steps)
            self._check_turns(job, steps)
            self._check_job(job, steps)
            self._check_waiting(job, steps)
        self._check_pause()
        self._check_run()
        self._check_events()

    def _check_end(self, step: StepState) -> None:
        """What has ended, and what another attempt took the place of, never changes."""
        old = self._old.get(step.id)
        if old is not None:
            assert step is old or step == old, "a step that had ended changed"
        elif step.status.terminal:
            self._old[step.id] = step
        else:
            assert step.id not in self._store.rows.superseded, "an attempt that goes on was taken the place of"
        if step.id not in self._counted:
            key = step.job_id, step.index
            assert step.attempt > self._attempts.get(key, 0), "attempts do not count up"
            self._attempts[key] = step.attempt
            self._counted.add(step.id)

    def _check_places(self, steps: Sequence[StepState]) -> None:
        """A queued step is in the queue or leased, a running one leased, any other neither."""
        rows = self._store.rows
        for step in steps:
            lease, queued = self._leases.get(step.id), rows.queue.get(step.id)
            places = (queued is not None) + (lease is not None)
            assert places == (step.status in _ACTIVE), f"{step.status} in {places} places"
            assert step.status is not StepStatus.RUNNING or (lease and step.id in rows.started)
            assert queued is None or queued.held == rows.runs[self._run_id].paused

    def _check_turns(self, job: JobState, steps: Sequence[StepState]) -> None:
        """No step begins before what comes before it, past a gate, or without the key of its job."""
        rows = self._store.rows
        for place, step in enumerate(steps):
            if step.status not in _ACTIVE:
                continue
            assert all(before.status.terminal for before in steps[:place]), "a step before its turn"
            if job.concurrency:
                claim = rows.claims.get(job.id)
                assert claim is not None, "a job runs without its key"
                assert claim.place is not None, "a job runs and waits for its key"
            if step.id not in self._begun:
                first = not any(other.id in self._begun for other in steps)
                self._begun.add(step.id)
                self._check_begin(job, first=first)

    def _check_begin(self, job: JobState, *, first: bool) -> None:
        stages = {index: stage for (run_id, index), stage in self._store.rows.stages.items() if run_id == self._run_id}
        stage = stages[job.stage_index]
        assert stage.opened, "a stage that is not open"
        assert stage.gate in (GateState.NONE, GateState.APPROVED), f"past a gate that is {stage.gate}"
        for other in self._jobs:
            if other.stage_index < job.stage_index:
                assert other.status.terminal, "a stage before its turn"
                _check_passed(other)
        for index in range(job.stage_index):
            assert stages[index].gate not in (GateState.WAITING, GateState.REJECTED), "behind a gate that was refused"
        for need in self._store.rows.needs.get(job.id, ()) if first else ():
            needed = self._store.rows.jobs[need]
            assert needed.status.terminal, "a job before what it needs"
            _check_passed(needed)

    def _check_job(self, job: JobState, steps: Sequence[StepState]) -> None:
        rows = self._store.rows
        ended = [step for step in steps if step.status.terminal]
        running = [step for step in steps if step.status is StepStatus.RUNNING]
        failed = [step for step in ended if step.status in _FAILED]
        counted = (len(steps), len(ended), len(failed), len(running))
        assert (job.total_steps, job.completed_steps, job.failed_steps, job.running_steps) == counted
        begun = any(step.id in rows.started for step in steps)
        assert job.id in rows.started or not begun, "a job has begun and has no start"
        done = len(ended) == len(steps) and job.gate is not GateState.WAITING
        assert job.status.terminal == done, f"the job is {job.status}: {steps}"
        outcome = worst(adds(rows.step_shapes[step.id], step.status) for step in ended)
        if not done:
            assert job.outcome is outcome or (job.gate is GateState.WAITING and job.failure_reason in _BESIDE_STEPS)
            going = RunStatus.RUNNING if begun else RunStatus.PENDING
            # What waits at its gate may have had nothing to run: all its steps were skipped but for one that failed.
            assert job.status is going or job.gate is GateState.WAITING, f"the job is {job.status}: {steps}"
            return
        assert job.status is job.outcome
        if job.status is not outcome:
            assert job.failure_reason in _BESIDE_STEPS or job.status is RunStatus.CANCELLED, f"{job} of {steps}"
        assert job.waits_for is Waiting.NOTHING, f"the job has ended and waits for {job.waits_for}"
        assert (job.failure_reason is None) or job.status not in (RunStatus.SUCCESS, RunStatus.SKIPPED)
        if job.status in (RunStatus.FAILED, RunStatus.TIMEOUT):
            assert job.failure_reason is not None, "a job failed and nobody knows why"
        assert job.id not in rows.claims, "a job has ended and has a key, or waits for one"
        if job.has_outputs and job.status is not RunStatus.SKIPPED:
            assert RunStatus(rows.outputs[job.id]).terminal
        else:
            assert job.id not in rows.outputs, "a job was skipped and has outputs"

    def _check_waiting(self, job: JobState, steps: Sequence[StepState]) -> None:
        """What has not begun says what it waits for."""
        if job.status.terminal:
            return
        rows, stage = self._store.rows, self._store.rows.stages[self._run_id, job.stage_index]
        active = any(step.status in _ACTIVE for step in steps)
        gate, claim = job.gate is GateState.WAITING, rows.claims.get(job.id)
        if active:
            assert job.waits_for in (Waiting.NOTHING, Waiting.RETRY), f"a job runs and waits for {job.waits_for}"
        elif gate or stage.gate is GateState.WAITING:
            assert job.waits_for is Waiting.APPROVAL, f"{job.waits_for} at a gate"
        elif claim is not None and claim.place is None:
            assert job.waits_for is Waiting.CONCURRENCY, f"{job.waits_for} for a key"
        else:
            assert job.waits_for in (Waiting.STAGE, Waiting.NEEDS), f"nothing of a job goes on: {job.waits_for}"
            needs = [rows.jobs[need] for need in rows.needs.get(job.id, ())]
            assert job.open_needs == sum(not need.status.terminal for need in needs), "needs are counted wrongly"
            assert not stage.opened or job.open_needs, "a job waits for nothing"

    def _check_pause(self) -> None:
        """Nothing is given to an agent while the run is paused."""
        leases = {lease.id for lease in self._leases.values()}
        if self._store.rows.runs[self._run_id].paused:
            mine = {
                self._leases[step.id].id for steps in self._steps.values() for step in steps if step.id in self._leases
            }
            assert mine <= self._seen_leases, "something was leased while the run is paused"
        self._seen_leases |= leases

    def _check_run(self) -> None:
        rows, run = self._store.rows, self._store.rows.runs[self._run_id]
        jobs = self._jobs
        ended = [job.status for job in jobs if job.status.terminal]
        failed = [status for status in ended if status in (RunStatus.FAILED, RunStatus.TIMEOUT)]
        running = [job for job in jobs if job.status is RunStatus.RUNNING]
        counted = (len(jobs), len(ended), len(failed), len(running))
        assert (run.total_jobs, run.completed_jobs, run.failed_jobs, run.running_jobs) == counted
        open_jobs = Counter(job.stage_index for job in jobs if not job.status.terminal)
        stages = {index: stage for (run_id, index), stage in rows.stages.items() if run_id == run.id}
        assert {index: stage.open_jobs for index, stage in stages.items()} == {one: open_jobs[one] for one in stages}
        assert run.status.terminal == (len(ended) == len(jobs))
        waiting = self._check_gates(jobs)
        mine = {step.id for steps in self._steps.values() for step in steps}
        claims = [claim for claim in rows.claims.values() if claim.run_id == run.id]
        goes_on = bool(
            mine & rows.queue.keys() or mine & self._leases.keys() or waiting or any(c.place is None for c in claims)
        )
        assert goes_on != run.status.terminal, f"{run.status}, and something goes on: {goes_on}"
        if run.status.terminal:
            assert not claims
            assert not run.paused
        else:
            assert (run.status is RunStatus.PAUSED) == run.paused
            assert not (run.ending and run.paused)
            assert run.status is not RunStatus.PENDING or not running

    def _check_gates(self, jobs: Sequence[JobState]) -> int:
        """What waits at a gate has a row that waits for a decision, and the other way round; return how many."""
        rows = self._store.rows
        waiting: set[object] = {job.id for job in jobs if job.gate is GateState.WAITING}
        waiting |= {key for key, stage in rows.stages.items() if key[0] == self._run_id and _waits(stage.gate)}
        asked = Counter[object](
            row.job_id or (row.run_id, row.stage_index)
            for row in rows.approvals.values()
            if row.run_id == self._run_id and row.state is ApprovalState.PENDING
        )
        assert asked == Counter(waiting), f"at gates: {waiting}, asked: {asked}"
        return len(waiting)

    def _check_events(self) -> None:
        """The events of each resource form a chain of allowed transitions that ends in its row."""
        for event in self._store.rows.events[self._events :]:
            if event.run_id != self._run_id:
                continue
            key, table = _subject(event)
            assert event.previous == self._last.get(key), f"{event} after {self._last.get(key)}"
            if event.previous is not None and event.previous != event.status:
                assert event.status in table[event.previous], f"{event} is not allowed"
            assert event.previous != event.status or event.waiting, f"{event} tells nothing"
            self._last[key] = event.status
        self._events = len(self._store.rows.events)
        rows = self._store.rows
        told: list[RunState | JobState | StepState] = [rows.runs[self._run_id], *self._jobs]
        told += [step for step in rows.steps.values() if step.run_id == self._run_id]
        for row in told:
            assert self._last[row.id] == row.status.value, f"{row} was told as {self._last[row.id]}"


class KeyChecks:
    """Checks who holds concurrency keys, over all runs of a store."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    def check(self) -> None:
        """No key has more holders than it has places, and the jobs that run are among its holders."""
        rows = self._store.rows
        places: dict[str, list[int]] = defaultdict(list)
        for claim in rows.claims.values():
            if claim.place is not None:
                assert claim.place < claim.most, "a place that the key does not have"
                places[claim.key].append(claim.place)
        for key, taken in places.items():
            assert len(set(taken)) == len(taken), f"two holders of {key}"
        active = {rows.steps[lease.step_run_id].job_id for lease in rows.leases.values()}
        running = Counter(rows.jobs[job_id].concurrency for job_id in active)
        for key, number in running.items():
            most = max((claim.most for claim in rows.claims.values() if claim.key == key), default=0)
            assert not key or number <= most, f"{number} jobs run that want {key}, it has {most} places"


# Why a job ends otherwise than its steps: its condition, its time, its gate.
_BESIDE_STEPS = (FailureReason.VALIDATION, FailureReason.TIMEOUT, FailureReason.REJECTED)
_TABLES: dict[Resource, dict[str, frozenset[str]]] = {
    Resource.STEP: {source.value: frozenset(to) for source, to in STEP_TRANSITIONS.items()},
    Resource.JOB: {source.value: frozenset(to) for source, to in JOB_TRANSITIONS.items()},
    Resource.RUN: {source.value: frozenset(to) for source, to in RUN_TRANSITIONS.items()},
}


def _check_passed(job: JobState) -> None:
    """A job behind which something begins had its approval, or was skipped, so that there was nothing to approve."""
    assert job.gate in (GateState.NONE, GateState.APPROVED) or job.status is RunStatus.SKIPPED, "past a gate"
    assert job.gate is not GateState.REJECTED, "behind a gate that was refused"


def _waits(gate: GateState) -> bool:
    return gate is GateState.WAITING


def _subject(event: Event) -> tuple[UUID | None, dict[str, frozenset[str]]]:
    identity = {Resource.STEP: event.step_id, Resource.JOB: event.job_id, Resource.RUN: event.run_id}[event.resource]
    return identity, _TABLES[event.resource]
