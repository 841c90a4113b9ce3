"""The tables of the commands: one function a message."""

from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_cli.render import words


def _table(*columns: str, right: Iterable[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.upper(), justify="right" if column in right else "left", overflow="fold")
    return table


def _pairs(pairs: Iterable[tuple[str, str | Text]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if str(value):
            grid.add_row(name, value)
    return grid


def _mapping(mapping: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={mapping[key]}" for key in sorted(mapping))


def whoami(reply: admin_pb2.WhoAmIResponse, server: str, token_source: str) -> RenderableType:
    """Who the caller is, where, and by which credential."""
    return _pairs(
        [
            ("Server", f"{server} (version {reply.server_version})" if reply.server_version else server),
            ("Name", reply.name),
            ("Role", reply.role),
            ("Token from", token_source),
        ]
    )


def agents(reply: admin_pb2.ListAgentsResponse, now: float) -> RenderableType:
    """Every agent, a row each."""
    table = _table("name", "status", "slots", "labels", "last contact", "platform", "version", "id")
    for agent in reply.agents:
        table.add_row(
            agent.name,
            words.styled(words.agent_status(agent.status)),
            f"{agent.running_step_runs_count}/{agent.max_concurrent_step_runs}",
            _mapping(agent.labels),
            words.ago(agent.last_heartbeat, now),
            "/".join(part for part in (agent.os, agent.arch) if part),
            agent.version,
            agent.agent_id,
        )
    return table if reply.agents else Text("no agents: join one with `arcentra-agent run`")


def pipelines(reply: pipeline_pb2.ListPipelinesResponse) -> RenderableType:
    """Pipelines, a row each."""
    table = _table(
        "namespace", "name", "status", "runs", "ok", "failed", "updated", "id", right=("runs", "ok", "failed")
    )
    for pipeline in reply.pipelines:
        table.add_row(
            pipeline.namespace,
            pipeline.name,
            _pipeline_state(pipeline),
            str(pipeline.total_runs),
            str(pipeline.success_runs),
            str(pipeline.failed_runs),
            words.moment(pipeline.updated_at),
            pipeline.pipeline_id,
        )
    return _page(table, len(reply.pipelines), reply.total, "pipelines")


def _pipeline_state(pipeline: pipeline_pb2.PipelineDetail) -> Text:
    if not pipeline.enabled:
        return Text("disabled", style="dim")
    return words.styled(words.pipeline_status(pipeline.status)) if pipeline.status else Text("")


def pipeline(detail: pipeline_pb2.PipelineDetail) -> RenderableType:
    """One pipeline: what it is, then its jobs."""
    head = _pairs(
        [
            ("Pipeline", f"{detail.namespace}/{detail.name}"),
            ("Id", detail.pipeline_id),
            ("Description", detail.description),
            ("Status", _pipeline_state(detail)),
            ("Definition", f"version {detail.spec_version}" if detail.spec_version else ""),
            ("Runs", f"{detail.total_runs} ({detail.success_runs} ok, {detail.failed_runs} failed)"),
            ("Created", f"{words.moment(detail.created_at)} by {detail.created_by}".removesuffix(" by ")),
            ("Updated", words.moment(detail.updated_at)),
            ("Variables", _mapping(detail.variables)),
            ("Triggers", ", ".join(words.trigger_type(trigger.type) for trigger in detail.triggers)),
        ]
    )
    jobs = _table("stage", "job", "steps", "timeout", "agents with")
    staged = [(stage.name, job) for stage in detail.stages for job in stage.jobs]
    for stage, job in staged or [("", job) for job in detail.jobs]:
        steps = ", ".join(step.name for step in job.steps)
        jobs.add_row(stage, job.name, steps, job.timeout, _mapping(job.agent_selector.match_labels))
    return Group(head, Text(""), jobs)


def runs(reply: pipeline_pb2.ListPipelineRunsResponse, now: float) -> RenderableType:
    """Runs, a row each."""
    table = _table("run", "pipeline", "status", "jobs", "branch", "trigger", "by", "created", "duration")
    for run in reply.runs:
        table.add_row(
            run.run_id,
            f"{run.namespace}/{run.pipeline_name or run.pipeline_id}",
            words.styled(words.pipeline_status(run.status)),
            f"{run.completed_jobs}/{run.total_jobs}",
            run.branch,
            words.trigger_type(run.trigger_type),
            run.triggered_by,
            words.moment(run.created_at),
            words.span(run.start_time, run.end_time, run.duration, now),
        )
    return _page(table, len(reply.runs), reply.total, "runs")


def _page(table: Table, shown: int, total: int, what: str) -> RenderableType:
    if not shown:
        return Text(f"no {what}")
    return Group(table, Text(f"{shown} of {total} {what}", style="dim")) if shown < total else table


def step_run(detail: steprun_pb2.StepRunDetail, now: float) -> RenderableType:
    """One step run."""
    status = words.step_status(detail.status)
    return _pairs(
        [
            ("Step run", detail.step_run_id),
            ("Step", f"{detail.job_name}/{detail.step_name}"),
            ("Run", detail.pipeline_run_id),
            ("Status", words.styled(status)),
            ("Waits for", detail.waiting_reason),
            ("Attempt", str(detail.attempt or "")),
            ("Uses", " ".join(part for part in (detail.uses, detail.action) if part)),
            ("Agent", detail.agent_id),
            ("Exit code", str(detail.exit_code) if status in {"SUCCESS", "FAILED"} else ""),
            ("Failure", detail.failure_reason),
            ("Error", detail.error_message),
            ("Created", words.moment(detail.created_at)),
            ("Started", words.moment(detail.started_at)),
            ("Finished", words.moment(detail.finished_at)),
            ("Duration", words.span(detail.started_at, detail.finished_at, detail.duration, now)),
            ("Log", f"{detail.log_size} bytes"),
            ("Cancel", "asked for" if detail.cancel_requested else ""),
        ]
    )
