"""What a ledger does about rows that do not fit together. None of it happens unless something broke a rule before.

Each repair goes by the transition tables, and tells of itself in an event. An agent that may still run what is ended is
told to stop it.
"""

from __future__ import annotations

from arcentra_server.domain.execution import (
    CancelCommand,
    Closing,
    Event,
    JobState,
    Release,
    Resource,
    RunState,
    StepState,
)
from arcentra_server.domain.ledger_turns import LedgerTurns
from arcentra_server.domain.states import FailureReason, GateState, RunStatus, StepStatus

REPAIRED = "repaired: "


class LedgerRepairs(LedgerTurns):
    """See the module. Each method answers whether there was something to repair."""

    def fail_unheld(self, step: StepState) -> bool:
        """Fail a step that runs, and that no agent holds: nobody would ever say how it ended."""
        if step.status is not StepStatus.RUNNING or step.lease is not None:
            return False
        step.error_message = f"{REPAIRED}the step ran, and no agent held it"
        step.failure_reason = FailureReason.AGENT_LOST
        self.tell_repair(step, "it ran, and no agent held it")
        self._stop_process(step)
        if step.agent_id is not None:
            # Its slot may be that of another step by now: what comes next waits in the queue until there is one.
            self.barred_agents.add(step.agent_id)
        self._finish(step, StepStatus.FAILED)
        return True

    def queue_again(self, step: StepState) -> bool:
        """Queue a step that is to be placed, and that neither the queue nor an agent has."""
        if step.status is not StepStatus.QUEUED or step.lease is not None:
            return False
        self._enqueue(step, None if step.own_selector else self.jobs[step.job_id].agent_id)
        self.tell_repair(step, "it was neither in the queue nor with an agent")
        return True

    def end_stalled_job(self, job: JobState) -> bool:
        """Let a job go on whose steps have all ended, and that was left as it was."""
        waits = job.gate is GateState.WAITING or job.id in self.due_attempts
        if job.status.terminal or waits or self._pending.get(job.id) or job.completed_steps != job.total_steps:
            return False
        self._tell_of_job(job, "its steps had ended, and it had not")
        self._end_steps(job, self.runs[job.run_id])
        return True

    def end_left_job(self, job: JobState) -> bool:
        """Cancel what is left of a job whose run has ended. The run stays as it ended."""
        run = self.runs[job.run_id]
        if job.status.terminal or not run.status.terminal:
            return False
        self.extended_jobs.add(job.id)
        job.closing, job.error_message = Closing.CANCELLED, f"{REPAIRED}its run had ended"
        for step in self._pending.get(job.id, []):
            if not step.status.terminal:
                self._stop_process(step)
                if step.lease is not None or step.status is StepStatus.QUEUED:
                    self._end_lease(step, "repaired")
                step.failure_reason = FailureReason.CANCELLED
                self._set_step(step, StepStatus.CANCELLED)
        if job.agent_id is not None:
            self.releases.append(Release(job.agent_id, job.id))
        if job.concurrency:
            self.released_keys.append(job.id)
        job.completed_steps, job.running_steps, job.outcome = job.total_steps, 0, RunStatus.CANCELLED
        self._tell_of_job(job, "its run had ended")
        self._set_job(job, RunStatus.CANCELLED)
        return True

    def release_left_key(self, job: JobState) -> bool:
        """Take its concurrency key from a job that has ended."""
        if not job.status.terminal:
            return False
        self.released_keys.append(job.id)
        self._tell_of_job(job, "it had ended, and claimed a concurrency key")
        return True

    def end_stalled_run(self, run: RunState) -> bool:
        """End a run whose jobs have all ended, and that was left as it was."""
        if run.status.terminal or run.completed_jobs != run.total_jobs:
            return False
        told = f"{REPAIRED}its jobs had ended, and it had not"
        self.events.append(self._run_event(run, run.status, told))
        self._finish_run(run)
        return True

    def tell_repair(self, step: StepState, what: str) -> None:
        """Tell that something of a step was put right."""
        self.events.append(self._step_event(step, step.status, message=f"{REPAIRED}{what}"))

    def _stop_process(self, step: StepState) -> None:
        """Let the agent of a step that is ended know: the one that was given it, or that started it."""
        agent_id = step.lease.agent_id if step.lease is not None else step.agent_id
        if agent_id is not None and step.status in (StepStatus.QUEUED, StepStatus.RUNNING):
            self.cancels.append(CancelCommand(agent_id, step.id, f"{REPAIRED}the step was ended"))

    def _tell_of_job(self, job: JobState, what: str) -> None:
        pipeline_id, status = self.runs[job.run_id].pipeline_id, job.status.value
        self.events.append(
            Event(
                Resource.JOB,
                pipeline_id,
                job.run_id,
                job.id,
                None,
                job.agent_id,
                status,
                status,
                message=f"{REPAIRED}{what}",
            )
        )
