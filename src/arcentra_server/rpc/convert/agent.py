"""Agents' messages: reports in, dispatches and refusals out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from uuid import UUID

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.stream.v1 import stream_pb2
from arcentra_server.db.agents import AgentRow
from arcentra_server.domain.errors import ArcentraError, Fault, NotLeased, ValidationError
from arcentra_server.domain.execution import CancelCommand, StepReport
from arcentra_server.domain.ids import parse_id
from arcentra_server.domain.ledger import NOT_LEASED
from arcentra_server.domain.portions import portions
from arcentra_server.domain.standing import Settings
from arcentra_server.domain.states import FailureReason, RunStatus, StepStatus
from arcentra_server.rpc.channels import LARGEST_DISPATCH, Outgoing, Refusal
from arcentra_server.rpc.convert.dispatch import complete, sent_size
from arcentra_server.rpc.convert.enums import AGENT_STATUS, STEP_STATUS
from arcentra_server.services.agents import AgentFacts
from arcentra_server.services.runs import JobReport

_REPORTABLE: Mapping[int, StepStatus] = {
    STEP_STATUS.to_proto(status): status
    for status in (
        StepStatus.RUNNING,
        StepStatus.SUCCESS,
        StepStatus.FAILED,
        StepStatus.CANCELLED,
        StepStatus.TIMEOUT,
    )
}
_REASONS = {reason.value: reason for reason in FailureReason}
LARGEST_ERROR = 4_096
LARGEST_LABELS = 200
LONGEST_FACT = 128  # characters
LARGEST_METRICS = 100
LARGEST_METRIC = 1_024  # characters of a name or a value
LARGEST_LOG = 2**63 - 1  # bytes
LARGEST_ARTIFACTS = 1_000
LARGEST_CAPACITY = 10_000
MOST_OUTPUTS = 100
LARGEST_OUTPUTS = 64 * 1024  # bytes of their names and values
_OUTPUT = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")

AnyReport = agent_pb2.TaskStatus | agent_pb2.ReportStepRunStatusRequest | stream_pb2.StepRunStatusUpdate


def report_from(message: AnyReport, agent_id: UUID, metrics: Mapping[str, str] | None = None) -> StepReport:
    """Read a report of an agent.

    Raises:
        ValidationError: the status is none that an agent reports.
        NotLeased: the id is not one.
    """
    status = _REPORTABLE.get(message.status)
    if status is None:
        STEP_STATUS.from_proto(message.status, "status")
        raise ValidationError.at("status", "an agent reports RUNNING, SUCCESS, FAILED, CANCELLED or TIMEOUT")
    step_id = parse_id(message.step_run_id)
    if step_id is None:
        raise NotLeased(NOT_LEASED)
    final = status is not StepStatus.RUNNING
    error = clean(message.error_message, LARGEST_ERROR) if message.error_message else ""
    reason = _REASONS.get(message.failure_reason)
    outputs = dict(message.outputs) if final and message.outputs else {}
    if outputs and (wrong := wrong_outputs(outputs)):
        # The agent holds to these limits itself: outputs of another client are not stored in part, the step fails.
        outputs, error = {}, error or wrong
        if status is StepStatus.SUCCESS:
            status, reason = StepStatus.FAILED, FailureReason.VALIDATION
    return StepReport(
        agent_id,
        step_id,
        status,
        message.exit_code,
        error,
        reason,
        clean_metrics(metrics) if metrics else {},
        min(message.log_size, LARGEST_LOG) if final and message.HasField("log_size") else None,
        outputs,
        message.attempt,
        message.lease_token,
    )


def wrong_outputs(outputs: Mapping[str, str]) -> str:
    """Return what is wrong with the outputs of a step, empty when nothing is."""
    if len(outputs) > MOST_OUTPUTS:
        return f"the step wrote {len(outputs)} outputs, more than {MOST_OUTPUTS}"
    if sum(len(name.encode()) + len(value.encode()) for name, value in outputs.items()) > LARGEST_OUTPUTS:
        return f"the outputs of the step have more than {LARGEST_OUTPUTS} bytes"
    for name, value in outputs.items():
        if not _OUTPUT.fullmatch(name):
            return f"{name[:80]!r} is not the name of an output: letters, digits, _ and -, no digit first"
        if "\0" in value:
            return f"output {name} holds a NUL byte"
    return ""


def clean(text: str, longest: int) -> str:
    """Return what an agent wrote so that it can be stored: a report is not refused for its words."""
    return text[:longest].replace("\0", "\ufffd")


def clean_metrics(metrics: Mapping[str, str]) -> dict[str, str]:
    """Return as many metrics as are kept, cut to their length."""
    kept = list(metrics.items())[:LARGEST_METRICS]
    return {clean(name, LARGEST_METRIC): clean(value, LARGEST_METRIC) for name, value in kept}


def job_report_from(
    message: agent_pb2.ReportJobRunStatusRequest, agent_id: UUID, job_id: UUID, status: RunStatus
) -> JobReport:
    """Read what an agent says of a whole job.

    Raises:
        ValidationError: it names too many artifacts, or an address that cannot be one.
    """
    uris = dict(message.artifact_uris)
    wrong = [name for name, uri in uris.items() if not 0 < len(name) <= 255 or len(uri) > 2_048 or "\0" in name + uri]
    if len(uris) > LARGEST_ARTIFACTS or wrong:
        rule = f"at most {LARGEST_ARTIFACTS}, names of 1 to 255 and addresses of at most 2048 characters, none NUL"
        raise ValidationError.at("artifact_uris", rule)
    return JobReport(agent_id, job_id, status, clean(message.error_message, LARGEST_ERROR), uris)


def reports_from(message: agent_pb2.ConnectRequest, agent_id: UUID) -> tuple[list[StepReport], list[Refusal]]:
    """Read the reports of one message, in order; those that cannot be read are refused at once."""
    statuses = list(message.task_statuses)
    if message.HasField("task_status"):
        statuses.insert(0, message.task_status)
    reports, refusals = [], []
    for status in statuses:
        try:
            reports.append(report_from(status, agent_id, status.metrics))
        except ArcentraError as error:
            step_id = parse_id(status.step_run_id) or UUID(int=0)
            refusals.append(Refusal(step_id, status.status, error.reason, str(error)))
    return reports, refusals


def acks_of(message: agent_pb2.ConnectRequest) -> list[agent_pb2.TaskAck]:
    """Return the acknowledgements of one message."""
    acks = list(message.task_acks) if message.task_acks else []
    if message.HasField("task_ack"):
        acks.insert(0, message.task_ack)
    return acks


def responses(outgoing: Outgoing, agent_id: str, *, batched: bool) -> Iterator[agent_pb2.ConnectResponse]:
    """Yield the messages of what goes out: as few as can be for a client that takes batches, one a step run for others."""
    messages = _responses(outgoing, agent_id, batched=batched)
    if outgoing.settings is None:
        return messages
    first = next(messages, None) or agent_pb2.ConnectResponse(agent_id=agent_id)
    first.settings.CopyFrom(settings_to(outgoing.settings))
    return chain((first,), messages)


def _responses(outgoing: Outgoing, agent_id: str, *, batched: bool) -> Iterator[agent_pb2.ConnectResponse]:
    first = True
    for portion in portions(outgoing.dispatches, LARGEST_DISPATCH if batched else 1, sent_size):
        response = agent_pb2.ConnectResponse(agent_id=agent_id, command_id=str(portion[0].lease_id))
        step_runs = response.task_dispatch.step_runs
        for dispatch in portion:
            complete(dispatch, step_runs.add())
        if first and batched:
            _add_news(response, outgoing)
        first = False
        yield response
    if batched:
        if first:
            response = agent_pb2.ConnectResponse(agent_id=agent_id)
            _add_news(response, outgoing)
            yield response
        return
    cancels = {**outgoing.cancels, **{refusal.step_id: refusal.message for refusal in outgoing.refusals}}
    for step_id, reason in cancels.items():
        cancel = agent_pb2.TaskCancel(step_run_id=str(step_id), reason=reason)
        yield agent_pb2.ConnectResponse(agent_id=agent_id, task_cancel=cancel)


def _add_news(response: agent_pb2.ConnectResponse, outgoing: Outgoing) -> None:
    response.acked_sequence = outgoing.acked_sequence
    for refusal in outgoing.refusals:
        response.refusals.add(
            step_run_id=str(refusal.step_id),
            status=refusal.status,
            reason=refusal.reason,
            message=refusal.message,
        )
    for step_id, reason in outgoing.cancels.items():
        response.task_cancels.add(step_run_id=str(step_id), reason=reason)
    if outgoing.releases:
        response.released_job_ids.extend(map(str, outgoing.releases))
    response.reconnect = outgoing.reconnect


def settings_to(settings: Settings) -> agent_pb2.AgentSettings:
    """Return what the server wants of an agent."""
    return agent_pb2.AgentSettings(
        heartbeat_interval=settings.heartbeat_ms,
        lease_duration=settings.lease_ms,
        drain=settings.drain,
        drain_reason=settings.drain_reason,
        rotate_credential=settings.rotate_credential,
    )


def config_update(settings: Settings) -> stream_pb2.ConfigUpdate:
    """Return the same for AgentChannel."""
    return stream_pb2.ConfigUpdate(
        heartbeat_interval=settings.heartbeat_ms,
        config={
            "lease_duration": str(settings.lease_ms),
            "drain": _yes_or_no(settings.drain),
            "drain_reason": settings.drain_reason,
            "rotate_credential": _yes_or_no(settings.rotate_credential),
        },
    )


def _yes_or_no(value: bool) -> str:
    return "true" if value else "false"


def cancels_to(commands: Iterable[CancelCommand]) -> list[agent_pb2.TaskCancel]:
    """Return the step runs that an agent is to cancel."""
    return [agent_pb2.TaskCancel(step_run_id=str(one.step_run_id), reason=one.reason) for one in commands]


def facts_from(message: agent_pb2.RegisterRequest, address: str) -> AgentFacts:
    """Read what an agent says of itself; `os` and `arch` are labels too, unless it sets them itself.

    Raises:
        ValidationError: a label or the capacity has a fault.
    """
    faults = check_labels(message.labels)
    if not 0 <= message.max_concurrent_step_runs <= LARGEST_CAPACITY:
        faults.append(Fault("max_concurrent_step_runs", f"is 1 to {LARGEST_CAPACITY}"))
    for name in ("agent_name", "ip", "os", "arch", "version"):
        text = getattr(message, name)
        if len(text) > LONGEST_FACT or "\0" in text:
            faults.append(Fault(name, f"is at most {LONGEST_FACT} characters, none of them NUL"))
    if faults:
        raise ValidationError(faults)
    derived = {key: value for key, value in (("os", message.os), ("arch", message.arch)) if value}
    return AgentFacts(
        name=message.agent_name,
        ip=message.ip or address,
        os=message.os,
        arch=message.arch,
        version=message.version,
        capacity=message.max_concurrent_step_runs or 1,
        labels={**derived, **message.labels},
    )


def capacity_from(claimed: int) -> int | None:
    """Return the capacity that an agent names in a heartbeat, None for none.

    Raises:
        ValidationError: it is not a number of step runs.
    """
    if not 0 <= claimed <= LARGEST_CAPACITY:
        raise ValidationError.at("max_concurrent_step_runs", f"is 1 to {LARGEST_CAPACITY}")
    return claimed or None


def check_labels(labels: Mapping[str, str]) -> list[Fault]:
    """Return the faults of labels: their number, and the length of their names and values."""
    if len(labels) > LARGEST_LABELS:
        return [Fault("labels", f"{len(labels)} labels, more than {LARGEST_LABELS}")]
    return [
        Fault(f"labels[{key[:80]!r}]", "a label has a name of 1 to 128 and a value of at most 256 characters, no NUL")
        for key, value in labels.items()
        if not 0 < len(key) <= 128 or len(value) > 256 or "\0" in key + value
    ]


def agent_to(row: AgentRow) -> admin_pb2.AgentDetail:
    """Return an agent as it is listed."""
    return admin_pb2.AgentDetail(
        agent_id=str(row.id),
        name=row.name,
        status=AGENT_STATUS.to_proto(row.status),
        labels=dict(row.labels),
        max_concurrent_step_runs=row.capacity,
        running_step_runs_count=row.running,
        last_heartbeat=int(row.last_contact_at.timestamp()) if row.last_contact_at else 0,
        os=row.os,
        arch=row.arch,
        version=row.version,
        ip=row.ip,
        note=row.standing.note,
        claimed_labels=dict(row.claimed_labels),
        server_labels=dict(row.server_labels),
        metrics=dict(row.metrics),
        draining=row.standing.drained,
        disabled=row.standing.disabled,
        pending_approval=not row.standing.approved,
    )
