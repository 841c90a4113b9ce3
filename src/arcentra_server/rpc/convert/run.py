"""Runs between the contract and the services: what starts one, and how one stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.db.runs import JobRow, RunRow
from arcentra_server.db.step_runs import StepRow
from arcentra_server.domain.durations import format_duration
from arcentra_server.domain.execution import Waiting
from arcentra_server.domain.identity import Caller
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.states import GateState, RunStatus, StepStatus, TriggerType
from arcentra_server.domain.trigger_entries import RESERVED_REQUESTS
from arcentra_server.rpc.convert.enums import RUN_STATUS, TRIGGER_TYPE, step_as_run
from arcentra_server.rpc.convert.fields import Findings, milliseconds_between, plain_text, unix_seconds
from arcentra_server.rpc.convert.order import approval_to
from arcentra_server.rpc.policy import may_change_pipelines

LONGEST_REQUEST_ID = 128

# A subset of what git takes, so that no branch can be read as an option or as another kind of revision.
_BRANCH = re.compile(r"(?!-)[^\x00-\x20\x7f~^:?*\[\\]{1,255}")
_COMMIT = re.compile(r"[0-9a-fA-F]{4,64}")


def trigger_from(request: pipeline_pb2.TriggerPipelineRequest, by: Caller) -> Trigger:
    """Read what a run is started with; its variables are for the service to check.

    Raises:
        ValidationError: branch, commit or request id is malformed.
    """
    findings = Findings()
    if request.branch and not _BRANCH.fullmatch(request.branch):
        findings.add("branch", f"{request.branch[:80]!r} is not a branch")
    if request.commit_sha and not _COMMIT.fullmatch(request.commit_sha):
        findings.add("commit_sha", f"{request.commit_sha[:80]!r} is not a commit: 4 to 64 hexadecimal digits")
    if request.request_id.startswith(RESERVED_REQUESTS):
        findings.add("request_id", f"begins with {' or '.join(RESERVED_REQUESTS)}, which only ticks and deliveries do")
    findings.raise_any([])
    return Trigger(
        TriggerType.MANUAL,
        triggered_by=plain_text(request.triggered_by, "triggered_by") or by.name,
        branch=request.branch,
        commit_sha=request.commit_sha,
        variables=dict(request.variables),
        request_id=plain_text(request.request_id, "request_id", longest=LONGEST_REQUEST_ID) or None,
        actor=by.name,
        may_change=may_change_pipelines(by.role),
    )


def run_to(row: RunRow) -> pipeline_pb2.PipelineRunDetail:
    """Return a run as it is shown, with the jobs that were read with it."""
    message = pipeline_pb2.PipelineRunDetail(
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
        pending_approvals=[approval_to(gate) for gate in row.gates],
        timeout=format_duration(row.timeout_ms) if row.timeout_ms is not None else "",
    )
    if row.jobs and row.event:
        message.event.update({name: _showable(value) for name, value in row.event.items()})
    return message


def _showable(value: Any) -> Any:
    """Return JSON as it can be shown: the contract has no number that is larger than a double, the database has."""
    if isinstance(value, Mapping):
        return {name: _showable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_showable(item) for item in value]
    try:
        return float(value) if type(value) is int else value
    except OverflowError:
        return str(value)


def _job_to(row: JobRow, run: RunRow) -> pipeline_pb2.JobRunDetail:
    reason, detail = _waiting(row, run)
    message = pipeline_pb2.JobRunDetail(
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
        waiting_reason=reason,
        waiting_detail=detail,
        attempt=row.attempt,
        outputs=row.outputs,
        failure_reason=row.failure_reason or "",
        definition_name=row.definition_name,
        depends_on=row.needs,
        allow_failure=row.allow_failure,
        gate=row.gate.value.lower(),
        max_attempts=row.max_attempts,
    )
    if row.matrix:
        message.matrix.update(row.matrix)
    return message


def _waiting(job: JobRow, run: RunRow) -> tuple[str, str]:
    """Return why a job waits, and for whom or what exactly, in words."""
    held = f", held by {'; '.join(job.holders)}" if job.holders else ""
    details = {
        Waiting.STAGE: "the stages before it are not done",
        Waiting.NEEDS: f"waits for {', '.join(job.open_needs)}",
        Waiting.APPROVAL: "waits for an approval of it" if job.gate is GateState.WAITING else "waits for an approval",
        Waiting.CONCURRENCY: f"waits for the key {job.concurrency}{held}",
        Waiting.RETRY: f"attempt {job.attempt} begins after a pause",
    }
    if job.waits_for in details:
        return job.waits_for.value, details[job.waits_for]
    return _queued(job, run) if job.status is RunStatus.PENDING else ("", "")


def _queued(job: JobRow, run: RunRow) -> tuple[str, str]:
    queued = [step for step in job.steps if step.status is StepStatus.QUEUED]
    if not queued:
        return "stage", "the stages before it are not done"
    # A step that was sent to an agent before the pause still starts.
    is_held = run.status is RunStatus.PAUSED and not any(step.leased for step in queued)
    return ("paused", "the run is paused") if is_held else ("queue", "waits for an agent")


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
        outputs=row.outputs,
    )
