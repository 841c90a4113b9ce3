"""What waits in a run as it stands, with the names of what it waits for. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.render import waiting, words

# Told otherwise: gates once for all jobs behind them, what waits in the queue with its step.
_TOLD_OTHERWISE = frozenset({"", "approval", "queue", "paused"})
# Waits of a queued step; one that was sent to an agent starts in a moment.
_OF_STEPS = frozenset({"agent", "paused", "retry"})


@dataclass(frozen=True, slots=True)
class Wait:
    """A job run or a step run that waits, what it is called, and for what it waits."""

    id: str
    subject: str
    status: str
    text: str


def waits_of(run: pipeline_pb2.PipelineRunDetail) -> Iterator[Wait]:
    """Everything that waits and is worth a line, in the order of the run."""
    for job in run.job_runs:
        is_open = words.pipeline_status(job.status) not in words.TERMINAL
        if is_open and job.waiting_reason not in _TOLD_OTHERWISE:
            text = waiting.of_job(job, run.pending_approvals)
            yield Wait(job.job_run_id, job.job_name, words.pipeline_status(job.status), text)
        for step in job.step_runs:
            if step.waiting_reason in _OF_STEPS and job.waiting_reason != "retry":
                number = f"#{step.attempt}" if step.attempt > 1 else ""
                text = waiting.in_words(step.waiting_reason)
                yield Wait(step.step_run_id, f"{job.job_name}/{step.step_name}{number}", "QUEUED", text)
