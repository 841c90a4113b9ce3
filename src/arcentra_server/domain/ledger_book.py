"""The book of a ledger: what was loaded, how each thing was, and what has to be written.

It has no rules of its own but one: a state changes only along `domain/transitions.py`, and each change is an event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.domain import rollup
from arcentra_server.domain.execution import (
    CancelCommand,
    Event,
    JobState,
    Lease,
    NewGate,
    Release,
    Resource,
    RunState,
    StageDue,
    StageState,
    StepDue,
    StepState,
    Waiting,
)
from arcentra_server.domain.states import GateState, RunStatus, StepStatus
from arcentra_server.domain.transitions import (
    check_gate_transition,
    check_job_transition,
    check_run_transition,
    check_step_transition,
)


@dataclass(frozen=True, slots=True)
class Before:
    """What came of the stages before one. `walled`: a job of theirs ended without the approval that is behind it."""

    index: int = 0
    outcome: RunStatus = rollup.NOTHING_YET
    walled: bool = False


_NOTHING_BEFORE = Before()


class LedgerBook:
    """See the module.

    Args:
        new_id: Makes the ids of leases.
        is_token: Answers whether a text is the token of a lease.
    """

    def __init__(self, new_id: Callable[[], UUID], is_token: Callable[[UUID, str], bool]) -> None:
        self._new_id = new_id
        self._is_token = is_token
        self.runs: dict[UUID, RunState] = {}
        self.stages: dict[tuple[UUID, int], StageState] = {}
        self.jobs: dict[UUID, JobState] = {}
        self.jobs_of_stage: dict[tuple[UUID, int], list[JobState]] = {}
        # Of the jobs for which that was loaded, all that they depend on, and all that depend on them.
        self.needs: dict[UUID, list[UUID]] = {}
        self.dependants: dict[UUID, list[UUID]] = {}
        self.steps: dict[UUID, StepState] = {}
        self.whole_runs: set[UUID] = set()
        self._before: dict[UUID, Before] = {}
        self._pending: dict[UUID, list[StepState]] = {}
        self.steps_before: dict[UUID, StepStatus] = {}
        self.jobs_before: dict[UUID, RunStatus] = {}
        self.runs_before: dict[UUID, RunStatus] = {}
        self.changed_stages: set[tuple[UUID, int]] = set()
        self.started_steps: set[UUID] = set()
        self.started_jobs: set[UUID] = set()
        self.queued: dict[UUID, UUID | None] = {}
        self.delays: dict[UUID, float] = {}
        self.unqueued: set[UUID] = set()
        self.new_leases: dict[UUID, Lease] = {}
        self.barred_agents: set[UUID] = set()  # of those loaded, those that get nothing: disabled, or not approved
        self.ended_leases: dict[UUID, str] = {}
        # Of agents whose leases ended, how many of their slots are left free.
        self.freed: Counter[UUID] = Counter()
        # Step runs that were stored as queued, beside what is `queued` here, the most urgent first: their selectors' ids.
        self.stored_queued: dict[UUID, int] = {}
        self.events: list[Event] = []
        self.cancels: list[CancelCommand] = []
        self.releases: list[Release] = []
        # What has to be loaded, and perhaps evaluated, before it can go on; `db/turns.py` does that.
        self.due_stages: dict[tuple[UUID, int], StageDue] = {}
        self.due_jobs: dict[UUID, None] = {}
        self.due_steps: dict[UUID, StepDue] = {}
        self.due_dependants: list[UUID] = []
        self.due_attempts: dict[UUID, float] = {}
        self.due_outputs: list[UUID] = []
        # What has to be written beside states and counters.
        self.extended_runs: set[UUID] = set()
        self.extended_jobs: set[UUID] = set()
        self.rendered: dict[UUID, bytes] = {}
        self.pinned: set[UUID] = set()
        self.job_outputs: dict[UUID, Mapping[str, str]] = {}
        self.claimed_keys: list[UUID] = []
        self.released_keys: list[UUID] = []
        self.new_gates: list[NewGate] = []
        self.dropped_gates: list[NewGate] = []
        self.notices: list[tuple[UUID, UUID, str]] = []
        self.deployed: list[UUID] = []

    # Loading

    def add_runs(self, runs: Iterable[RunState], stages: Iterable[StageState]) -> None:
        self.runs.update((run.id, run) for run in runs)
        self.stages.update(((stage.run_id, stage.index), stage) for stage in stages)

    def add_jobs(self, jobs: Iterable[JobState], steps: Iterable[StepState]) -> None:
        """Add jobs with those of their steps that have not ended, in the order of the steps."""
        for job in jobs:
            if job.id not in self.jobs:
                self.jobs[job.id] = job
                self.jobs_of_stage.setdefault((job.run_id, job.stage_index), []).append(job)
                if job.stage_index < self._before.get(job.run_id, _NOTHING_BEFORE).index:
                    del self._before[job.run_id]
        for step in steps:
            if step.id not in self.steps:
                self.steps[step.id] = step
                self._pending.setdefault(step.job_id, []).append(step)

    def before(self, run_id: UUID, index: int) -> Before:
        """Return what came of the stages before one, which have ended, as far as they are loaded or it was noted.

        It goes on from where it was asked the last time, as a run may have thousands of stages that end together.
        """
        known = self.known_before(run_id, index)
        outcome, walled = known.outcome, known.walled
        for place in range(known.index, index):
            if (stage := self.stages.get((run_id, place))) is not None:
                outcome = rollup.graver(outcome, stage.outcome)
            walled = walled or any(job.walled for job in self.jobs_of_stage.get((run_id, place), ()))
        return self.note_before(run_id, Before(index, outcome, walled))

    def known_before(self, run_id: UUID, index: int) -> Before:
        """Return what was asked or noted last of the stages before one, or before an earlier one."""
        known = self._before.get(run_id, _NOTHING_BEFORE)
        return known if known.index <= index else _NOTHING_BEFORE

    def note_before(self, run_id: UUID, before: Before) -> Before:
        """Take what came of the stages before one, also of those of their jobs that are not loaded; return it."""
        self._before[run_id] = before
        return before

    def refused_stages(self, run_id: UUID) -> list[int]:
        """Return the stages of a run, which is loaded whole, whose gate was refused."""
        return [
            stage.index for stage in self.stages.values() if stage.run_id == run_id and stage.gate is GateState.REJECTED
        ]

    # Bookkeeping

    def _end_lease(self, step: StepState, reason: str) -> None:
        lease, step.lease = step.lease, None
        if lease is not None:
            self.freed[lease.agent_id] += 1
            if self.new_leases.pop(step.id, None) is None:
                self.ended_leases[lease.id] = reason
        elif step.id in self.queued:
            del self.queued[step.id]
        elif step.status is StepStatus.QUEUED:
            self.unqueued.add(step.id)

    def _enqueue(self, step: StepState, agent_id: UUID | None) -> None:
        self.queued[step.id] = agent_id
        self.unqueued.discard(step.id)
        self._touch_step(step)

    def _touch_step(self, step: StepState) -> None:
        self.steps_before.setdefault(step.id, step.status)

    def _touch_job(self, job: JobState) -> None:
        self.jobs_before.setdefault(job.id, job.status)

    def _touch_run(self, run: RunState) -> None:
        self.runs_before.setdefault(run.id, run.status)

    def _wait_for(self, job: JobState, reason: Waiting) -> None:
        """Note what a job waits for; tell of it, as no change of its state does."""
        if job.waits_for is reason:
            return
        job.waits_for = reason
        self._touch_job(job)
        self.extended_jobs.add(job.id)
        if reason is not Waiting.NOTHING:
            self.events.append(self._job_event(job, job.status))

    def _step_created(self, step: StepState) -> None:
        waiting = self.jobs[step.job_id].waits_for.value or "previous_step"
        self.events.append(self._step_event(step, None, waiting=waiting))

    def _job_created(self, job: JobState, run: RunState) -> None:
        self.events.append(
            Event(Resource.JOB, run.pipeline_id, run.id, job.id, None, None, job.status, None, job.total_steps)
        )

    @staticmethod
    def _set_gate(place: StageState | JobState, state: GateState) -> None:
        if place.gate is not state:
            check_gate_transition(place.gate, state)
            place.gate = state

    def _set_step(self, step: StepState, status: StepStatus) -> None:
        check_step_transition(step.status, status)
        self._touch_step(step)
        previous, step.status = step.status, status
        waiting = "agent" if status is StepStatus.QUEUED else ""
        self.events.append(self._step_event(step, previous, waiting=waiting))

    def _step_event(self, step: StepState, previous: str | None, *, message: str = "", waiting: str = "") -> Event:
        return Event(
            Resource.STEP,
            self.runs[step.run_id].pipeline_id,
            step.run_id,
            step.job_id,
            step.id,
            step.agent_id,
            step.status,
            previous,
            message=message,
            waiting=waiting,
        )

    def _set_job(self, job: JobState, status: RunStatus) -> None:
        check_job_transition(job.status, status)
        self._touch_job(job)
        previous, job.status = job.status, status
        self.events.append(self._job_event(job, previous))

    def _job_event(self, job: JobState, previous: str) -> Event:
        return Event(
            Resource.JOB,
            self.runs[job.run_id].pipeline_id,
            job.run_id,
            job.id,
            None,
            job.agent_id,
            job.status,
            previous,
            job.total_steps,
            job.completed_steps,
            job.failed_steps,
            job.running_steps,
            job.current_step,
            waiting=job.waits_for.value or ("queue" if job.status is RunStatus.PENDING else ""),
        )

    def _set_run(self, run: RunState, status: RunStatus, actor: str = "") -> None:
        check_run_transition(run.status, status)
        self._touch_run(run)
        previous, run.status = run.status, status
        self.events.append(self._run_event(run, previous, run.status_reason, actor))

    @staticmethod
    def _run_event(run: RunState, previous: str, message: str, actor: str = "") -> Event:
        return Event(
            Resource.RUN,
            run.pipeline_id,
            run.id,
            None,
            None,
            None,
            run.status,
            previous,
            run.total_jobs,
            run.completed_jobs,
            run.failed_jobs,
            run.running_jobs,
            0,
            message,
            actor,
        )
