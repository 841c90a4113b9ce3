"""Why something waits, which attempt it is, and how a gate is decided: in words."""

from collections.abc import Iterable, Iterator, Sequence

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.terminal import one_line

_WORDS = {
    "stage": "the stages before it are not done",
    "approval": "waits for an approval",
    "needs": "waits for the jobs it depends on",
    "concurrency": "waits for its concurrency key",
    "retry": "waits until its next attempt begins",
    "queue": "waits for an agent",
    "agent": "waits for an agent",
    "paused": "the run is paused",
    "previous_step": "waits for the step before it",
    "dispatched": "sent to an agent",
}
_NAMES_SHOWN = 4
# A step that waits for the one before it waits as long as that one; one that was sent waits no longer.
_WAITS_FOR_NOTHING_ELSE = frozenset({"", "previous_step", "dispatched"})


def in_words(reason: str) -> str:
    """A typed reason in words; one of a newer server as it is."""
    return _WORDS.get(reason, reason)


def of_job(job: pipeline_pb2.JobRunDetail, gates: Iterable[pipeline_pb2.ApprovalDetail]) -> str:
    """What a job waits for, with names; empty when it does not. `gates`: those of its run that are not decided."""
    if job.waiting_reason == "approval" and (gate := _gate_of(job, gates)):
        return f"waits for an approval: arcentra approval approve {gate.approval_id}"
    if job.waiting_reason == "retry":
        return f"{attempt(job.attempt, job.max_attempts)} begins after a pause"
    return one_line(job.waiting_detail) or in_words(job.waiting_reason)


def steps(
    run: pipeline_pb2.PipelineRunDetail,
) -> Iterator[tuple[pipeline_pb2.JobRunDetail, pipeline_pb2.StepRunDetail]]:
    """Yield the steps of a run that wait and could be the next of their job, each with its job."""
    for job in run.job_runs:
        for step in job.step_runs:
            if step.waiting_reason not in _WAITS_FOR_NOTHING_ELSE:
                yield job, step


def _gate_of(
    job: pipeline_pb2.JobRunDetail, gates: Iterable[pipeline_pb2.ApprovalDetail]
) -> pipeline_pb2.ApprovalDetail | None:
    return next(
        (gate for gate in gates if job.job_name == gate.job_name or (gate.stage and job.stage == gate.stage)), None
    )


def attempt(number: int, most: int = 0) -> str:
    """`attempt 2 of 3`, `attempt 2` where it is not known how many there may be."""
    return f"attempt {number} of {most}" if number <= most else f"attempt {number}"


def gate_name(gate: pipeline_pb2.ApprovalDetail) -> str:
    """`gate before stage release`, `gate after job build`."""
    return f"gate after job {gate.job_name}" if gate.job_name else f"gate before stage {gate.stage}"


def votes(gate: pipeline_pb2.ApprovalDetail) -> str:
    """`1 of 2 approvals`: how many a gate has of those it needs."""
    given = sum(vote.decision == pipeline_pb2.APPROVAL_DECISION_APPROVE for vote in gate.votes)
    return f"{given} of {gate.needed} approval{'' if gate.needed == 1 else 's'}"


def how_to_decide(gate: pipeline_pb2.ApprovalDetail) -> str:
    """What a gate that is not decided waits for, and the commands that decide it."""
    by = f" by {names(gate.approvers)}" if gate.approvers else ""
    commands = f"arcentra approval approve {gate.approval_id}, or arcentra approval reject {gate.approval_id}"
    return f"has {votes(gate)}{by}: {commands}"


def names(all_names: Sequence[str]) -> str:
    """Some names and how many there are more."""
    more = len(all_names) - _NAMES_SHOWN
    return ", ".join(all_names[:_NAMES_SHOWN]) + (f" +{more}" if more > 0 else "")
