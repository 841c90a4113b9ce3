"""The progress of runs: what a report, a cancellation or a lost lease does to steps, jobs, stages and runs.

A ledger holds what was loaded of the runs that are locked, takes every change in order, and knows in the end what has
to be written. It does no input or output: `db/execution.py` loads it and writes it, in one transaction. Every state
goes through `domain/transitions.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from arcentra_server.domain import rollup
from arcentra_server.domain.errors import InvalidTransition, LeaseLost, NotLeased
from arcentra_server.domain.execution import (
    CancelCause,
    CancelCommand,
    JobState,
    Lease,
    Release,
    RunState,
    StageDue,
    StepReport,
    StepState,
)
from arcentra_server.domain.ledger_book import LedgerBook
from arcentra_server.domain.states import STEP_FAILURES, FailureReason, RunStatus, StepStatus
from arcentra_server.domain.transitions import check_step_transition

NOT_LEASED = "step run is not leased to this agent"
LEASE_LOST = "lease lost"
FINISHED = "step run already finished"


class Ledger(LedgerBook):
    """See the module: every method is something that happens to what runs."""

    # What happens

    def report(self, report: StepReport) -> None:
        """Take one report of an agent.

        Raises:
            NotLeased: the step run is unknown, or not leased to this agent. Whether it once was is for the caller to
                find out: the ledger holds the leases that have not ended.
            LeaseLost: the lease of the report ended.
            InvalidTransition: the step run cannot go to the reported state.
        """
        step = self.steps.get(report.step_id)
        if step is None:
            raise NotLeased(NOT_LEASED)
        if step.status.terminal:
            self._repeat(step, report)
            return
        lease = step.lease
        if lease is None or lease.agent_id != report.agent_id:
            raise NotLeased(NOT_LEASED)
        if report.lease_token and not self._is_token(lease.id, report.lease_token):
            raise LeaseLost(LEASE_LOST)
        if report.attempt and report.attempt != step.attempt:
            raise LeaseLost(LEASE_LOST)
        if report.status is step.status:
            return  # the same again: the first answer was lost on the way
        if report.status is StepStatus.RUNNING:
            self._start(step, report.agent_id)
            return
        self._finish_reported(step, report)

    def cancel_step(self, step: StepState, reason: str, cause: CancelCause = CancelCause.REQUEST) -> None:
        """End a step that has not started; ask the agent to end one that runs.

        Raises:
            InvalidTransition: the step run has ended already.
        """
        if step.status.terminal:
            raise InvalidTransition(FINISHED)
        if step.status is StepStatus.RUNNING:
            # A timeout that its step tolerates lets the job go on; a request does not, whichever came first.
            if step.cancel_cause is not CancelCause.REQUEST:
                self._touch_step(step)
                step.cancel_cause, step.cancel_reason = cause, reason
            if step.lease is not None:
                self.cancels.append(CancelCommand(step.lease.agent_id, step.id, reason))
            return
        if step.lease is not None:
            self.cancels.append(CancelCommand(step.lease.agent_id, step.id, reason))
        step.error_message, step.failure_reason = reason, FailureReason.CANCELLED
        self._finish(step, StepStatus.CANCELLED)

    def end_cancelled(self, step: StepState) -> None:
        """End a step whose agent was asked to end it and does not answer. What it says later is refused."""
        if step.status is StepStatus.RUNNING and step.cancel_cause is not None:
            step.error_message = f"{step.cancel_reason or 'cancelled'}; its agent did not say that it ended"
            self._finish(step, _cancelled_as(step))

    def cancel_job(self, job: JobState, reason: str) -> None:
        """End a job: its waiting steps now, its running one by the agent."""
        running = [step for step in self._pending.get(job.id, []) if step.status is StepStatus.RUNNING]
        waiting = [step for step in self._pending.get(job.id, []) if not step.status.terminal and step not in running]
        for step in running:
            self.cancel_step(step, reason)
        if not running and waiting:
            self.cancel_step(waiting[0], reason)

    def stop_run(self, run: RunState, reason: str) -> None:
        """End a run, whose jobs are all loaded: final, whatever its steps say later."""
        if run.status.terminal:
            raise InvalidTransition("pipeline run already finished")
        self._touch_run(run)
        run.stopped, run.paused = True, False
        run.status_reason = reason
        if run.status is RunStatus.PAUSED:
            self._set_run(run, _going_on(run))
        for job in [job for job in self.jobs.values() if job.run_id == run.id and not job.status.terminal]:
            self.cancel_job(job, reason)

    def lose(self, step: StepState, message: str, *, agent_gone: bool = True, delay_seconds: float = 0.0) -> None:
        """End the lease of a step that its agent will not run: back to the queue if it had not started, else failed.

        A step that waits for an agent which is gone together with the workspace of its job cannot be run any more.
        """
        if step.lease is None or step.status.terminal:
            return
        holder = None if step.own_selector else self.jobs[step.job_id].agent_id
        if step.status is StepStatus.QUEUED and (holder is None or not agent_gone):
            self._end_lease(step, "lost")
            self._enqueue(step, holder)
            self.delays[step.id] = delay_seconds
            return
        step.error_message = message
        if step.status is StepStatus.QUEUED:
            step.failure_reason = FailureReason.AGENT_LOST
            self._finish(step, StepStatus.CANCELLED)
            return
        # Its process may still be there: an agent that was only silent, with its channel open, hears of it this way.
        self.cancels.append(CancelCommand(step.lease.agent_id, step.id, message))
        if step.cancel_cause is not None:
            self._finish(step, _cancelled_as(step), agent_gone=not step.own_selector)
            return
        step.failure_reason = FailureReason.AGENT_LOST
        self._finish(step, StepStatus.FAILED, agent_gone=not step.own_selector)

    def abandon(self, step: StepState, message: str) -> None:
        """End a step that waits for an agent which is gone together with the workspace of its job."""
        if step.status is StepStatus.QUEUED and step.lease is None:
            step.error_message, step.failure_reason = message, FailureReason.AGENT_LOST
            self._finish(step, StepStatus.CANCELLED)

    def fail_job(self, job: JobState, message: str) -> None:
        """End a job that its agent gave up: what runs fails, what comes next is cancelled, whatever they tolerate."""
        unfinished = [step for step in self._pending.get(job.id, []) if not step.status.terminal]
        if not unfinished:
            return
        step = next((step for step in unfinished if step.status is StepStatus.RUNNING), unfinished[0])
        if step.cancel_cause is not None:
            self._finish(step, _cancelled_as(step), given_up=True)
            return
        step.error_message, step.failure_reason = message, FailureReason.INTERNAL
        running = step.status is StepStatus.RUNNING
        self._finish(step, StepStatus.FAILED if running else StepStatus.CANCELLED, given_up=True)

    def next_due(self) -> StageDue:
        """Take the next stage whose turn has come; its jobs are to be loaded, then opened or skipped."""
        return self.due.pop(next(iter(self.due)))

    def open_stage(self, run: RunState, index: int, jobs: Iterable[JobState]) -> None:
        """Queue the first step of each job of a stage whose turn has come."""
        for job in jobs:
            first = next((s for s in self._pending.get(job.id, []) if s.status is StepStatus.PENDING), None)
            if first is not None:
                self._set_step(first, StepStatus.QUEUED)
                self._enqueue(first, None)
            elif not job.status.terminal:
                self._finish_job(job, run)
        self._pass_stage(run, index)

    def skip_stage(self, run: RunState, index: int, jobs: Iterable[JobState]) -> None:
        """Skip the jobs of a stage that will never have its turn, with all their steps."""
        for job in jobs:
            if not job.status.terminal:
                self._skip_rest(job)
                self._finish_job(job, run)
        self._pass_stage(run, index)

    def add_step(self, step: StepState, *, queue: bool) -> None:
        """Take a step run that was stored after its run began; `queue`: it is its turn already."""
        job, run = self.jobs[step.job_id], self.runs[step.run_id]
        self._touch_job(job)
        job.total_steps += 1
        self.add_jobs((), [step])
        self._step_created(step, run)
        if queue:
            self._set_step(step, StepStatus.QUEUED)
            self._enqueue(step, None)

    def remove_step(self, step: StepState, *, superseded: bool) -> None:
        """Forget a step run that was added and has ended. How its job ended stays."""
        if not superseded:
            job = self.jobs[step.job_id]
            self._touch_job(job)
            job.total_steps -= 1
            job.completed_steps -= 1
            job.failed_steps -= step.status in STEP_FAILURES

    def add_job(self, job: JobState) -> None:
        """Take a job that was stored after its run began, in a stage that is open."""
        run = self.runs[job.run_id]
        self._touch_run(run)
        run.total_jobs += 1
        self.stages[run.id, job.stage_index].open_jobs += 1
        self.changed_stages.add((run.id, job.stage_index))
        self.add_jobs([job], ())
        self._job_created(job, run)

    def reopen(self, run: RunState, jobs: Iterable[JobState], steps: Iterable[StepState], first: UUID) -> None:
        """Open jobs again for new attempts of all their steps, which are stored as PENDING.

        Args:
            run: The run, all of whose jobs are loaded.
            jobs: The jobs to open: the one that is retried, and those that were skipped because of it.
            steps: The new attempts, in order.
            first: The step that is queued now; the others wait for their turn.

        Raises:
            InvalidTransition: the run is being stopped, or is at another stage by now.
        """
        self._check_reopen(run, self.jobs[self._step_of(steps, first).job_id])
        self._touch_run(run)
        reopened = {job.id for job in jobs}
        for job in jobs:
            self._touch_job(job)
            run.completed_jobs -= 1
            run.failed_jobs -= rollup.job_contribution(job.status) is RunStatus.FAILED
            job.outcome, job.agent_id, job.error_message, job.exit_code = rollup.NOTHING_YET, None, "", 0
            job.completed_steps = job.failed_steps = job.current_step = 0
            self.stages[run.id, job.stage_index].open_jobs += 1
            self.changed_stages.add((run.id, job.stage_index))
            self._set_job(job, RunStatus.PENDING)
        run.stopped, run.outcome = False, rollup.NOTHING_YET
        for job in self.jobs.values():
            if job.run_id == run.id and job.id not in reopened and job.status.terminal:
                run.outcome = rollup.graver(run.outcome, rollup.job_contribution(job.status))
        if run.status.terminal:
            self._set_run(run, RunStatus.RUNNING)
        for step in steps:
            self.add_jobs((), [step])
            self._step_created(step, run)
        self._set_step(self.steps[first], StepStatus.QUEUED)
        self._enqueue(self.steps[first], None)

    # What follows from it

    @staticmethod
    def _step_of(steps: Iterable[StepState], step_id: UUID) -> StepState:
        return next(step for step in steps if step.id == step_id)

    def _check_reopen(self, run: RunState, job: JobState) -> None:
        """Refuse to open a job while its run goes on without it: before its stage's turn, or after it."""
        before = (other for other in self.jobs.values() if other.stage_index < job.stage_index)
        if any(other.run_id == run.id and rollup.blocks(other.outcome) for other in before):
            raise InvalidTransition("a job of an earlier stage failed: retry that one")
        if run.status.terminal:
            return
        if run.stopped:
            raise InvalidTransition("the run is being stopped: retry when it has ended")
        now = min((index for (run_id, index), stage in self.stages.items() if run_id == run.id and stage.open_jobs))
        if job.stage_index != now:
            raise InvalidTransition("the run is at another stage: retry when it has ended")

    def _pass_stage(self, run: RunState, index: int) -> None:
        """Make the next stage due when this one has no open job left."""
        if self.stages[run.id, index].open_jobs == 0 and index + 1 < run.stage_count and not run.status.terminal:
            skip = rollup.blocks(run.outcome) or run.stopped
            self.due[run.id, index + 1] = StageDue(run.id, index + 1, skip)

    def _repeat(self, step: StepState, report: StepReport) -> None:
        if step.agent_id != report.agent_id:
            raise NotLeased(NOT_LEASED)
        cancelled = step.status in (StepStatus.CANCELLED, StepStatus.TIMEOUT) and report.status.terminal
        if report.status is not step.status and not (cancelled and step.cancel_cause is not None):
            raise InvalidTransition(FINISHED)

    def _start(self, step: StepState, agent_id: UUID) -> None:
        job, run = self.jobs[step.job_id], self.runs[step.run_id]
        step.agent_id = agent_id
        self._touch_job(job)
        job.running_steps += 1
        job.current_step = step.index
        if not step.own_selector:
            job.agent_id = agent_id
        self.started_steps.add(step.id)
        if job.status is RunStatus.PENDING:
            self._touch_run(run)
            run.running_jobs += 1
            self.started_jobs.add(job.id)
            self._set_job(job, RunStatus.RUNNING)
            if run.status is RunStatus.PENDING:
                self._set_run(run, RunStatus.RUNNING)
        self._set_step(step, StepStatus.RUNNING)

    def _finish_reported(self, step: StepState, report: StepReport) -> None:
        check_step_transition(step.status, report.status)
        step.agent_id = report.agent_id
        step.exit_code = report.exit_code
        step.error_message = report.error_message
        step.metrics = report.metrics
        step.log_size = report.log_size
        if step.cancel_cause is not None:
            step.error_message = report.error_message or step.cancel_reason
            self._finish(step, _cancelled_as(step))
            return
        if report.status is StepStatus.FAILED:
            step.failure_reason = report.failure_reason or FailureReason.SCRIPT
        elif report.status is StepStatus.TIMEOUT:
            step.failure_reason = FailureReason.TIMEOUT
        self._finish(step, report.status)

    def _finish(self, step: StepState, status: StepStatus, *, agent_gone: bool = False, given_up: bool = False) -> None:
        """End a step, and let its job go on: with the next step, or to its end.

        Args:
            step: The step.
            status: How it ended.
            agent_gone: The workspace is lost: only a step with a selector of its own can come next.
            given_up: No step can come next.
        """
        job, run = self.jobs[step.job_id], self.runs[step.run_id]
        self._touch_job(job)
        if step.status is StepStatus.RUNNING:
            job.running_steps -= 1
        self._end_lease(step, status.value)
        self._count(step, status, job)
        agent_id = step.agent_id
        if step.own_selector and agent_id is not None and agent_id != job.agent_id:
            self.releases.append(Release(agent_id, job.id))
        if rollup.blocks(job.outcome) or run.stopped:
            self._skip_rest(job)
        else:
            following = next((s for s in self._pending[job.id] if s.status is StepStatus.PENDING), None)
            if following is not None and (given_up or (agent_gone and not following.own_selector)):
                following.error_message = step.error_message
                following.failure_reason = FailureReason.INTERNAL if given_up else FailureReason.AGENT_LOST
                self._finish(following, StepStatus.CANCELLED)
                return
            if following is not None:
                self._queue_following(following, job, run, agent_id)
                return
        if all(s.status.terminal for s in self._pending[job.id]):
            self._finish_job(job, run)

    def _count(self, step: StepState, status: StepStatus, job: JobState) -> None:
        job.completed_steps += 1
        job.outcome = rollup.graver(
            job.outcome, rollup.step_contribution(status, continue_on_error=step.continue_on_error)
        )
        if status in STEP_FAILURES:
            job.failed_steps += 1
            job.error_message = job.error_message or step.error_message
            job.exit_code = step.exit_code or 0
        self._set_step(step, status)

    def _queue_following(self, step: StepState, job: JobState, run: RunState, agent_id: UUID | None) -> None:
        """Let the next step follow at once on the agent that has the job's workspace: its slot has just become free."""
        self._set_step(step, StepStatus.QUEUED)
        if step.own_selector:
            self._enqueue(step, None)
            return
        holder = job.agent_id
        if holder is None or holder != agent_id or run.paused:
            self._enqueue(step, holder)
            return
        step.lease = Lease(self._new_id(), step.id, holder)
        self.new_leases[step.id] = step.lease

    def _skip_rest(self, job: JobState) -> None:
        for step in self._pending.get(job.id, []):
            if step.status in (StepStatus.PENDING, StepStatus.QUEUED):
                self._touch_job(job)
                if step.lease is not None:
                    self.cancels.append(CancelCommand(step.lease.agent_id, step.id, "skipped"))
                self._end_lease(step, StepStatus.SKIPPED.value)
                self._count(step, StepStatus.SKIPPED, job)

    def _finish_job(self, job: JobState, run: RunState) -> None:
        self._touch_run(run)
        self._touch_job(job)
        if job.status is RunStatus.RUNNING:
            run.running_jobs -= 1
        run.completed_jobs += 1
        contribution = rollup.job_contribution(job.outcome)
        if contribution is RunStatus.FAILED:
            run.failed_jobs += 1
        run.outcome = rollup.graver(run.outcome, contribution)
        self._set_job(job, job.outcome)
        if job.agent_id is not None:
            self.releases.append(Release(job.agent_id, job.id))
        stage = self.stages[run.id, job.stage_index]
        stage.open_jobs -= 1
        self.changed_stages.add((run.id, job.stage_index))
        if run.completed_jobs == run.total_jobs:
            self._finish_run(run)
        else:
            self._pass_stage(run, job.stage_index)

    def _finish_run(self, run: RunState) -> None:
        if run.stopped:
            run.outcome = RunStatus.CANCELLED
        elif run.outcome is rollup.NOTHING_YET:
            run.outcome = RunStatus.SUCCESS
        run.paused = False
        self._set_run(run, run.outcome)

    def pause(self, run: RunState, reason: str, actor: str) -> None:
        """Let a run start nothing new; what runs goes on."""
        run.paused, run.status_reason = True, reason
        self._set_run(run, RunStatus.PAUSED, actor)

    def resume(self, run: RunState, reason: str, actor: str) -> None:
        """Let a paused run go on."""
        run.paused, run.status_reason = False, reason
        self._set_run(run, _going_on(run), actor)


def _going_on(run: RunState) -> RunStatus:
    """Return the state of a run that is no longer paused."""
    return RunStatus.RUNNING if run.running_jobs > 0 or run.completed_jobs > 0 else RunStatus.PENDING


def _cancelled_as(step: StepState) -> StepStatus:
    if step.cancel_cause is CancelCause.TIMEOUT:
        step.failure_reason = FailureReason.TIMEOUT
        return StepStatus.TIMEOUT
    step.failure_reason = FailureReason.CANCELLED
    return StepStatus.CANCELLED
