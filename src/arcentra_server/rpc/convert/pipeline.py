"""Pipelines and their runs between the contract and the services."""

from __future__ import annotations

import re

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.db.paging import Page
from arcentra_server.db.pipelines import PipelineRow
from arcentra_server.db.runs import JobRow, RunRow
from arcentra_server.db.step_runs import StepRow
from arcentra_server.domain.definition import check_name, check_pipeline
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.states import RunStatus, StepStatus, TriggerType
from arcentra_server.rpc.convert.definition import check_triggers, jobs_to_proto, spec_from_proto, stages_to_proto
from arcentra_server.rpc.convert.enums import RUN_STATUS, TRIGGER_TYPE, step_as_run
from arcentra_server.rpc.convert.fields import Findings, milliseconds_between, plain_text, unix_seconds
from arcentra_server.services.pipelines import NewPipeline, PipelineChange

LONGEST_REQUEST_ID = 128

# A subset of what git takes, so that no branch can be read as an option or as another kind of revision.
_BRANCH = re.compile(r"(?!-)[^\x00-\x20\x7f~^:?*\[\\]{1,255}")
_COMMIT = re.compile(r"[0-9a-fA-F]{4,64}")

AnyList = pipeline_pb2.ListPipelinesRequest | pipeline_pb2.ListPipelineRunsRequest


def new_pipeline(request: pipeline_pb2.CreatePipelineRequest) -> NewPipeline:
    """Read a new pipeline; its definition is for the service to check, unless it cannot be read to its end.

    Raises:
        ValidationError: a part of it is malformed or not available yet; names all other faults too.
    """
    findings = Findings()
    spec = spec_from_proto(request.variables, request.stages, request.jobs, findings)
    check_triggers(request.triggers, findings)
    findings.text(request.description, "description")
    findings.raise_any(
        (check_name(request.namespace, "namespace") if request.namespace else [])
        + (check_name(request.name, "name") if request.name else [])
        + check_pipeline(spec)
    )
    return NewPipeline(spec, namespace=request.namespace, name=request.name, description=request.description)


def pipeline_change(request: pipeline_pb2.UpdatePipelineRequest) -> PipelineChange:
    """Read a change; what is empty stays as it is.

    Raises:
        ValidationError: a part of it is malformed or not available yet.
    """
    findings = Findings()
    spec = spec_from_proto(request.variables, request.stages, request.jobs, findings)
    check_triggers(request.triggers, findings)
    findings.text(request.description, "description")
    findings.raise_any(check_pipeline(spec) if spec.stages else [])
    return PipelineChange(
        name=request.name,
        description=request.description,
        enabled=request.enabled if request.HasField("enabled") else None,
        namespace=request.namespace,
        variables=spec.variables or None,
        stages=spec.stages or None,
        jobs_only=spec.jobs_only,
    )


def trigger_from(request: pipeline_pb2.TriggerPipelineRequest, caller_name: str) -> Trigger:
    """Read what a run is started with; its variables are for the service to check.

    Raises:
        ValidationError: branch, commit or request id is malformed.
    """
    findings = Findings()
    if request.branch and not _BRANCH.fullmatch(request.branch):
        findings.add("branch", f"{request.branch[:80]!r} is not a branch")
    if request.commit_sha and not _COMMIT.fullmatch(request.commit_sha):
        findings.add("commit_sha", f"{request.commit_sha[:80]!r} is not a commit: 4 to 64 hexadecimal digits")
    findings.raise_any([])
    return Trigger(
        TriggerType.MANUAL,
        triggered_by=plain_text(request.triggered_by, "triggered_by") or caller_name,
        branch=request.branch,
        commit_sha=request.commit_sha,
        variables=dict(request.variables),
        request_id=plain_text(request.request_id, "request_id", longest=LONGEST_REQUEST_ID) or None,
    )


def page_of(request: AnyList) -> Page:
    """Read which page is wanted.

    Raises:
        ValidationError: a number is out of its range.
    """
    return Page.of(request.page, request.page_size, request.sort_by, descending=request.sort_desc)


