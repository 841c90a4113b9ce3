"""A tiny store in memory that loads and writes a ledger as the database does: what a ledger does not name is not written.

It follows `db/execution.py` and `db/execution_write.py` row by row and holds what the database's constraints hold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeVar
from uuid import UUID

from arcentra_server.domain.errors import ArcentraError
from arcentra_server.domain.execution import (
    CancelCommand,
    Event,
    JobState,
    Lease,
    Release,
    RunState,
    StageState,
    StepReport,
    StepState,
)
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import StepStatus

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A step run that waits. `agent_id`: the only agent that may take it; `held`: its run is paused."""

    agent_id: UUID | None
    held: bool


@dataclass
class LedgerStore:
    """The rows of one run, and all that was said to the outside since the beginning."""

    run: RunState
    stages: dict[int, int] = field(default_factory=dict)
    jobs: dict[UUID, JobState] = field(default_factory=dict)
    steps: dict[UUID, StepState] = field(default_factory=dict)
    superseded: set[UUID] = field(default_factory=set)
    started: set[UUID] = field(default_factory=set)
    queue: dict[UUID, QueueRow] = field(default_factory=dict)
    leases: dict[UUID, Lease] = field(default_factory=dict)
    ended_leases: dict[UUID, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    cancels: list[CancelCommand] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    _numbers: Iterable[int] = field(default_factory=lambda: count(1_000_000))

    def new_id(self) -> UUID:
        return UUID(int=next(iter(self._numbers)))

    @staticmethod
    def token(lease_id: UUID) -> str:
        return f"token of {lease_id}"

    def change(self, action: Callable[[Ledger], Answer]) -> Answer:
        """Run an action on a new ledger and write what it decided; an error of the action leaves all as it was."""
        ledger = Ledger(self.new_id, lambda lease_id, text: text == self.token(lease_id))
        answer = action(ledger)
        self._settle(ledger)
        self._write(ledger)
        return answer

    def take(self, reports: Collection[StepReport]) -> list[ArcentraError | None]:
        """Take a batch of reports as the service does: each has its own verdict, and a refused one changes nothing."""

        def decide(ledger: Ledger) -> list[ArcentraError | None]:
            self.load_steps(ledger, {report.step_id for report in reports})
            return [_verdict(ledger, report) for report in reports]

        return self.change(decide)

    def claim(self, step_id: UUID, agent_id: UUID) -> Lease:
        """Turn a queue row into a lease, as the scheduler does."""
        row = self.queue.pop(step_id)
        assert not row.held, "a held row was claimed"
        assert row.agent_id in (None, agent_id), "a bound row was claimed by another agent"
        lease = Lease(self.new_id(), step_id, agent_id)
        self._insert_lease(lease)
        return lease

    def lease_of(self, step_id: UUID) -> Lease | None:
        return next((lease for lease in self.leases.values() if lease.step_run_id == step_id), None)

    def current_steps(self, job_id: UUID) -> list[StepState]:
        """Return the last attempts of the steps of a job, in order."""
        steps = (step for step in self.steps.values() if step.job_id == job_id and step.id not in self.superseded)
        return sorted(steps, key=lambda step: step.index)

    # Loading

    def load_steps(self, ledger: Ledger, step_ids: Collection[UUID]) -> None:
        jobs = {self.steps[step_id].job_id for step_id in step_ids if step_id in self.steps}
        if jobs:
            ledger.add_runs([replace(self.run)], ())
            self._load_jobs(ledger, jobs, step_ids)

    def load_run(self, ledger: Ledger) -> RunState:
        ledger.add_runs([replace(self.run)], ())
        self._load_jobs(ledger, self.jobs.keys(), ())
        return ledger.runs[self.run.id]

    def _load_jobs(self, ledger: Ledger, job_ids: Collection[UUID], wanted: Collection[UUID]) -> None:
        jobs = sorted((self.jobs[job_id] for job_id in job_ids), key=lambda job: (job.stage_index, job.id))
        indexes = {job.stage_index for job in jobs if (self.run.id, job.stage_index) not in ledger.stages}
        ledger.add_runs((), [StageState(self.run.id, index, self.stages[index]) for index in indexes])
        steps = [
            replace(step, lease=self.lease_of(step.id))
            for step in sorted(self.steps.values(), key=lambda step: (step.job_id, step.index, step.attempt))
            if step.job_id in job_ids
            and (step.id in wanted or not (step.status.terminal or step.id in self.superseded))
        ]
        ledger.add_jobs([replace(job) for job in jobs if job.id not in ledger.jobs], steps)

    def _settle(self, ledger: Ledger) -> None:
        while ledger.due:
            due = ledger.next_due()
            in_stage = [job.id for job in self.jobs.values() if job.stage_index == due.index]
            self._load_jobs(ledger, in_stage, ())
            jobs = [ledger.jobs[job_id] for job_id in in_stage]
            if due.skip:
                ledger.skip_stage(ledger.runs[due.run_id], due.index, jobs)
            else:
                ledger.open_stage(ledger.runs[due.run_id], due.index, jobs)

    # Writing

    def _write(self, ledger: Ledger) -> None:
        for step_id, before in ledger.steps_before.items():
            self._write_step(ledger.steps[step_id], before)
        self.started |= ledger.started_steps & ledger.steps_before.keys()
        self.started |= ledger.started_jobs & ledger.jobs_before.keys()
        for lease_id, reason in ledger.ended_leases.items():
            del self.leases[lease_id]
            self.ended_leases[lease_id] = reason
        for lease in ledger.new_leases.values():
            self._insert_lease(lease)
        for step_id in ledger.unqueued:
            del self.queue[step_id]
        for step_id, agent_id in ledger.queued.items():
            assert step_id not in self.queue, "a step run is in the queue twice"
            self.queue[step_id] = QueueRow(agent_id, ledger.runs[self.run.id].paused)
        for job_id in ledger.jobs_before:
            self._write_job(ledger.jobs[job_id])
        for _, index in ledger.changed_stages:
            self.stages[index] = ledger.stages[self.run.id, index].open_jobs
            assert self.stages[index] >= 0, "a stage has fewer than no open jobs"
        if ledger.runs_before:
            self._write_run(ledger.runs[self.run.id])
        self.events += ledger.events
        self.cancels += ledger.cancels
        self.releases += ledger.releases

    def _write_step(self, step: StepState, before: StepStatus) -> None:
        row = self.steps[step.id]
        assert row.status is before, "a step run is not in the state that it was loaded with"
        assert step.status is not StepStatus.RUNNING or step.agent_id, "a step run is running on no agent"
        self.steps[step.id] = replace(step, lease=None)

    def _insert_lease(self, lease: Lease) -> None:
        assert self.lease_of(lease.step_run_id) is None, "a step run has two leases"
        self.leases[lease.id] = lease

    def _write_job(self, job: JobState) -> None:
        assert job.running_steps >= 0, "fewer than no steps run"
        assert job.completed_steps + job.running_steps <= job.total_steps, "more steps than there are"
        self.jobs[job.id] = replace(job)

    def _write_run(self, run: RunState) -> None:
        assert run.running_jobs >= 0, "fewer than no jobs run"
        assert run.failed_jobs <= run.completed_jobs, "more jobs failed than ended"
        assert run.completed_jobs + run.running_jobs <= run.total_jobs, "more jobs than there are"
        self.run = replace(run)


def _verdict(ledger: Ledger, report: StepReport) -> ArcentraError | None:
    try:
        ledger.report(report)
    except ArcentraError as refusal:
        return refusal
    return None
