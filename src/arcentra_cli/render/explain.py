"""Why step runs wait, for people."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_cli.render import words
from arcentra_cli.render.parts import columns, pairs
from arcentra_cli.terminal import one_line

MOST_AGENTS = 50


def explanation(reply: steprun_pb2.ExplainStepRunResponse, now: float) -> RenderableType:
    """The reason in a sentence, what comes first, and a row for every agent, the nearest first."""
    status = words.step_status(reply.status)
    rows: list[tuple[str, str | Text]] = [
        ("Step run", reply.step_run_id),
        ("Status", words.styled(status)),
        ("Why", one_line(reply.summary)),
        ("Reason", one_line(reply.scheduling_reason)),
        ("Waits since", _since(reply.waiting_since, now)),
        ("Place", f"{reply.queue_rank} of {reply.queue_length} in the queue" if reply.queue_rank else ""),
        ("Priority", str(reply.priority) if reply.queue_rank else ""),
        ("Wants", one_line(", ".join(reply.conditions)) or ("any agent" if reply.agents else "")),
    ]
    parts: list[RenderableType] = [pairs(rows)]
    if len(reply.blockers) > 1:
        parts += [Text(""), _blockers(reply)]
    if reply.agents:
        parts += [Text(""), _agents(reply)]
    if len(reply.agents) > MOST_AGENTS:
        parts.append(Text(f"and {len(reply.agents) - MOST_AGENTS} agents that come less near", style="dim"))
    return Group(*parts)


def run_explanation(
    run: pipeline_pb2.PipelineRunDetail,
    waits: Sequence[tuple[pipeline_pb2.JobRunDetail, pipeline_pb2.StepRunDetail]],
    replies: Sequence[steprun_pb2.ExplainStepRunResponse],
    now: float,
) -> RenderableType:
    """A row for every step that waits, with the reason in a sentence; `replies` are about the first of `waits`."""
    if not waits:
        return Text(f"no step of run {run.run_id} waits: it is {words.pipeline_status(run.status)}")
    table = columns("step", "for", "why", "step run")
    for (job, step), reply in zip(waits, replies, strict=False):
        name = f"{one_line(job.job_name)}/{one_line(step.step_name)}"
        table.add_row(name, _age(reply.waiting_since, now), one_line(reply.summary), step.step_run_id)
    more = len(waits) - len(replies)
    return Group(table, Text(f"and {more} more that wait", style="dim")) if more > 0 else table


def _age(moment: int, now: float) -> str:
    return words.ago(moment, now).removesuffix(" ago") if moment else ""


def _since(moment: int, now: float) -> str:
    return f"{words.moment(moment)} ({words.ago(moment, now)})" if moment else ""


def _blockers(reply: steprun_pb2.ExplainStepRunResponse) -> RenderableType:
    table = columns("first", "what", "run")
    for one in reply.blockers:
        table.add_row(one.kind, one_line(one.detail), one.run_id)
    return table


def _agents(reply: steprun_pb2.ExplainStepRunResponse) -> RenderableType:
    table = columns("agent", "takes it", "why not")
    for one in reply.agents[:MOST_AGENTS]:
        why = "; ".join(one_line(obstacle.detail) for obstacle in one.obstacles)
        table.add_row(one_line(one.name), Text("yes", style="green") if one.can_take else Text("no"), why)
    return table
