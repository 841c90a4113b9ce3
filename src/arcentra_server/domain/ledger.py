"""The progress of runs: what a report, a cancellation or a lost lease does to steps, jobs, stages and runs.

A ledger holds what was loaded of the runs that are locked, takes every change in order, and knows in the end what has
to be written. It does no input or output: `db/execution.py` loads it and `db/execution_write.py` writes it, in one
transaction. Every state goes through `domain/transitions.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from uuid import UUID

from arcentra_server.domain import rollup
from arcentra_server.domain.errors import InvalidTransition, LeaseLost, NotLeased
from arcentra_server.domain.execution import (
    ASKED,
    FIRST,
    OWN,
    CancelCause,
    CancelCommand,
    Closing,
    JobState,
    RunState,
    StepReport,
    StepState,
    Waiting,
)
from arcentra_server.domain.ledger_repairs import LedgerRepairs
from arcentra_server.domain.ledger_turns import EXPIRED, REFUSED, cancelled_as, contribution_of
from arcentra_server.domain.states import STEP_FAILURES, FailureReason, GateState, RunStatus, StepStatus
from arcentra_server.domain.transitions import check_step_transition

NOT_LEASED = "step run is not leased to this agent"
LEASE_LOST = "lease lost"
FINISHED = "step run already finished"
_DISOBEYED = (
    "the agent cloned commit {}, though it was told to clone {}, which the run keeps to: "
    "its git plugin does not take `commit`, so update the agent"
)


class Ledger(LedgerRepairs):
    """See the module: every method is something that happens to what runs."""

    @classmethod
    def empty(cls) -> Ledger:
        """Return one that only reads: it gives out no lease and takes no report."""
        return cls(lambda: UUID(int=0), lambda _lease, _token: False)

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
        step.error_message = reason
        if cause is CancelCause.TIMEOUT:
            step.failure_reason = FailureReason.TIMEOUT
            timed_out = step.status is StepStatus.QUEUED
            self._finish(step, StepStatus.TIMEOUT if timed_out else StepStatus.CANCELLED)
        else:
            step.failure_reason = FailureReason.CANCELLED
            self._finish(step, StepStatus.CANCELLED)

    def end_cancelled(self, step: StepState) -> None:
        """End a step whose agent was asked to end it and does not answer. What it says later is refused."""
        if step.status is StepStatus.RUNNING and step.cancel_cause is not None:
            step.error_message = f"{step.cancel_reason or 'cancelled'}; its agent did not say that it ended"
            self._finish(step, cancelled_as(step))

    def cancel_job(self, job: JobState, reason: str, cause: CancelCause = CancelCause.REQUEST) -> None:
        """End a job: its waiting steps now, its running ones by their agent. Nothing of it gets a turn any more."""
        if job.status.terminal:
            return
        self._touch_job(job)
        self.extended_jobs.add(job.id)
        job.closing = Closing.CANCELLED if cause is CancelCause.REQUEST else Closing.TIMEOUT
        steps = self._pending.get(job.id, [])
        running = [step for step in steps if step.status is StepStatus.RUNNING]
        waiting = [step for step in steps if not step.status.terminal and step not in running]
        for step in running:
            self.cancel_step(step, reason, cause)
        if running:
            return
        if waiting:
            self.cancel_step(waiting[0], reason, cause)
        elif job.gate is GateState.WAITING:
            job.outcome, job.error_message = RunStatus.CANCELLED, reason
            self._finish_job(job, self.runs[job.run_id])

    def stop_run(self, run: RunState, reason: str) -> None:
        """End a run, whose jobs are all loaded: final, whatever its steps say later."""
        self._end_run(run, reason)
        run.stopped = True
        self._cancel_jobs(run, reason, CancelCause.REQUEST)

    def time_out_run(self, run: RunState, reason: str) -> None:
        """End a run, whose jobs are all loaded, because its time is over: it ends as FAILED."""
        self._end_run(run, reason)
        run.timed_out = True
        self.extended_runs.add(run.id)
        self._cancel_jobs(run, reason, CancelCause.TIMEOUT)

    def _end_run(self, run: RunState, reason: str) -> None:
        if run.status.terminal:
            raise InvalidTransition("pipeline run already finished")
        self._touch_run(run)
        run.paused, run.status_reason = False, reason
        if run.status is RunStatus.PAUSED:
            self._set_run(run, self._going_on(run))

    def _cancel_jobs(self, run: RunState, reason: str, cause: CancelCause) -> None:
        for job in [job for job in self.jobs.values() if job.run_id == run.id]:
            self.cancel_job(job, reason, cause)

    def lose(
        self,
        step: StepState,
        message: str,
        *,
        agent_gone: bool = True,
        delay_seconds: float = 0.0,
        lease_end: str = "lost",
    ) -> None:
        """End the lease of a step that its agent will not run: back to the queue if it had not started, else failed.

        A step that waits for an agent which is gone together with the workspace of its job cannot be run any more.
        `lease_end`: what is kept of the lease of one that goes back.
        """
        if step.lease is None or step.status.terminal:
            return
        workspace_lost = self.jobs[step.job_id].agent_id == step.lease.agent_id
        holder = None if step.own_selector else self.jobs[step.job_id].agent_id
        if step.status is StepStatus.QUEUED and (holder is None or not agent_gone):
            self._end_lease(step, lease_end)
            self._enqueue(step, holder)
            self.delays[step.id] = delay_seconds
            return
        step.error_message = message
        if step.status is StepStatus.RUNNING:
            # Its process may still be there: an agent that was only silent, with its channel open, hears of it this way.
            self.cancels.append(CancelCommand(step.lease.agent_id, step.id, message))
            if step.cancel_cause is not None:
                self._finish(step, cancelled_as(step), agent_gone=workspace_lost)
                return
        step.failure_reason = FailureReason.AGENT_LOST
        self._finish(step, StepStatus.FAILED, agent_gone=workspace_lost)

    def abandon(self, step: StepState, message: str) -> None:
        """End a step that waits for an agent which is gone together with the workspace of its job."""
        if step.status is StepStatus.QUEUED and step.lease is None:
            step.error_message, step.failure_reason = message, FailureReason.AGENT_LOST
            self._finish(step, StepStatus.FAILED, agent_gone=True)

    def fail_waiting(self, step: StepState, message: str, reason: FailureReason) -> None:
        """End a step that cannot be sent to an agent as it is."""
        if step.status is StepStatus.QUEUED:
            step.error_message, step.failure_reason = message, reason
            self._finish(step, StepStatus.FAILED)

    def fail_job(self, job: JobState, message: str) -> None:
        """End a job that its agent gave up: what runs fails, what comes next is cancelled, whatever they tolerate."""
        unfinished = [step for step in self._pending.get(job.id, []) if not step.status.terminal]
        if not unfinished:
            return
        self._touch_job(job)
        self.extended_jobs.add(job.id)
        if job.closing is Closing.NO:  # else it is being ended for another reason, which stays
            job.closing = Closing.GIVEN_UP
        job.error_message = job.error_message or message
        step = next((step for step in unfinished if step.status is StepStatus.RUNNING), unfinished[0])
        if step.cancel_cause is not None:
            self._finish(step, cancelled_as(step))
            return
        step.error_message, step.failure_reason = message, FailureReason.INTERNAL
        running = step.status is StepStatus.RUNNING
        self._finish(step, StepStatus.FAILED if running else StepStatus.CANCELLED)

    def add_step(self, step: StepState) -> None:
        """Take a step run that was stored after its run began; it has its turn when nothing else of its job is open.

        Raises:
            InvalidTransition: the job waits at its gate: what is to be approved does not change any more.
        """
        job = self.jobs[step.job_id]
        if job.gate is GateState.WAITING:
            raise InvalidTransition("the job waits for an approval: no step can be added to it")
        self._touch_job(job)
        job.total_steps += 1
        self.add_jobs((), [step])
        self._step_created(step)

    def begin_added(self, job: JobState) -> None:
        """Let a job that was added after its run began have its turn; where its stage is at a gate, it waits with it."""
        if self.stages[job.run_id, job.stage_index].opened:
            self._advance(job, self.runs[job.run_id])
        else:
            self._wait_for(job, Waiting.APPROVAL)

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

    def pause(self, run: RunState, reason: str, actor: str) -> None:
        """Let a run start nothing new; what runs goes on."""
        run.paused, run.status_reason = True, reason
        self._set_run(run, RunStatus.PAUSED, actor)

    def resume(self, run: RunState, reason: str, actor: str) -> None:
        """Let a paused run go on."""
        run.paused, run.status_reason = False, reason
        self._set_run(run, self._going_on(run), actor)

    def _going_on(self, run: RunState) -> RunStatus:
        """Return the state of a run that is no longer paused, all of whose jobs are loaded."""
        if run.started or run.running_jobs or run.completed_jobs:
            return RunStatus.RUNNING
        again = any(_was_opened_again(job) for job in self.jobs.values() if job.run_id == run.id)
        return RunStatus.RUNNING if again else RunStatus.PENDING

    # Attempts that somebody asks for

    def reopen(
        self, run: RunState, jobs: Iterable[JobState], steps: Iterable[StepState], open_needs: dict[UUID, int]
    ) -> None:
        """Open jobs again for new attempts of all their steps, which are stored as PENDING.

        Args:
            run: The run, all of whose jobs are loaded.
            jobs: The jobs to open, in order: those that are retried, and those that were skipped because of them.
            steps: The new attempts, in order.
            open_needs: For each of the jobs, and for each that has not had its turn, how many of those that it depends on
                have to end first.

        Raises:
            InvalidTransition: the run is being stopped, or is at another stage by now, or what would be opened stands
                behind a gate that was refused.
        """
        opened = {job.id: job for job in jobs}
        first = min(job.stage_index for job in opened.values())
        self._check_reopen(run, opened.values(), first)
        self._touch_run(run)
        self.extended_runs.add(run.id)
        for job in opened.values():
            self._reopen_job(run, job, open_needs.get(job.id, 0))
        for job_id in open_needs.keys() - opened.keys():
            self._touch_job(self.jobs[job_id])
            self.extended_jobs.add(job_id)
            self.jobs[job_id].open_needs = open_needs[job_id]
        run.stopped = run.timed_out = False
        self._recount(run, opened.keys(), first)
        if run.status.terminal:
            run.status_reason, run.started = "", False
            self._set_run(run, RunStatus.RUNNING)
        for step in steps:
            self.add_jobs((), [step])
            self._step_created(step)
        self._begin_again(run, [job for job in opened.values() if job.stage_index == first])

    def _reopen_job(self, run: RunState, job: JobState, open_needs: int) -> None:
        self._touch_job(job)
        self.extended_jobs.add(job.id)
        run.completed_jobs -= 1
        run.failed_jobs -= rollup.job_contribution(job.status) is RunStatus.FAILED
        self._clear(job)
        job.attempt += 1
        job.retries_left = job.retry.max_attempts - 1 if job.retry else 0
        job.open_needs, job.upstream, job.walled = open_needs, rollup.NOTHING_YET, False
        job.waits_for = Waiting.NEEDS if open_needs else Waiting.STAGE
        if job.gate is not GateState.NONE:
            self._set_gate(job, GateState.REQUIRED)
        self._pending[job.id] = []
        self.stages[run.id, job.stage_index].open_jobs += 1
        self._set_job(job, RunStatus.PENDING)

    def _recount(self, run: RunState, opened: Iterable[UUID], first: int) -> None:
        """Take the jobs that are open again out of how the run and its stages ended; later stages wait for their turn."""
        again = set(opened)
        if run.rejected and run.status_reason in (REFUSED, EXPIRED):
            run.status_reason = ""
        run.outcome, run.rejected = rollup.NOTHING_YET, False
        self._before.pop(run.id, None)
        for (run_id, index), stage in self.stages.items():
            if run_id != run.id:
                continue
            kept = [
                job
                for job in self.jobs_of_stage.get((run.id, index), ())
                if job.id not in again and job.status.terminal
            ]
            stage.outcome = rollup.gravest(contribution_of(job) for job in kept)
            run.outcome = rollup.graver(run.outcome, stage.outcome)
            run.rejected = run.rejected or any(job.gate is GateState.REJECTED for job in kept)
            if index > first:
                stage.opened = False
                if stage.gate is not GateState.NONE:
                    self._set_gate(stage, GateState.REQUIRED)
            self.changed_stages.add((run.id, index))

    def _begin_again(self, run: RunState, jobs: list[JobState]) -> None:
        """Give the jobs of the first stage that is open again their turn, without asking at a gate that was passed."""
        stage = self.stages[run.id, jobs[0].stage_index]
        if stage.gate in (GateState.REJECTED, GateState.REQUIRED):
            self._set_gate(stage, GateState.REQUIRED)
            stage.opened = False
        upstream = self.before(run.id, stage.index).outcome
        if stage.gate is GateState.WAITING:
            for job in jobs:
                self._wait_for(job, Waiting.APPROVAL)
        elif stage.opened:
            self._open_stage(run, stage, jobs, upstream)
        else:
            self.enter_stage(run, stage, jobs, upstream)

    def _check_reopen(self, run: RunState, opened: Collection[JobState], first: int) -> None:
        """Refuse to open a job that would be skipped again, or whose run goes on without it by now."""
        earlier = [stage for (run_id, index), stage in self.stages.items() if run_id == run.id and index < first]
        again = [job for job in opened if job.stage_index == first]
        before = [job for job in self.jobs.values() if job.run_id == run.id and job.stage_index < first]
        gates = [*(stage.gate for stage in earlier), *(job.gate for job in before)]
        if GateState.REJECTED in gates:
            raise InvalidTransition("an approval before it was refused: retry what stands behind that gate")
        if any(job.walled for job in before):
            raise InvalidTransition("a job before it ended without its approval: retry that one")
        if any(rollup.blocks(stage.outcome) for stage in earlier) and not any(job.condition for job in again):
            raise InvalidTransition("a job of an earlier stage failed: retry that one")
        if run.status.terminal:
            return
        if run.ending:
            raise InvalidTransition("the run is being stopped: retry when it has ended")
        now = min(index for (run_id, index), stage in self.stages.items() if run_id == run.id and stage.open_jobs)
        if first != now:
            raise InvalidTransition("the run is at another stage: retry when it has ended")

    # What follows from a report

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
        self._wait_for(job, Waiting.NOTHING)
        if job.status is RunStatus.PENDING:
            self._touch_run(run)
            run.running_jobs += 1
            run.started = True
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
        step.outputs = report.outputs
        if step.cancel_cause is not None:
            step.error_message = report.error_message or step.cancel_reason
            self._finish(step, cancelled_as(step))
            return
        if report.status is StepStatus.FAILED:
            step.failure_reason = report.failure_reason or FailureReason.SCRIPT
        elif report.status is StepStatus.TIMEOUT:
            step.failure_reason = FailureReason.TIMEOUT
        elif step.kind == "source" and report.status is StepStatus.SUCCESS and not self._keeps_commit(step):
            if not step.told:
                self._repeat_moved(step)
                return
            step.error_message = _DISOBEYED.format(step.outputs["commit"], self.runs[step.run_id].pins[step.pin])
            step.failure_reason = FailureReason.VALIDATION
            self._finish(step, StepStatus.FAILED)
            return
        self._finish(step, report.status)

    def _keeps_commit(self, step: StepState) -> bool:
        """Answer whether a clone has the commit that the run keeps to; the first clone of a source decides which."""
        commit = step.outputs.get("commit", "")
        run = self.runs[step.run_id]
        if not commit or (step.pin == OWN and ASKED in run.pins):
            return True
        if run.pins.get(step.pin, "") not in ("", commit):
            return False
        self._touch_run(run)
        self.extended_runs.add(run.id)
        run.pins[step.pin] = commit
        if step.of_run or not run.pins.keys() & {OWN, FIRST}:
            run.commit_sha = run.commit_sha or commit
        return True

    def _repeat_moved(self, step: StepState) -> None:
        """Begin a job again that cloned another commit than the run keeps to, as the branch moved meanwhile."""
        job, run = self.jobs[step.job_id], self.runs[step.run_id]
        wanted = run.pins[step.pin]
        step.error_message = f"the branch moved while the run started; the job begins again with commit {wanted}"
        step.failure_reason = FailureReason.INTERNAL
        self._touch_job(job)
        job.running_steps -= 1
        self._end_lease(step, StepStatus.FAILED.value)
        self._set_step(step, StepStatus.FAILED)
        for following in self._pending[job.id]:
            if following.status is StepStatus.PENDING:
                self._set_step(following, StepStatus.SKIPPED)
        self._repeat_job(job, run, counted=False)


def _was_opened_again(job: JobState) -> bool:
    """Answer whether somebody asked for another attempt of a job: it has more of them than its rule has taken."""
    by_rule = job.retry.max_attempts - 1 - job.retries_left if job.retry else 0
    return job.attempt - 1 > by_rule
