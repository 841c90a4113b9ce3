"""A tiny store in memory that loads and writes ledgers as the database does: what a ledger does not name is not written.

It follows `db/execution.py`, `db/execution_write.py` and `db/execution_consequences.py` column by column, settles as
`db/turns.py` does (`ledger_turns.py` beside it), and holds what the database's constraints hold. Each change loads all it
needs from the rows again, as a server does that was started a moment ago.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, TypeVar
from uuid import UUID

from arcentra_server.domain.errors import ArcentraError
from arcentra_server.domain.execution import (
    CancelCommand,
    Event,
    JobState,
    Lease,
    NewGate,
    Release,
    RunState,
    StageState,
    StepReport,
    StepState,
)
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import ApprovalState, RunStatus, StepStatus
from tests.support.shapes import JobShape, StepShape

Answer = TypeVar("Answer")

# The columns that each kind of change writes.
_STEP_COLUMNS = (
    *("status", "agent_id", "cancel_cause", "cancel_reason", "exit_code", "error_message", "failure_reason"),
    *("outputs", "metrics", "log_size"),
)
_JOB_COLUMNS = (
    *("status", "outcome", "completed_steps", "failed_steps", "running_steps", "current_step", "total_steps"),
    *("agent_id", "error_message", "exit_code"),
)
_MORE_OF_JOBS = (
    *("failure_reason", "open_needs", "upstream", "walled", "retries_left", "attempt", "closing", "gate"),
    "waits_for",
)
_RUN_COLUMNS = (
    *("status", "outcome", "completed_jobs", "failed_jobs", "running_jobs", "total_jobs", "paused", "stopped"),
    *("status_reason", "started"),
)
_MORE_OF_RUNS = ("timed_out", "rejected", "commit_sha", "pins")


class Crash(Exception):
    """The server ended before it could write."""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A step run that waits. `agent_id`: the only agent that may take it; `held`: its run is paused; `delay`: not yet."""

    agent_id: UUID | None
    held: bool
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A job that holds a key (`place` set), or waits for it."""

    job_id: UUID
    run_id: UUID
    key: str
    most: int
    place: int | None = None


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """A gate that was reached."""

    id: UUID
    run_id: UUID
    stage_index: int | None
    job_id: UUID | None
    state: ApprovalState = ApprovalState.PENDING


@dataclass(slots=True)
class Rows:
    """All rows. None of them is ever changed, only replaced, so that a copy of these is a copy of all."""

    runs: dict[UUID, RunState] = field(default_factory=dict)
    stages: dict[tuple[UUID, int], StageState] = field(default_factory=dict)
    jobs: dict[UUID, JobState] = field(default_factory=dict)
    needs: dict[UUID, tuple[UUID, ...]] = field(default_factory=dict)
    shapes: dict[UUID, JobShape] = field(default_factory=dict)
    step_shapes: dict[UUID, StepShape] = field(default_factory=dict)
    outputs: dict[UUID, str] = field(default_factory=dict)
    steps: dict[UUID, StepState] = field(default_factory=dict)
    superseded: set[UUID] = field(default_factory=set)
    started: set[UUID] = field(default_factory=set)
    queue: dict[UUID, QueueRow] = field(default_factory=dict)
    leases: dict[UUID, Lease] = field(default_factory=dict)
    ended_leases: dict[UUID, str] = field(default_factory=dict)
    claims: dict[UUID, ClaimRow] = field(default_factory=dict)
    approvals: dict[UUID, ApprovalRow] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    # Each time when the steps of a job were stored anew, and which ones they took the place of.
    repeats: list[tuple[UUID, tuple[UUID, ...]]] = field(default_factory=list)

    def copy(self) -> Rows:
        return Rows(*(getattr(self, name).copy() for name in self.__dataclass_fields__))


class LedgerStore:
    """The rows, and all that was said to agents since the beginning. `settle` lets what is due in a ledger have its turn."""

    def __init__(self, settle: Callable[[LedgerStore, Ledger], None]) -> None:
        self.rows = Rows()
        self.cancels: list[CancelCommand] = []
        self.releases: list[Release] = []
        self._settle = settle
        self._numbers = count(1_000_000)
        self._crashes = False

    def new_id(self) -> UUID:
        return UUID(int=next(self._numbers))

    @staticmethod
    def token(lease_id: UUID) -> str:
        return f"token of {lease_id}"

    def change(self, action: Callable[[Ledger], Answer]) -> Answer:
        """Run an action on a new ledger and write what it decided; an error of the action leaves all as it was."""
        before = self.rows.copy()
        ledger = Ledger(self.new_id, lambda lease_id, text: text == self.token(lease_id))
        try:
            answer = action(ledger)
            self._settle(self, ledger)
            self._write(ledger)
        except (ArcentraError, Crash):
            self.rows = before
            raise
        self.cancels += ledger.cancels
        self.releases += ledger.releases
        return answer

    @contextmanager
    def crashing(self) -> Iterator[None]:
        """Let every change end before it is written."""
        self._crashes = True
        try:
            yield
        finally:
            self._crashes = False

    def take(self, reports: Collection[StepReport]) -> list[ArcentraError | None]:
        """Take a batch of reports as the service does: each has its own verdict, and a refused one changes nothing."""

        def decide(ledger: Ledger) -> list[ArcentraError | None]:
            self.load_steps(ledger, {report.step_id for report in reports})
            return [_verdict(ledger, report) for report in reports]

        return self.change(decide)

    def claim(self, step_id: UUID, agent_id: UUID) -> Lease:
        """Turn a queue row into a lease, as the scheduler does."""
        row = self.rows.queue.pop(step_id)
        assert not row.held, "a held row was claimed"
        assert not row.delay, "a row was claimed before its time"
        assert row.agent_id in (None, agent_id), "a bound row was claimed by another agent"
        lease = Lease(self.new_id(), step_id, agent_id)
        self._insert_lease(lease)
        return lease

    def give_key(self, job_id: UUID) -> bool:
        """Give a job the key that it waits for, if it is the oldest one and there is a place; as db/concurrency.py."""
        mine = self.rows.claims.get(job_id)
        if mine is None or mine.place is not None or self.rows.runs[mine.run_id].paused:
            return False
        order = {one: number for number, one in enumerate(self.rows.jobs)}
        same = [claim for claim in self.rows.claims.values() if claim.key == mine.key]
        waiting = [claim for claim in same if claim.place is None and not self.rows.runs[claim.run_id].paused]
        oldest = min(waiting, key=lambda claim: (claim.run_id, order[claim.job_id]))
        free = set(range(mine.most)) - {claim.place for claim in same}
        if oldest.job_id != job_id or not free:
            return False
        self.rows.claims[job_id] = replace(mine, place=min(free))
        return True

    # Looking

    def lease_of(self, step_id: UUID) -> Lease | None:
        return next((lease for lease in self.rows.leases.values() if lease.step_run_id == step_id), None)

    def current_steps(self, job_id: UUID) -> list[StepState]:
        """Return the last attempts of the steps of a job, in order."""
        rows = self.rows
        steps = (step for step in rows.steps.values() if step.job_id == job_id and step.id not in rows.superseded)
        return sorted(steps, key=lambda step: step.index)

    def jobs_of(self, run_id: UUID) -> list[JobState]:
        """Return the jobs of a run, in order."""
        return [job for job in self.rows.jobs.values() if job.run_id == run_id]

    # Loading

    def load_steps(self, ledger: Ledger, step_ids: Collection[UUID]) -> None:
        found = [self.rows.steps[step_id] for step_id in step_ids if step_id in self.rows.steps]
        ledger.add_runs([self._run(run_id) for run_id in {step.run_id for step in found}], ())
        self.load_jobs(ledger, {step.job_id for step in found}, step_ids)

    def lock_run(self, ledger: Ledger, run_id: UUID) -> None:
        ledger.add_runs([self._run(run_id)], ())

    def load_run(self, ledger: Ledger, run_id: UUID) -> RunState:
        ledger.add_runs([self._run(run_id)], ())
        self.load_jobs(ledger, [job.id for job in self.jobs_of(run_id)])
        return ledger.runs[run_id]

    def load_jobs(self, ledger: Ledger, job_ids: Collection[UUID], wanted: Collection[UUID] = ()) -> None:
        """Load jobs with their stages and those of their steps that have not ended, or are wanted."""
        missing = {job_id for job_id in job_ids if job_id not in ledger.jobs}
        jobs = [replace(job) for job in self.rows.jobs.values() if job.id in missing]
        stages = {(job.run_id, job.stage_index) for job in jobs} - ledger.stages.keys()
        ledger.add_runs((), [replace(self.rows.stages[key]) for key in stages])
        steps = [
            replace(step, lease=self.lease_of(step.id))
            for step in self.rows.steps.values()
            if step.job_id in missing
            and (not (step.status.terminal or step.id in self.rows.superseded) or step.id in wanted)
        ]
        ledger.add_jobs(jobs, sorted(steps, key=lambda step: (step.index, step.attempt)))

    def _run(self, run_id: UUID) -> RunState:
        run = self.rows.runs[run_id]
        return replace(run, pins=dict(run.pins))

    # Storing new attempts

    def copy_attempts(self, job_ids: Iterable[UUID]) -> list[StepState]:
        """Store a new attempt of every step of these jobs; the last attempts become superseded."""
        new = []
        for job_id in job_ids:
            old = self.current_steps(job_id)
            self.rows.superseded.update(step.id for step in old)
            self.rows.repeats.append((job_id, tuple(step.id for step in old)))
            for step in old:
                attempt = _next_attempt(step, self.new_id())
                self.rows.steps[attempt.id] = attempt
                self.rows.step_shapes[attempt.id] = self.rows.step_shapes[step.id]
                new.append(replace(attempt))
        return new

    # Writing

    def _write(self, ledger: Ledger) -> None:
        if self._crashes:
            raise Crash
        for step_id, before in ledger.steps_before.items():
            self._write_step(ledger.steps[step_id], before)
        for step_id in ledger.pinned:
            step = ledger.steps[step_id]
            self.rows.steps[step_id] = replace(
                self.rows.steps[step_id], pin=step.pin, of_run=step.of_run, told=step.told
            )
        self.rows.started |= ledger.started_steps & ledger.steps_before.keys()
        self.rows.started |= ledger.started_jobs & ledger.jobs_before.keys()
        self._write_leases(ledger)
        self._write_queue(ledger)
        self._write_parents(ledger)
        self._write_keys(ledger)
        self._write_gates(ledger)
        self.rows.events += ledger.events
        self._check_all_is_written(ledger)

    def _write_step(self, step: StepState, before: StepStatus) -> None:
        row = self.rows.steps[step.id]
        assert row.status is before, "a step run is not in the state that it was loaded with"
        assert step.status is not StepStatus.RUNNING or step.agent_id, "a step run is running on no agent"
        self.rows.steps[step.id] = _with(row, step, _STEP_COLUMNS)

    def _write_leases(self, ledger: Ledger) -> None:
        for lease_id, reason in ledger.ended_leases.items():
            del self.rows.leases[lease_id]
            self.rows.ended_leases[lease_id] = reason
        for lease in ledger.new_leases.values():
            self._insert_lease(lease)

    def _insert_lease(self, lease: Lease) -> None:
        assert self.lease_of(lease.step_run_id) is None, "a step run has two leases"
        self.rows.leases[lease.id] = lease

    def _write_queue(self, ledger: Ledger) -> None:
        for step_id in ledger.unqueued:
            del self.rows.queue[step_id]
        for step_id, agent_id in ledger.queued.items():
            assert step_id not in self.rows.queue, "a step run is in the queue twice"
            paused = ledger.runs[ledger.steps[step_id].run_id].paused
            self.rows.queue[step_id] = QueueRow(agent_id, paused, ledger.delays.get(step_id, 0.0))

    def _write_parents(self, ledger: Ledger) -> None:
        for job_id in ledger.jobs_before:
            self._write_job(ledger.jobs[job_id], _JOB_COLUMNS)
        for key in ledger.changed_stages:
            assert ledger.stages[key].open_jobs >= 0, "a stage has fewer than no open jobs"
            self.rows.stages[key] = replace(ledger.stages[key])
        for run_id in ledger.runs_before:
            self._write_run(ledger.runs[run_id], _RUN_COLUMNS)
        for job_id in ledger.extended_jobs | ledger.job_outputs.keys():
            self._write_job(ledger.jobs[job_id], _MORE_OF_JOBS)
        for job_id, outputs in ledger.job_outputs.items():
            self.rows.outputs.pop(job_id, None)
            if outputs:
                self.rows.outputs[job_id] = outputs["end"]
        for run_id in ledger.extended_runs:
            self._write_run(ledger.runs[run_id], _MORE_OF_RUNS)

    def _write_job(self, job: JobState, columns: Iterable[str]) -> None:
        assert job.running_steps >= 0, "fewer than no steps run"
        assert job.completed_steps + job.running_steps <= job.total_steps, "more steps than there are"
        assert job.open_needs >= 0, "fewer than no needs are open"
        assert job.retries_left >= 0, "fewer than no retries are left"
        self.rows.jobs[job.id] = _with(self.rows.jobs[job.id], job, columns)

    def _write_run(self, run: RunState, columns: Iterable[str]) -> None:
        assert run.running_jobs >= 0, "fewer than no jobs run"
        assert run.failed_jobs <= run.completed_jobs, "more jobs failed than ended"
        assert run.completed_jobs + run.running_jobs <= run.total_jobs, "more jobs than there are"
        assert run.status not in (RunStatus.SKIPPED, RunStatus.TIMEOUT), "no state of a run"
        self.rows.runs[run.id] = _with(self.rows.runs[run.id], run, columns)

    def _write_keys(self, ledger: Ledger) -> None:
        for job_id in ledger.released_keys:
            self.rows.claims.pop(job_id, None)
        for job_id in ledger.claimed_keys:
            if job_id in ledger.released_keys:
                continue
            assert job_id not in self.rows.claims, "a job claims a key twice"
            job = self.rows.jobs[job_id]
            self.rows.claims[job_id] = ClaimRow(job_id, job.run_id, job.concurrency, self.rows.shapes[job_id].most)

    def _write_gates(self, ledger: Ledger) -> None:
        for gate in ledger.new_gates:
            assert self.pending_gate(gate) is None, "a gate is asked twice at a time"
            row = ApprovalRow(self.new_id(), gate.run_id, gate.stage_index, gate.job_id)
            self.rows.approvals[row.id] = row
        for gate in ledger.dropped_gates:
            pending = self.pending_gate(gate)
            if pending is not None:
                self.rows.approvals[pending.id] = replace(pending, state=ApprovalState.CANCELLED)

    def pending_gate(self, gate: NewGate) -> ApprovalRow | None:
        """Return the row of a gate that was reached and not decided."""
        place = (gate.run_id, gate.stage_index, gate.job_id)
        return next(
            (
                row
                for row in self.rows.approvals.values()
                if row.state is ApprovalState.PENDING and (row.run_id, row.stage_index, row.job_id) == place
            ),
            None,
        )

    def _check_all_is_written(self, ledger: Ledger) -> None:
        """Whatever the ledger changed is in the rows: nothing was changed that it does not name."""
        rows = self.rows
        for job_id, job in ledger.jobs.items():
            assert rows.jobs[job_id] == job, f"not written of a job: {_differing(rows.jobs[job_id], job)}"
        for run_id, run in ledger.runs.items():
            assert rows.runs[run_id] == run, f"not written of a run: {_differing(rows.runs[run_id], run)}"
        for key, stage in ledger.stages.items():
            assert rows.stages[key] == stage, f"not written of a stage: {_differing(rows.stages[key], stage)}"
        for step_id, step in ledger.steps.items():
            lease, step.lease = step.lease, None  # the ledger is not used any more
            assert lease == self.lease_of(step_id), "the lease of a step was not written"
            assert rows.steps[step_id] == step, f"not written of a step: {_differing(rows.steps[step_id], step)}"


def _with(row: Any, state: Any, columns: Iterable[str]) -> Any:
    return replace(row, **{column: getattr(state, column) for column in columns})


def _differing(row: Any, state: Any) -> list[str]:
    return [name for name in row.__dataclass_fields__ if getattr(row, name) != getattr(state, name)]


def _verdict(ledger: Ledger, report: StepReport) -> ArcentraError | None:
    try:
        ledger.report(report)
    except ArcentraError as refusal:
        return refusal
    return None


def _next_attempt(old: StepState, new_id: UUID) -> StepState:
    return StepState(
        id=new_id,
        job_id=old.job_id,
        run_id=old.run_id,
        index=old.index,
        status=StepStatus.PENDING,
        selector_id=old.selector_id,
        attempt=old.attempt + 1,
        own_selector=old.own_selector,
        continue_on_error=old.continue_on_error,
        condition=old.condition,
        dynamic=old.dynamic,
        kind=old.kind,
    )
