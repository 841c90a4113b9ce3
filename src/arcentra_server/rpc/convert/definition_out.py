"""Definitions of pipelines from the domain to the contract; `definition` has the way in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.domain.definition import (
    ApprovalSpec,
    ArtifactSpec,
    CatchUp,
    CronTrigger,
    EventTrigger,
    GitSource,
    JobSpec,
    MatrixSpec,
    NotificationSpec,
    PipelineSpec,
    RetrySpec,
    StepSpec,
    TriggerSpec,
)
from arcentra_server.domain.durations import format_duration
from arcentra_server.domain.selectors import Operator, Selector
from arcentra_server.rpc.convert.definition import AnySelector


def stages_to_proto(spec: PipelineSpec) -> list[pipeline_pb2.Stage]:
    """Return the stages of a definition that was written with stages, else nothing."""
    if spec.jobs_only:
        return []
    return [
        pipeline_pb2.Stage(
            name=stage.name,
            jobs=[_job(job) for job in stage.jobs],
            approval=_approval(stage.approval) if stage.approval else None,
        )
        for stage in spec.stages
    ]


def jobs_to_proto(spec: PipelineSpec) -> list[pipeline_pb2.Job]:
    """Return the jobs of a definition that was written without stages, else nothing."""
    return [_job(job) for stage in spec.stages for job in stage.jobs] if spec.jobs_only else []


def triggers_to_proto(triggers: Sequence[TriggerSpec]) -> list[pipeline_pb2.Trigger]:
    """Return the triggers of a definition."""
    return [_trigger(trigger) for trigger in triggers]


def timeout_text(milliseconds: int | None) -> str:
    """Return a time limit as the contract has it, empty for none."""
    return format_duration(milliseconds) if milliseconds is not None else ""


def write_selector(message: AnySelector, selector: Selector) -> None:
    """Write a selector into a message, where it is present afterwards even without terms."""
    message.SetInParent()
    for term in selector.terms:
        if term.operator is Operator.IN and len(term.values) == 1 and term.key not in message.match_labels:
            message.match_labels[term.key] = term.values[0]
        else:
            message.match_expressions.add(key=term.key, operator=term.operator.value, values=term.values)


def _trigger(trigger: TriggerSpec) -> pipeline_pb2.Trigger:
    if isinstance(trigger, CronTrigger):
        options: dict[str, Any] = {
            "schedule": trigger.schedule,
            "time_zone": trigger.time_zone,
            "catch_up": trigger.catch_up.value if trigger.catch_up is not CatchUp.NONE else "",
            "branch": trigger.branch,
        }
        kind = pipeline_pb2.TRIGGER_TYPE_CRON
    elif isinstance(trigger, EventTrigger):
        options = {
            "events": list(trigger.events),
            "branches": list(trigger.branches),
            "tags": list(trigger.tags),
            "paths": list(trigger.paths),
            "repos": list(trigger.repos),
        }
        kind = pipeline_pb2.TRIGGER_TYPE_EVENT
    else:
        return pipeline_pb2.Trigger(type=pipeline_pb2.TRIGGER_TYPE_MANUAL)
    options["variables"] = dict(trigger.variables)
    return pipeline_pb2.Trigger(type=kind, options=_struct({key: value for key, value in options.items() if value}))


def _job(job: JobSpec) -> pipeline_pb2.Job:
    message = pipeline_pb2.Job(
        name=job.name,
        description=job.description,
        timeout=timeout_text(job.timeout_ms),
        env=job.env,
        steps=[_step(step) for step in job.steps],
        depends_on=job.depends_on,
        when=job.when,
        priority=job.priority,
        allow_failure=job.allow_failure,
        outputs=job.outputs,
        concurrency=job.concurrency,
        concurrency_limit=job.concurrency_limit if job.concurrency_limit != 1 else 0,
        cancel_in_progress=job.cancel_in_progress,
        source=_source(job.source) if job.source else None,
        retry=_retry(job.retry) if job.retry else None,
        matrix=_matrix(job.matrix) if job.matrix else None,
        approval=_approval(job.approval) if job.approval else None,
    )
    if job.selector is not None:
        write_selector(message.agent_selector, job.selector)
    if job.target is not None:
        message.target.CopyFrom(pipeline_pb2.Target(type=job.target.type, config=_struct(job.target.config)))
    if job.notify is not None:
        message.notify.SetInParent()
        if job.notify.on_success is not None:
            message.notify.on_success.CopyFrom(_notification(job.notify.on_success))
        if job.notify.on_failure is not None:
            message.notify.on_failure.CopyFrom(_notification(job.notify.on_failure))
    return message


def _step(step: StepSpec) -> pipeline_pb2.Step:
    message = pipeline_pb2.Step(
        name=step.name,
        uses=step.uses,
        action=step.action,
        env=step.env,
        continue_on_error=step.continue_on_error,
        timeout=timeout_text(step.timeout_ms),
        run_on_agent=step.run_on_agent,
        when=step.when,
        image=step.image,
        secrets=step.secrets,
        artifacts=[_artifact(artifact) for artifact in step.artifacts],
    )
    if step.args:
        message.args.update(step.args)
    if step.selector is not None:
        write_selector(message.agent_selector, step.selector)
    return message


def _artifact(artifact: ArtifactSpec) -> pipeline_pb2.ArtifactConfig:
    return pipeline_pb2.ArtifactConfig(
        name=artifact.name,
        path=artifact.path,
        destination=artifact.destination,
        expire=artifact.expire_days is not None,
        expire_days=artifact.expire_days or 0,
    )


def _source(source: GitSource) -> pipeline_pb2.Source:
    message = pipeline_pb2.Source(
        type=pipeline_pb2.SOURCE_TYPE_GIT,
        repo=source.repo,
        branch=source.branch,
        depth=source.depth,
        submodules=source.submodules,
    )
    if source.auth is not None:
        message.auth.SetInParent()
        message.auth.MergeFrom(
            pipeline_pb2.SourceAuth(
                username=source.auth.username, password=source.auth.password, token=source.auth.token
            )
        )
    return message


def _retry(retry: RetrySpec) -> pipeline_pb2.Retry:
    delay = format_duration(retry.delay_ms) if retry.delay_ms else ""
    return pipeline_pb2.Retry(max_attempts=retry.max_attempts, delay=delay, on=retry.on)


def _matrix(matrix: MatrixSpec) -> pipeline_pb2.Matrix:
    message = pipeline_pb2.Matrix(
        include=[_struct(cell) for cell in matrix.include], exclude=[_struct(cell) for cell in matrix.exclude]
    )
    for name, values in matrix.axes:
        # A list of values knows how each is written; a value by itself does not.
        items = struct_pb2.ListValue()
        items.extend(values)
        message.axes.add(name=name, values=items.values)
    return message


def _approval(approval: ApprovalSpec) -> pipeline_pb2.Approval:
    rules = {
        "approvers": list(approval.approvers) or None,
        "needed": approval.needed if approval.needed != 1 else None,
        "separation": approval.separation or None,
        "timeout": timeout_text(approval.timeout_ms) or None,
    }
    return pipeline_pb2.Approval(
        required=True,
        type=pipeline_pb2.APPROVAL_TYPE_MANUAL,
        args=_struct({key: value for key, value in rules.items() if value is not None}),
    )


def _notification(notification: NotificationSpec) -> pipeline_pb2.Notification:
    return pipeline_pb2.Notification(
        plugin=notification.plugin, action=notification.action, args=_struct(notification.args)
    )


def _struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct
