"""A run as a table of its steps and as one line of summary."""

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.render import words


def run_report(run: pipeline_pb2.PipelineRunDetail, agents: Mapping[str, str], now: float) -> RenderableType:
    """The steps of a run, then its summary. `agents` maps ids to names; an unknown agent is shown by its id."""
    return Group(_steps(run, agents, now), Text(""), Text.assemble(*summary(run, now)))


def _steps(run: pipeline_pb2.PipelineRunDetail, agents: Mapping[str, str], now: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("JOB", "STEP", "STATUS", "DURATION", "AGENT", "NOTE"):
        table.add_column(column, justify="right" if column == "DURATION" else "left", overflow="fold")
    for job in run.job_runs:
        for row in _job_rows(job, agents, now):
            table.add_row(*row)
    return table


def _job_rows(
    job: pipeline_pb2.JobRunDetail, agents: Mapping[str, str], now: float
) -> Iterator[tuple[str | Text, ...]]:
    if not job.step_runs:
        status = words.styled(words.pipeline_status(job.status))
        yield job.job_name, "", status, "", agents.get(job.agent_id, job.agent_id), job.error_message
    for index, step in enumerate(job.step_runs):
        name = f"{step.step_name} (attempt {step.attempt})" if step.attempt > 1 else step.step_name
        yield (
            job.job_name if index == 0 else "",
            name,
            words.styled(words.pipeline_status(step.status)),
            words.span(step.start_time, step.end_time, step.duration, now),
            agents.get(step.agent_id, step.agent_id),
            step_note(step),
        )


def step_note(step: pipeline_pb2.StepRunDetail) -> str:
    """Why a step waits or failed, in a few words; empty for a step of which nothing needs saying."""
    status = words.pipeline_status(step.status)
    if status not in words.TERMINAL:
        return "cancel asked for" if step.cancel_requested else step.waiting_reason
    if status in {"SUCCESS", "SKIPPED"}:
        return ""
    reason = step.failure_reason
    if step.exit_code and reason in {"", "script"}:
        reason = f"exit {step.exit_code}"
    return ": ".join(part for part in (reason, step.error_message) if part)


def summary(run: pipeline_pb2.PipelineRunDetail, now: float) -> list[tuple[str, str]]:
    """The run in one line, as pieces of text with their styles."""
    status = words.pipeline_status(run.status)
    took = words.span(run.start_time, run.end_time, run.duration, now)
    failed = f", {run.failed_jobs} failed" if run.failed_jobs else ""
    tail = f" {'in' if status in words.TERMINAL else 'for'} {took}" if took else ""
    reason = f" ({run.status_reason})" if run.status_reason else ""
    return [
        (f"run {run.run_id} of {run.namespace}/{run.pipeline_name or run.pipeline_id}: ", ""),
        (status, words.status_style(status)),
        (f"{tail}, {run.completed_jobs}/{run.total_jobs} jobs done{failed}{reason}", ""),
    ]
