"""A run as a table of its jobs and steps, the gates it waits at, and one line of summary."""

from collections.abc import Iterable, Iterator, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.render import waiting, words
from arcentra_cli.render.parts import PlainTable, plain
from arcentra_cli.terminal import one_line

Row = tuple[str | Text, ...]
_COLUMNS = ("STAGE", "JOB", "STEP", "STATUS", "DURATION", "AGENT", "NOTE")
_ONLY_STAGE = "default"
# Steps that wait for nothing of their own: the line of their job says it, or the step before them does.
_WAITS_OF_THE_JOB = frozenset({"stage", "approval", "needs", "concurrency", "previous_step"})
_LONGEST_OUTPUT = 60


def run_report(run: pipeline_pb2.PipelineRunDetail, agents: Mapping[str, str], now: float) -> RenderableType:
    """The jobs and steps of a run, then its gates and its summary.

    `agents` maps ids to names; an unknown agent is shown by its id.
    """
    gates = [Text(f"{waiting.gate_name(gate)} {waiting.how_to_decide(gate)}") for gate in run.pending_approvals]
    why = [Text(f"why they wait for an agent: arcentra run explain {run.run_id}")] if _waits_for_an_agent(run) else []
    below = [plain(line) for line in (*gates, *why, Text.assemble(*summary(run, now)))]
    return Group(_table(run, agents, now), Text(""), *below)


def _waits_for_an_agent(run: pipeline_pb2.PipelineRunDetail) -> bool:
    return any(step.waiting_reason == "agent" for _, step in waiting.steps(run))


def _table(run: pipeline_pb2.PipelineRunDetail, agents: Mapping[str, str], now: float) -> PlainTable:
    table = PlainTable(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    first = 0 if any(job.stage not in {"", _ONLY_STAGE} for job in run.job_runs) else 1
    for column in _COLUMNS[first:]:
        table.add_column(column, justify="right" if column == "DURATION" else "left", overflow="fold")
    stage = None
    for job in run.job_runs:
        for row in _job_rows(job, run.pending_approvals, agents, now):
            table.add_row(*("" if job.stage == stage else job.stage, *row)[first:])
            stage = job.stage
    return table


def _job_rows(
    job: pipeline_pb2.JobRunDetail,
    gates: Iterable[pipeline_pb2.ApprovalDetail],
    agents: Mapping[str, str],
    now: float,
) -> Iterator[Row]:
    """A row for the job, then one for each of its steps, the attempts of a step side by side."""
    yield (
        f"{job.job_name} ({waiting.attempt(job.attempt, job.max_attempts)})" if job.attempt > 1 else job.job_name,
        "",
        words.styled(words.pipeline_status(job.status)),
        words.span(job.start_time, job.end_time, job.duration, now),
        agents.get(job.agent_id, job.agent_id),
        job_note(job, gates),
    )
    for step in job.step_runs:
        yield (
            "",
            f"{step.step_name} ({waiting.attempt(step.attempt)})" if step.attempt > 1 else step.step_name,
            words.styled(words.pipeline_status(step.status)),
            words.span(step.start_time, step.end_time, step.duration, now),
            agents.get(step.agent_id, step.agent_id),
            step_note(step),
        )


def job_note(job: pipeline_pb2.JobRunDetail, gates: Iterable[pipeline_pb2.ApprovalDetail]) -> str:
    """Why a job waits or failed, what it put out, and what it runs after."""
    status = words.pipeline_status(job.status)
    # What a step of it says already is not said twice.
    error = "" if any(step.error_message == job.error_message for step in job.step_runs) else job.error_message
    is_tolerated = job.allow_failure and status in {"FAILED", "TIMEOUT"}
    parts = [
        waiting.of_job(job, gates) if status not in words.TERMINAL else "",
        _failure(status, job.failure_reason, job.exit_code, error),
        "tolerated" if is_tolerated else "",
        _outputs(job.outputs),
        f"after {waiting.names(job.depends_on)}" if job.depends_on and job.waiting_reason != "needs" else "",
    ]
    return "; ".join(part for part in parts if part)


def step_note(step: pipeline_pb2.StepRunDetail) -> str:
    """Why a step waits or failed, in a few words; empty for a step of which nothing needs saying."""
    status = words.pipeline_status(step.status)
    if status in words.TERMINAL:
        return _failure(status, step.failure_reason, step.exit_code, step.error_message)
    if step.cancel_requested:
        return "cancel asked for"
    return "" if step.waiting_reason in _WAITS_OF_THE_JOB else waiting.in_words(step.waiting_reason)


def _failure(status: str, reason: str, exit_code: int, error: str) -> str:
    """Why something did not end well: the typed reason, or the exit code that stands for it, and the message.

    What ended well may have a message too, as a job whose outputs could not be made.
    """
    if status not in words.TERMINAL:
        return ""
    if status in {"SUCCESS", "SKIPPED"}:
        return one_line(error)
    if exit_code and reason in {"", "script"}:
        reason = f"exit {exit_code}"
    if reason.upper() == status:
        reason = ""
    return ": ".join(part for part in (reason, one_line(error)) if part)


def _outputs(outputs: Mapping[str, str]) -> str:
    texts = {name: one_line(value) for name, value in sorted(outputs.items())}
    shown = (f"{name}={text[:_LONGEST_OUTPUT]}{'...' * (len(text) > _LONGEST_OUTPUT)}" for name, text in texts.items())
    return f"outputs {', '.join(shown)}" if texts else ""


def summary(run: pipeline_pb2.PipelineRunDetail, now: float) -> list[tuple[str, str]]:
    """The run in one line, as pieces of text with their styles."""
    status = words.pipeline_status(run.status)
    took = words.span(run.start_time, run.end_time, run.duration, now)
    failed = f", {run.failed_jobs} failed" if run.failed_jobs else ""
    tail = f" {'in' if status in words.TERMINAL else 'for'} {took}" if took else ""
    reason = f" ({one_line(run.status_reason)})" if run.status_reason else ""
    return [
        (f"run {run.run_id} of {run.namespace}/{run.pipeline_name or run.pipeline_id}: ", ""),
        (status, words.status_style(status)),
        (f"{tail}, {run.completed_jobs}/{run.total_jobs} jobs done{failed}{reason}", ""),
    ]
