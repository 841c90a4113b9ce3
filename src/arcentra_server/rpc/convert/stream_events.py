"""StreamEvents: what the changes of resources are called."""

from __future__ import annotations

from uuid import UUID

from arcentra_api.stream.v1 import stream_pb2
from arcentra_server.db.event_history import own_id
from arcentra_server.db.events import EventRow
from arcentra_server.db.resource_details import AgentDetail, JobDetail, RunDetail, StepDetail
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.execution import Resource
from arcentra_server.domain.watch import Filter
from arcentra_server.rpc.context import existing_id
from arcentra_server.rpc.convert.fields import unix_seconds
from arcentra_server.services.journal import Told

E = stream_pb2

_TYPE_NAMES = {
    Resource.STEP: "step_run",
    Resource.JOB: "job_run",
    Resource.RUN: "pipeline_run",
    Resource.AGENT: "agent",
}
_RESOURCES = {name: resource for resource, name in _TYPE_NAMES.items()}
_NOUNS = {Resource.STEP: "Step", Resource.JOB: "Job", Resource.RUN: "Run of", Resource.AGENT: "Agent"}

# By the state that was entered. States that have no type, such as QUEUED, are not told.
_TYPES: dict[tuple[Resource, str], E.EventType.ValueType] = {
    (Resource.STEP, "RUNNING"): E.EVENT_TYPE_STEP_RUN_STARTED,
    (Resource.STEP, "SUCCESS"): E.EVENT_TYPE_STEP_RUN_COMPLETED,
    (Resource.STEP, "SKIPPED"): E.EVENT_TYPE_STEP_RUN_COMPLETED,
    (Resource.STEP, "FAILED"): E.EVENT_TYPE_STEP_RUN_FAILED,
    (Resource.STEP, "TIMEOUT"): E.EVENT_TYPE_STEP_RUN_FAILED,
    (Resource.STEP, "CANCELLED"): E.EVENT_TYPE_STEP_RUN_CANCELLED,
    (Resource.JOB, "RUNNING"): E.EVENT_TYPE_JOB_STARTED,
    (Resource.JOB, "SUCCESS"): E.EVENT_TYPE_JOB_COMPLETED,
    (Resource.JOB, "PARTIAL"): E.EVENT_TYPE_JOB_COMPLETED,
    (Resource.JOB, "SKIPPED"): E.EVENT_TYPE_JOB_COMPLETED,
    (Resource.JOB, "FAILED"): E.EVENT_TYPE_JOB_FAILED,
    (Resource.JOB, "TIMEOUT"): E.EVENT_TYPE_JOB_FAILED,
    (Resource.JOB, "CANCELLED"): E.EVENT_TYPE_JOB_CANCELLED,
    (Resource.RUN, "RUNNING"): E.EVENT_TYPE_PIPELINE_STARTED,
    (Resource.RUN, "SUCCESS"): E.EVENT_TYPE_PIPELINE_COMPLETED,
    (Resource.RUN, "PARTIAL"): E.EVENT_TYPE_PIPELINE_COMPLETED,
    (Resource.RUN, "FAILED"): E.EVENT_TYPE_PIPELINE_FAILED,
    (Resource.RUN, "CANCELLED"): E.EVENT_TYPE_PIPELINE_CANCELLED,
    (Resource.AGENT, "OFFLINE"): E.EVENT_TYPE_AGENT_OFFLINE,
}
_NOT_BEGUN = (None, "PENDING")
_UNREGISTERED = "unregistered"


def event_filter(request: stream_pb2.StreamEventsRequest) -> Filter:
    """Read which resources to tell of.

    Raises:
        NotFound: an id is none that anything can have.
        ValidationError: the type of resource is not known.
    """
    ids = frozenset(existing_id(text, "resource") for text in request.resource_ids)
    if not request.resource_type:
        return Filter(frozenset(Resource), ids=ids)
    resource = _RESOURCES.get(request.resource_type)
    if resource is None:
        raise ValidationError.at("resource_type", f"is none of {', '.join(_RESOURCES)}")
    return Filter(frozenset({resource}), ids=ids)


def event_types(request: stream_pb2.StreamEventsRequest) -> frozenset[int]:
    """Read which types of events to tell, empty for all.

    Raises:
        ValidationError: one is UNSPECIFIED, or none that is known.
    """
    known = stream_pb2.EventType.values()
    for index, number in enumerate(request.event_types):
        if not number or number not in known:
            raise ValidationError.at(f"event_types[{index}]", "is not a type of event")
    return frozenset(request.event_types)


def event(told: Told, types: frozenset[int]) -> stream_pb2.StreamEventsResponse | None:
    """Write an event; None for a change that has no type, or none of those wanted."""
    kind = event_type(told.event, is_state=told.is_state)
    if kind is None or (types and kind not in types):
        return None
    row = told.event
    return stream_pb2.StreamEventsResponse(
        event_id=told.cursor,
        event_type=kind,
        timestamp=unix_seconds(row.at),
        resource_id=str(own_id(row)),
        resource_type=_TYPE_NAMES[row.resource],
        title=_title(told, kind),
        description=row.message or _error(told),
        metadata=_facts(row),
        user_id=row.actor,
    )


def event_type(row: EventRow, *, is_state: bool) -> E.EventType.ValueType | None:
    """Return what a change is called; what a state is called is the change that led to it."""
    if row.resource is Resource.AGENT:
        return _agent_type(row, is_state=is_state)
    if row.resource is Resource.STEP and row.previous is None and row.status in ("PENDING", "QUEUED"):
        return E.EVENT_TYPE_STEP_RUN_CREATED
    if row.status == row.previous:
        return None  # only counters changed
    if row.resource is not Resource.STEP and row.status == "RUNNING" and row.previous not in _NOT_BEGUN:
        return None  # it goes on: resumed, or opened again by a retry
    return _TYPES.get((row.resource, row.status))


def _agent_type(row: EventRow, *, is_state: bool) -> E.EventType.ValueType | None:
    if row.message == _UNREGISTERED and row.status == "OFFLINE":
        return E.EVENT_TYPE_AGENT_UNREGISTERED
    if is_state and row.status != "OFFLINE":
        return E.EVENT_TYPE_AGENT_REGISTERED
    if row.previous is None and not is_state:
        return E.EVENT_TYPE_AGENT_REGISTERED
    # The last that was told of an agent that is away may be what an operator wants of it.
    return _TYPES.get((row.resource, row.status)) if is_state or row.status != row.previous else None


def _title(told: Told, kind: E.EventType.ValueType) -> str:
    what = stream_pb2.EventType.Name(kind).rpartition("_")[2].lower()
    return f"{_NOUNS[told.event.resource]} {_name(told)} {what}"


def _name(told: Told) -> str:
    match told.detail:
        case StepDetail(job_name=job, name=name):
            return f"{job}/{name}"
        case JobDetail(name=name) | RunDetail(pipeline_name=name) | AgentDetail(name=name):
            return name
        case _:
            return str(own_id(told.event))


def _error(told: Told) -> str:
    failed = told.event.status in ("FAILED", "TIMEOUT", "CANCELLED")
    return told.detail.error_message if failed and isinstance(told.detail, StepDetail) else ""


def _facts(row: EventRow) -> dict[str, str]:
    facts: dict[str, UUID | str | None] = {
        "pipeline_id": row.pipeline_id,
        "pipeline_run_id": row.run_id,
        "job_id": row.job_id,
        "step_run_id": row.step_id,
        "agent_id": row.agent_id,
        "status": row.status,
        "previous_status": row.previous,
    }
    return {name: str(value) for name, value in facts.items() if value}
