"""The tables of the commands: one function a message."""

from rich.console import RenderableType
from rich.text import Text

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_cli.render import waiting, words
from arcentra_cli.render.parts import columns, mapping, page, pairs
from arcentra_cli.terminal import one_line


def whoami(reply: admin_pb2.WhoAmIResponse, server: str, token_source: str) -> RenderableType:
    """Who the caller is, where, and by which credential."""
    return pairs(
        [
            ("Server", f"{server} (version {reply.server_version})" if reply.server_version else server),
            ("Name", reply.name),
            ("Role", reply.role),
            ("Token from", token_source),
        ]
    )


def pipelines(reply: pipeline_pb2.ListPipelinesResponse) -> RenderableType:
    """Pipelines, a row each."""
    table = columns(
        "namespace", "name", "status", "runs", "ok", "failed", "updated", "id", right=("runs", "ok", "failed")
    )
    for pipeline in reply.pipelines:
        table.add_row(
            pipeline.namespace,
            pipeline.name,
            pipeline_state(pipeline),
            str(pipeline.total_runs),
            str(pipeline.success_runs),
            str(pipeline.failed_runs),
            words.moment(pipeline.updated_at),
            pipeline.pipeline_id,
        )
    return page(table, len(reply.pipelines), reply.total, "pipelines")


def pipeline_state(pipeline: pipeline_pb2.PipelineDetail) -> Text:
    """The state of the newest run of a pipeline, or why there is none to tell of."""
    if not pipeline.enabled:
        return Text("disabled", style="dim")
    if not pipeline.total_runs:
        return Text("never ran", style="dim")
    return words.styled(words.pipeline_status(pipeline.status)) if pipeline.status else Text("")


def runs(reply: pipeline_pb2.ListPipelineRunsResponse, now: float) -> RenderableType:
    """Runs, a row each."""
    table = columns("run", "pipeline", "status", "jobs", "branch", "trigger", "by", "created", "duration")
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
    return page(table, len(reply.runs), reply.total, "runs")


def step_run(detail: steprun_pb2.StepRunDetail, now: float) -> RenderableType:
    """One step run."""
    status = words.step_status(detail.status)
    return pairs(
        [
            ("Step run", detail.step_run_id),
            ("Step", f"{detail.job_name}/{detail.step_name}"),
            ("Run", detail.pipeline_run_id),
            ("Status", words.styled(status)),
            ("Waits", waiting.in_words(detail.waiting_reason)),
            ("Attempt", str(detail.attempt or "")),
            ("Uses", " ".join(part for part in (detail.uses, detail.action) if part)),
            ("Agent", detail.agent_id),
            ("Exit code", str(detail.exit_code) if status in {"SUCCESS", "FAILED"} else ""),
            ("Failure", detail.failure_reason),
            ("Error", one_line(detail.error_message)),
            ("Outputs", one_line(mapping(detail.outputs))),
            ("Secrets", mapping(detail.secrets)),
            ("Created", words.moment(detail.created_at)),
            ("Started", words.moment(detail.started_at)),
            ("Finished", words.moment(detail.finished_at)),
            ("Duration", words.span(detail.started_at, detail.finished_at, detail.duration, now)),
            ("Log", f"{detail.log_size} bytes"),
            ("Cancel", "asked for" if detail.cancel_requested else ""),
        ]
    )
