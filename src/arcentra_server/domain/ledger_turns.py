"""What follows from the end of a step, a job or a stage: whose turn it is next, and what ends with it.

What needs more than was loaded (how needed jobs ended, an expression, the jobs of the next stage) is noted as due;
`db/turns.py` loads it and comes back to one of the methods here, within the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from arcentra_server.domain import rollup
from arcentra_server.domain.execution import (
    CancelCause,
    CancelCommand,
    Closing,
    JobState,
    Lease,
    NeedEnd,
    NewGate,
    Release,
    RunState,
    StageDue,
    StageState,
    StepDue,
    StepState,
    Verdict,
    Waiting,
)
from arcentra_server.domain.ledger_book import LedgerBook
from arcentra_server.domain.states import (
    RUN_FAILURES,
    STEP_FAILURES,
    FailureReason,
    GateState,
    RunStatus,
    StepStatus,
)

# Why a run or job ended at a gate.
REFUSED = "the approval was refused"
EXPIRED = "the approval has expired: nobody decided in time"
BEFORE_ITS_TURN = frozenset({Waiting.STAGE, Waiting.APPROVAL, Waiting.NEEDS, Waiting.CONCURRENCY})


class LedgerTurns(LedgerBook):
    """See the module."""

    # Steps

    def _finish(self, step: StepState, status: StepStatus, *, agent_gone: bool = False) -> None:
        """End a step, and let its job go on: with the next step, or to its end. `agent_gone`: the workspace is lost."""
        job, run = self.jobs[step.job_id], self.runs[step.run_id]
        self._touch_job(job)
        if step.status is StepStatus.RUNNING:
            job.running_steps -= 1
        self._end_lease(step, status.value)
        self._count(step, status, job)
        agent_id = step.agent_id
        if step.own_selector and agent_id is not None and agent_id != job.agent_id:
            self.releases.append(Release(agent_id, job.id))
        if step.kind == "target" and status is not StepStatus.SKIPPED and agent_id is not None:
            self.deployed.append(step.id)
        self._advance(job, run, agent_id, agent_gone=agent_gone)

    def _count(self, step: StepState, status: StepStatus, job: JobState) -> None:
        job.completed_steps += 1
        contribution = rollup.step_contribution(status, continue_on_error=step.continue_on_error)
        job.outcome = rollup.graver(job.outcome, contribution)
        if status in STEP_FAILURES:
            job.failed_steps += 1
            job.error_message = job.error_message or step.error_message
            job.exit_code = step.exit_code or 0
        if rollup.blocks(contribution) and job.failure_reason is None:
            job.failure_reason = step.failure_reason
            self.extended_jobs.add(job.id)
        self._set_step(step, status)

    def _advance(self, job: JobState, run: RunState, agent_id: UUID | None = None, *, agent_gone: bool = False) -> None:
        """Give the next step of a job its turn; end the job when there is none.

        Args:
            job: The job.
            run: Its run.
            agent_id: The agent whose slot has just become free.
            agent_gone: The workspace of the job is lost.
        """
        busy = False
        for step in self._pending.get(job.id, []):
            if step.status.terminal:
                continue
            if step.status is not StepStatus.RUNNING and self._passed_over(step, job, run, agent_gone=agent_gone):
                self._skip(step, job)
            elif step.status is not StepStatus.PENDING:
                busy = True
            elif busy or job.waits_for in BEFORE_ITS_TURN:
                return
            elif job.closing is Closing.GIVEN_UP:
                step.error_message, step.failure_reason = job.error_message, FailureReason.INTERNAL
                self._count(step, StepStatus.CANCELLED, job)
            elif step.condition or step.dynamic:
                self.due_steps[step.id] = StepDue(step.id, agent_id, agent_gone)
                return
            elif self._queue(step, job, run, agent_id, agent_gone=agent_gone):
                return
        if not busy:
            self._end_steps(job, run)

    @staticmethod
    def _passed_over(step: StepState, job: JobState, run: RunState, *, agent_gone: bool) -> bool:
        blocked = rollup.blocks(job.outcome)
        if run.ending or job.closing in (Closing.CANCELLED, Closing.TIMEOUT):
            return True
        # Even what cleans up has nothing to clean up where the workspace is lost.
        return blocked and (not step.condition or job.closing is Closing.GIVEN_UP or agent_gone)

    def decide_step(self, due: StepDue, verdict: Verdict) -> None:
        """Take what came of evaluating a step: it runs, is skipped, or fails."""
        step = self.steps[due.step_id]
        if step.status is not StepStatus.PENDING:
            return
        job, run = self.jobs[step.job_id], self.runs[step.run_id]
        if verdict.error:
            step.error_message, step.failure_reason = verdict.error, FailureReason.VALIDATION
            self._touch_job(job)
            self._count(step, StepStatus.FAILED, job)
        elif not verdict.holds:
            self._touch_job(job)
            self._count(step, StepStatus.SKIPPED, job)
        elif self._queue(step, job, run, due.agent_id, agent_gone=due.agent_gone):
            return
        self._advance(job, run, due.agent_id, agent_gone=due.agent_gone)

    def _queue(self, step: StepState, job: JobState, run: RunState, agent_id: UUID | None, *, agent_gone: bool) -> bool:
        """Queue a step whose turn it is, or lease it at once; False when it failed, as its workspace is lost."""
        if agent_gone and not step.own_selector:
            step.error_message = "the agent that has the workspace of the job is gone"
            step.failure_reason = FailureReason.AGENT_LOST
            self._touch_job(job)
            self._count(step, StepStatus.FAILED, job)
            return False
        self._set_step(step, StepStatus.QUEUED)
        holder = None if step.own_selector else job.agent_id
        if job.waits_for is Waiting.RETRY and job.retry is not None:
            # The pause is before whichever step is the first to run.
            self.delays[step.id] = job.retry.delay_ms / 1_000
        if holder is None or holder != agent_id or holder in self.barred_agents or run.paused:
            self._enqueue(step, holder)
            return True
        # It follows at once on the agent that has the job's workspace: its slot has just become free.
        step.lease = Lease(self._new_id(), step.id, holder)
        self.new_leases[step.id] = step.lease
        self.freed[holder] -= 1
        return True

    def _skip_rest(self, job: JobState) -> None:
        for step in self._pending.get(job.id, []):
            if step.status in (StepStatus.PENDING, StepStatus.QUEUED):
                self._skip(step, job)

    def _skip(self, step: StepState, job: JobState) -> None:
        """End a step that has not started, and take it back where it waits for an agent or was sent to one."""
        self._touch_job(job)
        if step.lease is not None:
            self.cancels.append(CancelCommand(step.lease.agent_id, step.id, "skipped"))
        self._end_lease(step, StepStatus.SKIPPED.value)
        self._count(step, StepStatus.SKIPPED, job)

    # The end of a job

    def _end_steps(self, job: JobState, run: RunState) -> None:
        """All steps of a job have ended: it runs again, waits at its gate, or ends."""
        if job.closing is Closing.TIMEOUT:
            job.outcome = rollup.graver(job.outcome, RunStatus.TIMEOUT)
            job.failure_reason = FailureReason.TIMEOUT
            self.extended_jobs.add(job.id)
        if self._may_repeat(job, run):
            self._repeat_job(job, run)
        elif job.gate is GateState.REQUIRED and not run.ending and _has_something_to_approve(job):
            self._touch_job(job)
            self._set_gate(job, GateState.WAITING)
            self._let_workspace_go(job)
            self.new_gates.append(NewGate(run.id, job_id=job.id))
            self._wait_for(job, Waiting.APPROVAL)
        else:
            self._finish_job(job, run)

    @staticmethod
    def _may_repeat(job: JobState, run: RunState) -> bool:
        if job.outcome not in RUN_FAILURES or run.ending or job.closing is Closing.CANCELLED:
            return False
        if job.retry is None or job.retries_left == 0:
            return False
        wanted = job.retry.on
        return not wanted or "failed" in wanted or (job.failure_reason is not None and job.failure_reason in wanted)

    def _repeat_job(self, job: JobState, run: RunState, *, counted: bool = True) -> None:
        """Begin another attempt; its steps are due to be stored."""
        self._touch_job(job)
        self._touch_run(run)
        self.extended_jobs.add(job.id)
        if job.status is RunStatus.RUNNING:
            run.running_jobs -= 1
        self._let_workspace_go(job)
        self._clear(job)
        job.retries_left -= counted
        job.attempt += 1
        if job.status is RunStatus.RUNNING:
            self._set_job(job, RunStatus.PENDING)
        self.due_attempts[job.id] = job.retry.delay_ms / 1_000 if job.retry and counted else 0.0

    def begin_attempt(self, job: JobState, steps: Sequence[StepState], delay_seconds: float) -> None:
        """Take the stored steps of another attempt; the first gets its turn after the delay."""
        run = self.runs[job.run_id]
        self._pending[job.id] = []
        self.add_jobs((), steps)
        for step in steps:
            self._step_created(step)
        if delay_seconds:
            self._wait_for(job, Waiting.RETRY)
        self._advance(job, run)

    def _clear(self, job: JobState) -> None:
        """Make a job as it was before its steps ran."""
        if job.has_outputs:
            self.job_outputs[job.id] = {}
        job.outcome, job.agent_id, job.error_message, job.exit_code = rollup.NOTHING_YET, None, "", 0
        job.completed_steps = job.failed_steps = job.running_steps = job.current_step = 0
        job.failure_reason, job.closing = None, Closing.NO

    def _let_workspace_go(self, job: JobState) -> None:
        if job.agent_id is not None:
            self.releases.append(Release(job.agent_id, job.id))

    def _finish_job(self, job: JobState, run: RunState) -> None:
        self._touch_run(run)
        self._touch_job(job)
        if job.status is RunStatus.RUNNING:
            run.running_jobs -= 1
        run.completed_jobs += 1
        run.failed_jobs += job.outcome in RUN_FAILURES
        contribution = contribution_of(job)
        run.outcome = rollup.graver(run.outcome, contribution)
        if job.waits_for is not Waiting.NOTHING:
            job.waits_for = Waiting.NOTHING
            self.extended_jobs.add(job.id)
        # What was skipped while all went well leaves nothing to approve; any other end without an approval is a wall.
        if job.outcome is not RunStatus.SKIPPED or rollup.blocks(job.upstream) or run.ending:
            self._wall_off(job)
        if job.gate is GateState.WAITING:
            self._set_gate(job, GateState.REQUIRED)
            self.dropped_gates.append(NewGate(run.id, job_id=job.id))
            self.extended_jobs.add(job.id)
        self._set_job(job, job.outcome)
        self._let_workspace_go(job)
        self._tell(job)
        stage = self.stages[run.id, job.stage_index]
        stage.open_jobs -= 1
        stage.outcome = rollup.graver(stage.outcome, contribution)
        self.changed_stages.add((run.id, job.stage_index))
        if run.completed_jobs == run.total_jobs:
            self._drop_gate(run, stage)
            self._finish_run(run)
        elif stage.opened or stage.gate is GateState.WAITING:
            # A stage whose jobs end before its turn has its turn all the same, when the one before it is done.
            self._pass_stage(run, stage)

    def _wall_off(self, job: JobState) -> None:
        """Let nothing that is behind the gate of a job run, unless it was passed."""
        if job.gate not in (GateState.NONE, GateState.APPROVED):
            job.walled = True
            self.extended_jobs.add(job.id)

    def _tell(self, job: JobState) -> None:
        """Note what the end of a job sets off."""
        if job.has_outputs and job.outcome is not RunStatus.SKIPPED:
            self.due_outputs.append(job.id)
        if job.concurrency:
            self.released_keys.append(job.id)
        if job.has_dependants:
            self.due_dependants.append(job.id)
        side = "failure" if job.outcome in RUN_FAILURES else "success"
        if side in job.notices and job.outcome not in (RunStatus.SKIPPED, RunStatus.CANCELLED):
            self.notices.append((job.id, job.run_id, side))

    def _finish_run(self, run: RunState) -> None:
        if run.stopped:
            run.outcome = RunStatus.CANCELLED
        elif run.timed_out or run.rejected:
            run.outcome = RunStatus.FAILED
        elif run.outcome is rollup.NOTHING_YET:
            run.outcome = RunStatus.SUCCESS
        run.paused = False
        self._set_run(run, run.outcome)

    # Jobs and stages

    def need_ended(self, dependants: Iterable[JobState]) -> None:
        """One of the needs of each of these jobs has ended: those without open needs have their turn."""
        for job in dependants:
            if job.status.terminal:
                continue
            self._touch_job(job)
            self.extended_jobs.add(job.id)
            job.open_needs -= 1
            if job.open_needs == 0 and self.stages[job.run_id, job.stage_index].opened:
                self.due_jobs[job.id] = None

    def judge_needs(self, job: JobState, needs: Iterable[NeedEnd]) -> bool:
        """Take how the needs of a job ended into it; answer whether all ended well, which is what `success()` says."""
        ends = list(needs)
        self._touch_job(job)
        self.extended_jobs.add(job.id)
        job.upstream = rollup.gravest((job.upstream, *(rollup.graver(end.contribution, end.upstream) for end in ends)))
        job.walled = any(end.walled for end in ends)
        return not rollup.blocks(job.upstream) and not any(end.skipped for end in ends)

    def decide_job(self, job: JobState, verdict: Verdict) -> None:
        """Take what came of the condition of a job whose turn it is: it starts, is skipped, or fails."""
        if job.status is not RunStatus.PENDING:
            return
        run = self.runs[job.run_id]
        self._touch_job(job)
        self._wait_for(job, Waiting.NOTHING)
        if run.ending or job.walled or not (verdict.holds or verdict.error):
            self._skip_rest(job)
            self._finish_job(job, run)
        elif verdict.error:
            self._fail_undecided(job, run, verdict.error)
        else:
            self._admit(job, run)

    def _fail_undecided(self, job: JobState, run: RunState, error: str) -> None:
        """Fail a job whose condition cannot be evaluated, with its first step, whatever that one tolerates."""
        first = next((step for step in self._pending.get(job.id, []) if step.status is StepStatus.PENDING), None)
        if first is not None:
            first.error_message, first.failure_reason = error, FailureReason.VALIDATION
            self._count(first, StepStatus.FAILED, job)
        job.outcome = rollup.graver(job.outcome, RunStatus.FAILED)
        job.failure_reason = job.failure_reason or FailureReason.VALIDATION
        job.closing = Closing.CANCELLED
        self.extended_jobs.add(job.id)
        self._advance(job, run)

    def _admit(self, job: JobState, run: RunState) -> None:
        if job.concurrency:
            self.claimed_keys.append(job.id)
            self._wait_for(job, Waiting.CONCURRENCY)
        else:
            self._advance(job, run)

    def admit_holder(self, job: JobState) -> None:
        """Start a job that got its concurrency key."""
        if job.status is RunStatus.PENDING and job.waits_for is Waiting.CONCURRENCY:
            self._wait_for(job, Waiting.NOTHING)
            self._advance(job, self.runs[job.run_id])

    def next_stage(self) -> StageDue:
        """Take the next stage whose turn has come; it is to be loaded, then entered."""
        return self.due_stages.pop(next(iter(self.due_stages)))

    def enter_stage(self, run: RunState, stage: StageState, jobs: Sequence[JobState], upstream: RunStatus) -> None:
        """Let a stage have its turn: ask at its gate, open it, or skip it.

        Args:
            run: The run.
            stage: The stage.
            jobs: All its jobs, in order.
            upstream: The gravest end of the stages before it.
        """
        waiting = [job for job in jobs if not job.status.terminal]
        hopeless = rollup.blocks(upstream) and not any(job.condition for job in waiting)
        if run.ending or run.rejected or hopeless or self.before(run.id, stage.index).walled:
            self._skip_jobs(run, waiting)
        elif stage.gate is GateState.REQUIRED and waiting:
            self._set_gate(stage, GateState.WAITING)
            self.changed_stages.add((run.id, stage.index))
            self.new_gates.append(NewGate(run.id, stage_index=stage.index))
            for job in waiting:
                self._wait_for(job, Waiting.APPROVAL)
        else:
            self._open_stage(run, stage, waiting, upstream)
        self._pass_stage(run, stage)

    def _open_stage(self, run: RunState, stage: StageState, jobs: Sequence[JobState], upstream: RunStatus) -> None:
        stage.opened = True
        self.changed_stages.add((run.id, stage.index))
        for job in jobs:
            if job.upstream is not upstream:
                job.upstream = upstream
                self._touch_job(job)
                self.extended_jobs.add(job.id)
            if job.open_needs:
                self._wait_for(job, Waiting.NEEDS)
            elif job.total_needs or job.condition:
                self._wait_for(job, Waiting.NOTHING)
                self.due_jobs[job.id] = None
            else:
                self.decide_job(job, Verdict(holds=not rollup.blocks(upstream)))

    def _skip_jobs(self, run: RunState, jobs: Iterable[JobState]) -> None:
        for job in jobs:
            if not job.status.terminal:
                self._wall_off(job)
                self._skip_rest(job)
                self._finish_job(job, run)

    def _pass_stage(self, run: RunState, stage: StageState) -> None:
        """Make the next stage due when this one has no open job left."""
        if stage.open_jobs or run.status.terminal:
            return
        self._drop_gate(run, stage)
        if stage.index + 1 < run.stage_count:
            self.due_stages[run.id, stage.index + 1] = StageDue(run.id, stage.index + 1)

    # Gates

    def _drop_gate(self, run: RunState, stage: StageState) -> None:
        """Ask no longer at the gate before a stage of which nothing is left to run."""
        if stage.gate is GateState.WAITING:
            self._set_gate(stage, GateState.REQUIRED)
            self.dropped_gates.append(NewGate(run.id, stage_index=stage.index))
            self.changed_stages.add((run.id, stage.index))

    def pass_stage_gate(
        self,
        run: RunState,
        stage: StageState,
        jobs: Sequence[JobState],
        upstream: RunStatus,
        *,
        approved: bool,
        why: str = REFUSED,
    ) -> None:
        """Take the decision at the gate before a stage: it opens, or it and all behind it is skipped.

        `why` is what the run says of a gate that did not open.
        """
        self._set_gate(stage, GateState.APPROVED if approved else GateState.REJECTED)
        self.changed_stages.add((run.id, stage.index))
        waiting = [job for job in jobs if not job.status.terminal]
        if approved and not run.ending:
            self._open_stage(run, stage, waiting, upstream)
        else:
            self._reject(run, stage, why)
            self._skip_jobs(run, waiting)
        self._pass_stage(run, stage)

    def pass_job_gate(self, job: JobState, *, approved: bool, why: str = REFUSED) -> None:
        """Take the decision at the gate after a job: it ends as its steps did, or as failed because of `why`."""
        run = self.runs[job.run_id]
        self._touch_job(job)
        self.extended_jobs.add(job.id)
        self._set_gate(job, GateState.APPROVED if approved else GateState.REJECTED)
        if not approved:
            job.outcome, job.failure_reason = RunStatus.FAILED, FailureReason.REJECTED
            job.error_message = job.error_message or why
            self._reject(run, self.stages[run.id, job.stage_index], why)
        self._finish_job(job, run)

    def _reject(self, run: RunState, stage: StageState, why: str) -> None:
        self._touch_run(run)
        self.extended_runs.add(run.id)
        run.rejected = True
        run.status_reason = run.status_reason or why
        run.outcome = rollup.graver(run.outcome, RunStatus.FAILED)
        stage.outcome = rollup.graver(stage.outcome, RunStatus.FAILED)


def contribution_of(job: JobState) -> RunStatus:
    """Return what a job that has ended adds to its run and to what depends on it. A refused gate is never tolerated."""
    tolerated = job.allow_failure and job.gate is not GateState.REJECTED
    return rollup.job_contribution(job.outcome, allow_failure=tolerated)


def _has_something_to_approve(job: JobState) -> bool:
    return job.outcome is not RunStatus.SKIPPED and not rollup.blocks(contribution_of(job))


def end_of(job: JobState) -> NeedEnd:
    """Return how a job ended for those that depend on it."""
    walled = job.walled or job.gate is GateState.REJECTED
    return NeedEnd(contribution_of(job), job.upstream, job.outcome is RunStatus.SKIPPED, walled)


def cancelled_as(step: StepState) -> StepStatus:
    """Return the state in which a step ends whose agent was asked to end it; notes why."""
    if step.cancel_cause is CancelCause.TIMEOUT:
        step.failure_reason = FailureReason.TIMEOUT
        return StepStatus.TIMEOUT
    step.failure_reason = FailureReason.CANCELLED
    return StepStatus.CANCELLED
