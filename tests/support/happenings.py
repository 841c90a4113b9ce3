"""What came to a run from outside: what agents reported, what users asked for, what time did, and when.

It is noted beside the ledger, from how the rows were before each change, so that `tests/support/independent.py` can say
what must have come of it. A moment is the number of what happened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from arcentra_server.domain.execution import CancelCause, JobState, StepReport, StepState
from arcentra_server.domain.states import FailureReason, GateState, StepStatus


@dataclass(slots=True)
class StepFacts:
    """What came to one step run. `ended`: when it ended by what came from outside; `turn`: it had its turn before.

    `moved`: it cloned another commit than the run keeps to.
    """

    started: int | None = None
    asked: CancelCause | None = None
    ended: int | None = None
    status: StepStatus = StepStatus.PENDING
    reason: FailureReason | None = None
    turn: bool = False
    moved: bool = False


@dataclass(slots=True)
class JobFacts:
    """What came to one attempt of a job. `begun`: when its first step could have its turn; `gone`: its workspace was."""

    begun: int | None = None
    closed: int | None = None
    cause: CancelCause | None = None
    given_up: int | None = None
    gone: set[int] = field(default_factory=set)
    gate: GateState = GateState.NONE
    cancelled_at_gate: bool = False


class Happenings:
    """What came to one run."""

    def __init__(self) -> None:
        self.now = 0
        self.steps: dict[UUID, StepFacts] = defaultdict(StepFacts)
        self.jobs: dict[UUID, JobFacts] = defaultdict(JobFacts)
        self.stage_gates: dict[int, GateState] = {}
        self.stopped = False
        self.timed_out = False
        self.opened_again: set[UUID] = set()
        self._pins: dict[str, str] = {}

    @property
    def ending(self) -> bool:
        return self.stopped or self.timed_out

    # Agents

    def reported(self, report: StepReport, pin: str, *, told: bool = False) -> None:
        """A report was taken; the same one again says nothing.

        `pin`: the source that the step clones, if it does; `told`: it was told which commit of it.
        """
        self.now += 1
        facts = self.steps[report.step_id]
        if report.status is StepStatus.RUNNING and facts.ended is None:
            facts.started = facts.started or self.now
        if facts.ended is not None or not report.status.terminal:
            return
        if facts.asked is not None:
            self._end_as_asked(report.step_id)
            return
        reason = {
            StepStatus.FAILED: report.failure_reason or FailureReason.SCRIPT,
            StepStatus.TIMEOUT: FailureReason.TIMEOUT,
        }.get(report.status)
        self._end(report.step_id, report.status, reason, turn=True)
        commit = report.outputs.get("commit", "")
        if pin and commit and report.status is StepStatus.SUCCESS and self._pins.setdefault(pin, commit) != commit:
            facts.status, facts.moved = StepStatus.FAILED, not told
            facts.reason = FailureReason.VALIDATION if told else None

    def lost(self, steps: Iterable[tuple[StepState, UUID, UUID | None]], *, gone: bool) -> None:
        """Leases ended without a word of their agents: steps, each with its agent, and that which has the workspace."""
        self.now += 1
        for step, agent, holder in steps:
            bound = holder is not None and not step.own_selector
            if step.status is StepStatus.QUEUED and not (bound and gone):
                continue  # it waits again
            if self.steps[step.id].asked is not None:
                self._end_as_asked(step.id)
            else:
                self._end(step.id, StepStatus.FAILED, FailureReason.AGENT_LOST, turn=True)
            if agent == holder:
                self.jobs[step.job_id].gone.add(self.now)

    def abandoned(self, step: StepState) -> None:
        """What only an agent could run which is gone was given up."""
        self.now += 1
        self._end(step.id, StepStatus.FAILED, FailureReason.AGENT_LOST, turn=True)
        self.jobs[step.job_id].gone.add(self.now)

    def unsendable(self, step: StepState) -> None:
        """What was queued cannot be sent."""
        self.now += 1
        self._end(step.id, StepStatus.FAILED, FailureReason.VALIDATION, turn=True)

    def unanswered(self, step: StepState) -> None:
        """An agent did not end what it was asked to end."""
        self.now += 1
        self._end_as_asked(step.id)

    def given_up(self, steps: Sequence[StepState]) -> None:
        """The agent that has a job gave it up."""
        self.now += 1
        open_steps = [step for step in steps if not step.status.terminal]
        if not open_steps:
            return
        hit = next((step for step in open_steps if step.status is StepStatus.RUNNING), open_steps[0])
        self.jobs[hit.job_id].given_up = self.now
        if self.steps[hit.id].asked is not None:
            self._end_as_asked(hit.id)
        else:
            status = StepStatus.FAILED if hit.status is StepStatus.RUNNING else StepStatus.CANCELLED
            self._end(hit.id, status, FailureReason.INTERNAL)

    # Users and time

    def step_cancelled(self, step: StepState, cause: CancelCause) -> None:
        self.now += 1
        self._cancel(step, cause)

    def job_cancelled(self, job: JobState, steps: Sequence[StepState], cause: CancelCause) -> None:
        self.now += 1
        self._close(job, steps, cause)

    def run_ended(self, jobs: Iterable[tuple[JobState, Sequence[StepState]]], cause: CancelCause) -> None:
        """A run was stopped, or its time is over."""
        self.now += 1
        self.stopped = self.stopped or cause is CancelCause.REQUEST
        self.timed_out = self.timed_out or cause is CancelCause.TIMEOUT
        for job, steps in jobs:
            self._close(job, steps, cause)

    def stage_decided(self, index: int, *, approved: bool) -> None:
        self.now += 1
        self.stage_gates[index] = GateState.APPROVED if approved else GateState.REJECTED

    def job_decided(self, job_id: UUID, *, approved: bool) -> None:
        self.now += 1
        self.jobs[job_id].gate = GateState.APPROVED if approved else GateState.REJECTED

    def key_given(self, job_id: UUID) -> None:
        self.now += 1
        self.jobs[job_id].begun = self.now

    def reopened(self, jobs: Sequence[JobState]) -> None:
        """Jobs are run again because somebody asked for it."""
        self.now += 1
        first = min(job.stage_index for job in jobs)
        for index, decision in list(self.stage_gates.items()):
            if index > first or (index == first and decision is GateState.REJECTED):
                del self.stage_gates[index]
        for job in jobs:
            self.jobs[job.id] = JobFacts()
        self.opened_again = {job.id for job in jobs}
        self.stopped = self.timed_out = False

    # What follows

    def _close(self, job: JobState, steps: Sequence[StepState], cause: CancelCause) -> None:
        if job.status.terminal:
            return
        facts = self.jobs[job.id]
        facts.closed, facts.cause = facts.closed or self.now, cause
        running = [step for step in steps if step.status is StepStatus.RUNNING]
        waiting = [step for step in steps if not step.status.terminal and step not in running]
        for step in running or waiting[:1]:
            self._cancel(step, cause)
        if not running and not waiting and job.gate is GateState.WAITING:
            facts.cancelled_at_gate = True

    def _cancel(self, step: StepState, cause: CancelCause) -> None:
        facts = self.steps[step.id]
        if step.status is StepStatus.RUNNING:
            facts.asked = CancelCause.REQUEST if facts.asked is CancelCause.REQUEST else cause
        elif cause is CancelCause.TIMEOUT:
            queued = step.status is StepStatus.QUEUED
            self._end(step.id, StepStatus.TIMEOUT if queued else StepStatus.CANCELLED, FailureReason.TIMEOUT)
        else:
            self._end(step.id, StepStatus.CANCELLED, FailureReason.CANCELLED)

    def _end_as_asked(self, step_id: UUID) -> None:
        if self.steps[step_id].asked is CancelCause.TIMEOUT:
            self._end(step_id, StepStatus.TIMEOUT, FailureReason.TIMEOUT, turn=True)
        else:
            self._end(step_id, StepStatus.CANCELLED, FailureReason.CANCELLED, turn=True)

    def _end(self, step_id: UUID, status: StepStatus, reason: FailureReason | None, *, turn: bool = False) -> None:
        facts = self.steps[step_id]
        facts.ended, facts.status, facts.reason, facts.turn = self.now, status, reason, turn
