"""Step runs and artifacts between the contract and the services."""

from __future__ import annotations

from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_server.db.artifacts import ArtifactRow
from arcentra_server.db.paging import Page
from arcentra_server.db.step_runs import StepFilter, StepRow
from arcentra_server.rpc.context import existing_id
from arcentra_server.rpc.convert.definition import step_from_proto
from arcentra_server.rpc.convert.dispatch import shown
from arcentra_server.rpc.convert.enums import STEP_STATUS
from arcentra_server.rpc.convert.fields import (
    Findings,
    filter_id,
    milliseconds_between,
    plain_text,
    unix_seconds,
)
from arcentra_server.services.step_runs import AddedStep

_UNAVAILABLE = {
    "workspace": "cannot be chosen: the step runs in the workspace of its job",
    "plugins": "cannot be pinned here: write the version into `uses`, as in shell@1.2",
}


def added_step(request: steprun_pb2.CreateStepRunRequest) -> AddedStep:
    """Read a step that is to be added to a run.

    Raises:
        ValidationError: a field is missing or malformed, or cannot be carried out.
        NotFound: an id is none.
    """
    findings = Findings()
    for name, why in _UNAVAILABLE.items():
        if getattr(request, name):
            findings.add(name, why)
    if not request.pipeline_run_id and not request.job_id:
        findings.add("pipeline_run_id", "is required without job_id")
    spec = step_from_proto(request, request.step_name, "", findings)
    findings.raise_any([])
    return AddedStep(
        run_id=existing_id(request.pipeline_run_id, "pipeline run") if request.pipeline_run_id else None,
        spec=spec,
        pipeline_id=existing_id(request.pipeline_id, "pipeline") if request.pipeline_id else None,
        job_id=existing_id(request.job_id, "job run") if request.job_id else None,
        job_name=request.job_name,
    )


def step_filter(request: steprun_pb2.ListStepRunsRequest) -> StepFilter:
    """Read the filters of a list.

    Raises:
        ValidationError: an id or the status is malformed.
    """
    return StepFilter(
        pipeline_id=filter_id(request.pipeline_id, "pipeline_id"),
        run_id=filter_id(request.pipeline_run_id, "pipeline_run_id"),
        job_id=filter_id(request.job_id, "job_id"),
        job_name=plain_text(request.job_name, "job_name"),
        name=plain_text(request.step_name, "step_name"),
        status=STEP_STATUS.filter_from_proto(request.status, "status"),
        agent_id=filter_id(request.agent_id, "agent_id"),
    )


def page_of(request: steprun_pb2.ListStepRunsRequest) -> Page:
    """Read which page is wanted.

    Raises:
        ValidationError: a number is out of its range.
    """
    return Page.of(request.page, request.page_size, request.sort_by, descending=request.sort_desc)


def new_timeout(request: steprun_pb2.UpdateStepRunRequest) -> int | None:
    """Return the time limit to set in milliseconds, None when it is to stay.

    Raises:
        ValidationError: it is not a duration.
    """
    findings = Findings()
    timeout_ms = findings.duration(request.timeout, "timeout")
    findings.raise_any([])
    return timeout_ms


def step_run_to(row: StepRow) -> steprun_pb2.StepRunDetail:
    """Return a step run as it is shown."""
    spec = shown(row.rendered or row.dispatch, row.secrets.values())
    detail = steprun_pb2.StepRunDetail(
        step_run_id=str(row.id),
        pipeline_id=str(row.pipeline_id),
        pipeline_run_id=str(row.run_id),
        job_id=str(row.job_id),
        job_name=row.job_name,
        step_name=row.name,
        step_index=row.step_index,
        uses=spec.uses,
        action=spec.action,
        status=STEP_STATUS.to_proto(row.status),
        env=spec.env,
        workspace=spec.workspace,
        timeout=spec.timeout,
        image=spec.image,
        artifacts=[
            # The same message, declared in both packages.
            steprun_pb2.ArtifactConfig.FromString(artifact.SerializeToString())
            for artifact in spec.artifacts
        ],
        when=row.condition,
        continue_on_error=row.continue_on_error,
        run_on_agent=spec.run_on_agent,
        agent_id=str(row.agent_id) if row.agent_id else "",
        agent_labels=row.agent_labels or {},
        exit_code=row.exit_code or 0,
        error_message=row.error_message,
        created_at=unix_seconds(row.created_at),
        started_at=unix_seconds(row.started_at),
        finished_at=unix_seconds(row.finished_at),
        duration=milliseconds_between(row.started_at, row.finished_at, row.now),
        created_by=row.created_by,
        metrics=row.metrics,
        attempt=row.attempt,
        waiting_reason=row.waiting_reason,
        failure_reason=row.failure_reason or "",
        log_size=row.log_size,
        cancel_requested=row.cancel_requested and not row.status.terminal,
        outputs=row.outputs,
        secrets=row.secrets,
    )
    if spec.HasField("args"):
        detail.args.CopyFrom(spec.args)
    if spec.HasField("agent_selector"):
        # The same message, declared in both packages.
        selector = steprun_pb2.AgentSelector.FromString(spec.agent_selector.SerializeToString())
        detail.agent_selector.CopyFrom(selector)
    return detail


def artifact_to(row: ArtifactRow) -> steprun_pb2.Artifact:
    """Return an artifact as it is shown."""
    return steprun_pb2.Artifact(
        artifact_id=str(row.id),
        name=row.name,
        path=row.path,
        size=row.size,
        download_url=row.uri,
        created_at=unix_seconds(row.created_at),
        expire_at=unix_seconds(row.expires_at),
    )