def pipeline_to(row: PipelineRow) -> pipeline_pb2.PipelineDetail:
    """Return a pipeline as it is shown."""
    return pipeline_pb2.PipelineDetail(
        pipeline_id=str(row.id),
        namespace=row.namespace,
        variables=row.spec.variables,
        stages=stages_to_proto(row.spec),
        jobs=jobs_to_proto(row.spec),
        status=RUN_STATUS.to_proto(row.last_status),
        created_at=unix_seconds(row.created_at),
        updated_at=unix_seconds(row.updated_at),
        created_by=row.created_by,
        total_runs=row.total_runs,
        success_runs=row.success_runs,
        failed_runs=row.failed_runs,
        name=row.name,
        description=row.description,
        enabled=row.enabled,
        spec_version=row.spec_version,
    )


def run_to(row: RunRow) -> pipeline_pb2.PipelineRunDetail:
    """Return a run as it is shown, with the jobs that were read with it."""
    return pipeline_pb2.PipelineRunDetail(
        run_id=str(row.id),
        pipeline_id=str(row.pipeline_id),
        namespace=row.namespace,
        branch=row.branch,
        commit_sha=row.commit_sha,
        status=RUN_STATUS.to_proto(row.status),
        trigger_type=TRIGGER_TYPE.to_proto(row.trigger_type),
        triggered_by=row.triggered_by,
        variables=row.variables,
        total_jobs=row.total_jobs,
        completed_jobs=row.completed_jobs,
        failed_jobs=row.failed_jobs,
        running_jobs=row.running_jobs,
        start_time=unix_seconds(row.started_at),
        end_time=unix_seconds(row.finished_at),
        duration=milliseconds_between(row.started_at, row.finished_at, row.now),
        job_runs=[_job_to(job, row) for job in row.jobs],
        pipeline_name=row.pipeline_name,
        created_at=unix_seconds(row.created_at),
        status_reason=row.status_reason,
        spec_version=row.spec_version,
    )


def _job_to(row: JobRow, run: RunRow) -> pipeline_pb2.JobRunDetail:
    return pipeline_pb2.JobRunDetail(
        job_run_id=str(row.id),
        job_name=row.name,
        status=RUN_STATUS.to_proto(row.status),
        start_time=unix_seconds(row.started_at),
        end_time=unix_seconds(row.finished_at),
        duration=milliseconds_between(row.started_at, row.finished_at, run.now),
        agent_id=str(row.agent_id) if row.agent_id else "",
        exit_code=row.exit_code,
        error_message=row.error_message,
        step_runs=[_step_to(step) for step in row.steps],
        stage=row.stage,
        waiting_reason=_waiting_reason(row, run),
    )


def _waiting_reason(job: JobRow, run: RunRow) -> str:
    """Return why a job has not started: its first step is queued when the turn of its stage has come."""
    if job.status is not RunStatus.PENDING:
        return ""
    queued = [step for step in job.steps if step.status is StepStatus.QUEUED]
    if not queued:
        return "stage"
    # A step that was sent to an agent before the pause still starts.
    is_held = run.status is RunStatus.PAUSED and not any(step.leased for step in queued)
    return "paused" if is_held else "queue"


def _step_to(row: StepRow) -> pipeline_pb2.StepRunDetail:
    return pipeline_pb2.StepRunDetail(
        step_run_id=str(row.id),
        step_name=row.name,
        status=step_as_run(row.status),
        start_time=unix_seconds(row.started_at),
        end_time=unix_seconds(row.finished_at),
        duration=milliseconds_between(row.started_at, row.finished_at, row.now),
        agent_id=str(row.agent_id) if row.agent_id else "",
        exit_code=row.exit_code or 0,
        error_message=row.error_message,
        step_index=row.step_index,
        attempt=row.attempt,
        waiting_reason=row.waiting_reason,
        failure_reason=row.failure_reason or "",
        cancel_requested=row.cancel_requested and not row.status.terminal,
    )
