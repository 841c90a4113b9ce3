"""Status streams between the wire and the domain. Fields that a message does not have for its resource stay empty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from arcentra_server.db.events import EventRow
from arcentra_server.db.resource_details import AgentDetail, JobDetail, RunDetail, StepDetail
from arcentra_server.domain.execution import Resource
from arcentra_server.domain.log_order import LogPiece
from arcentra_server.domain.states import AgentStatus, RunStatus, StepStatus
from arcentra_server.domain.watch import Filter
from arcentra_server.rpc.context import existing_id
from arcentra_server.rpc.convert.enums import RUN_STATUS, STEP_STATUS, STREAM_AGENT_STATUS
from arcentra_server.rpc.convert.fields import milliseconds_between, unix_seconds
from arcentra_server.services.journal import Told

NO_RUN = RunDetail("", "", None, None)
NO_JOB = JobDetail("", None, None)
NO_STEP = StepDetail("", "", None, None, None, 0, "", {})
NO_AGENT = AgentDetail("", "", 0, 0, {}, None, {})
_LOAD = ("cpu_usage", "memory_usage", "disk_usage")
_RUNNING = "running_step_runs"


def step_filter(request: stream_pb2.StreamStepRunStatusRequest) -> Filter:
    """Read which step runs to tell of; `NotFound` for an id that nothing can have, here and below."""
    return Filter(
        frozenset({Resource.STEP}),
        ids=_ids(request.step_run_ids, "step run"),
        job_ids=_ids([request.job_id], "job run"),
        run_ids=_ids([request.pipeline_run_id], "pipeline run"),
        pipeline_ids=_ids([request.pipeline_id], "pipeline"),
        job_name=request.job_name,
    )


def job_filter(request: stream_pb2.StreamJobStatusRequest) -> Filter:
    """Read which job runs to tell of."""
    return Filter(
        frozenset({Resource.JOB}),
        ids=_ids(request.job_ids, "job run"),
        run_ids=_ids([request.pipeline_run_id], "pipeline run"),
        pipeline_ids=_ids([request.pipeline_id], "pipeline"),
    )


def run_filter(request: stream_pb2.StreamPipelineStatusRequest) -> Filter:
    """Read which pipeline runs to tell of."""
    return Filter(
        frozenset({Resource.RUN}),
        ids=_ids(request.pipeline_run_ids, "pipeline run"),
        pipeline_ids=_ids(request.pipeline_ids, "pipeline"),
    )


def agent_filter(request: stream_pb2.StreamAgentStatusRequest) -> Filter:
    """Read which agents to tell of."""
    return Filter(frozenset({Resource.AGENT}), ids=_ids(request.agent_ids, "agent"))


def step_status(told: Told) -> stream_pb2.StreamStepRunStatusResponse:
    """Write the state of a step run. How it ended is part of the message of its end only."""
    event = told.event
    detail = told.detail if isinstance(told.detail, StepDetail) else NO_STEP
    ended = StepStatus(event.status).terminal
    agent_id = event.agent_id or (detail.agent_id if ended else None)
    return stream_pb2.StreamStepRunStatusResponse(
        step_run_id=_text(event.step_id),
        pipeline_id=_text(event.pipeline_id),
        pipeline_run_id=_text(event.run_id),
        job_id=_text(event.job_id),
        job_name=detail.job_name,
        step_name=detail.name,
        status=STEP_STATUS.to_proto(StepStatus(event.status)),
        previous_status=_previous_step(event),
        timestamp=unix_seconds(event.at),
        agent_id=_text(agent_id),
        exit_code=detail.exit_code if ended else 0,
        error_message=detail.error_message if ended else "",
        duration=_duration(told, detail.started_at, detail.finished_at, ended=ended),
        metrics=detail.metrics if ended else {},
        event_id=told.cursor,
        waiting_reason=event.waiting,
    )


def job_status(told: Told) -> stream_pb2.StreamJobStatusResponse:
    """Write the state of a job run."""
    event = told.event
    detail = told.detail if isinstance(told.detail, JobDetail) else NO_JOB
    ended = RunStatus(event.status).terminal
    return stream_pb2.StreamJobStatusResponse(
        job_id=_text(event.job_id),
        job_name=detail.name,
        pipeline_id=_text(event.pipeline_id),
        pipeline_run_id=_text(event.run_id),
        status=RUN_STATUS.to_proto(RunStatus(event.status)),
        previous_status=_previous_run(event),
        timestamp=unix_seconds(event.at),
        total_steps=event.total,
        completed_steps=event.completed,
        failed_steps=event.failed,
        running_steps=event.running,
        current_step_index=event.current,
        duration=_duration(told, detail.started_at, detail.finished_at, ended=ended),
        event_id=told.cursor,
        waiting_reason=event.waiting,
    )


def run_status(told: Told) -> stream_pb2.StreamPipelineStatusResponse:
    """Write the state of a pipeline run."""
    event = told.event
    detail = told.detail if isinstance(told.detail, RunDetail) else NO_RUN
    ended = RunStatus(event.status).terminal
    return stream_pb2.StreamPipelineStatusResponse(
        pipeline_id=_text(event.pipeline_id),
        run_id=_text(event.run_id),
        namespace=detail.namespace,
        status=RUN_STATUS.to_proto(RunStatus(event.status)),
        previous_status=_previous_run(event),
        timestamp=unix_seconds(event.at),
        total_jobs=event.total,
        completed_jobs=event.completed,
        failed_jobs=event.failed,
        running_jobs=event.running,
        duration=_duration(told, detail.started_at, detail.finished_at, ended=ended),
        event_id=told.cursor,
    )


def agent_status(told: Told) -> stream_pb2.StreamAgentStatusResponse:
    """Write the state of an agent."""
    event = told.event
    detail = told.detail if isinstance(told.detail, AgentDetail) else NO_AGENT
    return stream_pb2.StreamAgentStatusResponse(
        agent_id=_text(event.agent_id),
        hostname=detail.name,
        ip=detail.ip,
        status=STREAM_AGENT_STATUS.to_proto(AgentStatus(event.status)),
        previous_status=_previous_agent(event),
        timestamp=unix_seconds(event.at),
        running_step_runs_count=detail.running,
        max_concurrent_step_runs=detail.capacity,
        metrics=_metrics(detail.metrics) if detail.metrics else None,
        last_heartbeat=unix_seconds(detail.last_contact_at),
        labels=detail.labels,
        event_id=told.cursor,
    )


def log_piece(piece: LogPiece) -> stream_pb2.StreamStepRunLogsResponse:
    """Write a piece of a log, or a gap in it."""
    return stream_pb2.StreamStepRunLogsResponse(offset=piece.offset, data=piece.data, lost_bytes=piece.lost)


def _ids(texts: Iterable[str], what: str) -> frozenset[UUID]:
    return frozenset(existing_id(text, what) for text in texts if text)


def _text(identity: UUID | None) -> str:
    return str(identity) if identity else ""


def _previous_step(event: EventRow) -> steprun_pb2.StepRunStatus.ValueType:
    if not event.previous:
        return steprun_pb2.STEP_RUN_STATUS_UNSPECIFIED
    return STEP_STATUS.to_proto(StepStatus(event.previous))


def _previous_run(event: EventRow) -> pipeline_pb2.PipelineStatus.ValueType:
    if not event.previous:
        return pipeline_pb2.PIPELINE_STATUS_UNSPECIFIED
    return RUN_STATUS.to_proto(RunStatus(event.previous))


def _previous_agent(event: EventRow) -> stream_pb2.AgentStatus.ValueType:
    if not event.previous:
        return stream_pb2.AGENT_STATUS_UNSPECIFIED
    return STREAM_AGENT_STATUS.to_proto(AgentStatus(event.previous))


def _duration(told: Told, start: datetime | None, end: datetime | None, *, ended: bool) -> int:
    """Return how long something had run, in milliseconds, when this was told: it may have gone on since."""
    return milliseconds_between(start, end if ended and end and end <= told.now else None, told.now)


def _metrics(metrics: Mapping[str, str]) -> stream_pb2.AgentMetrics:
    cpu, memory, disk = (_number(metrics.get(name, "")) for name in _LOAD)
    return stream_pb2.AgentMetrics(
        cpu_usage=cpu,
        memory_usage=memory,
        disk_usage=disk,
        running_step_runs=int(_number(metrics.get(_RUNNING, ""))),
        custom_metrics={name: value for name, value in metrics.items() if name not in (*_LOAD, _RUNNING)},
    )


def _number(text: str) -> float:
    """Return a number that an agent stated, 0 for what is none."""
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if abs(number) < 2**31 else 0.0
