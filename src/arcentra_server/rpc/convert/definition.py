"""Definitions of pipelines from the contract to the domain; `definition_out` has the way back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_server.domain.definition import (
    DEFAULT_STAGE,
    ApprovalSpec,
    ArtifactSpec,
    GitSource,
    JobSpec,
    ManualTrigger,
    MatrixSpec,
    NotificationSpec,
    NotifySpec,
    PipelineSpec,
    RetrySpec,
    SourceAuth,
    StageSpec,
    StepSpec,
    TargetSpec,
    TriggerSpec,
)
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.rpc.convert.fields import Findings
from arcentra_server.rpc.convert.part_reader import gate_of, trigger_of
from arcentra_server.rpc.convert.shapes import GATE, OPTIONS
from arcentra_server.rpc.convert.struct_fields import StructFields, check_nul, plain, plain_struct

AnySelector = pipeline_pb2.AgentSelector | steprun_pb2.AgentSelector | agent_pb2.AgentSelector
"""One message, declared in each package that uses it."""

AnyExpression = pipeline_pb2.LabelExpression | steprun_pb2.LabelExpression | agent_pb2.LabelExpression
AnyArtifact = pipeline_pb2.ArtifactConfig | steprun_pb2.ArtifactConfig

TRIGGERS = {
    pipeline_pb2.TRIGGER_TYPE_MANUAL: "manual",
    pipeline_pb2.TRIGGER_TYPE_CRON: "cron",
    pipeline_pb2.TRIGGER_TYPE_EVENT: "event",
}


def spec_from_proto(
    request: pipeline_pb2.CreatePipelineRequest | pipeline_pb2.UpdatePipelineRequest, findings: Findings
) -> PipelineSpec:
    """Read a definition, which has stages or jobs. That it has neither is left to `check_pipeline`."""
    if request.stages and request.jobs:
        findings.add("jobs", "give stages or jobs, not both")
    jobs_only = bool(request.jobs) and not request.stages
    if jobs_only:
        stages: tuple[StageSpec, ...] = (StageSpec(DEFAULT_STAGE, _jobs(request.jobs, "", findings)),)
    else:
        stages = tuple(_stage(stage, f"stages[{index}].", findings) for index, stage in enumerate(request.stages))
    return PipelineSpec(
        stages=stages,
        variables=dict(request.variables),
        jobs_only=jobs_only,
        timeout_ms=findings.duration(request.timeout, "timeout"),
        triggers=tuple(
            _trigger(trigger, f"triggers[{index}]", findings) for index, trigger in enumerate(request.triggers)
        ),
    )


def step_from_proto(
    message: pipeline_pb2.Step | steprun_pb2.CreateStepRunRequest, name: str, prefix: str, findings: Findings
) -> StepSpec:
    """Read a step; `prefix` is the path of its fields, empty or with a dot at its end."""
    selector = None
    if message.HasField("agent_selector"):
        selector = selector_from_proto(message.agent_selector, f"{prefix}agent_selector", findings)
    artifacts: Sequence[AnyArtifact] = message.artifacts
    return StepSpec(
        name=name,
        uses=message.uses,
        action=findings.text(message.action, f"{prefix}action"),
        args=args_from_proto(message.args, f"{prefix}args", findings),
        env=dict(message.env),
        continue_on_error=message.continue_on_error,
        timeout_ms=findings.duration(message.timeout, f"{prefix}timeout"),
        selector=selector,
        run_on_agent=message.run_on_agent,
        when=findings.text(message.when, f"{prefix}when"),
        image=findings.text(message.image, f"{prefix}image"),
        artifacts=tuple(_artifact(artifact) for artifact in artifacts),
        secrets=dict(message.secrets),
    )


def selector_from_proto(message: AnySelector, path: str, findings: Findings) -> Selector:
    """Read a selector: its expressions in their order, so that later faults name them, then the labels to match."""
    expressions: Sequence[AnyExpression] = message.match_expressions
    terms = [
        findings.term(expression.key, expression.operator, expression.values, f"{path}.match_expressions[{index}]")
        for index, expression in enumerate(expressions)
    ]
    return Selector((*terms, *label_terms(message.match_labels, path, findings)))


def label_terms(labels: Mapping[str, str], path: str, findings: Findings) -> list[Term]:
    """Return the conditions that `match_labels` stands for."""
    if "" in labels:
        findings.add(f"{path}.match_labels", "a label name is needed")
    return [Term(key, Operator.IN, (value,)) for key, value in sorted(labels.items()) if key]


def args_from_proto(struct: struct_pb2.Struct, path: str, findings: Findings) -> dict[str, Any]:
    """Read free-form arguments; their size is for `check_args` to judge."""
    args = plain_struct(struct)
    check_nul(args, path, findings)
    return args


def keeping_days(expire: bool, days: int) -> int | None:
    """Return how long an artifact is kept, None for as long as the server has it."""
    return days if expire and days else None


def _trigger(message: pipeline_pb2.Trigger, path: str, findings: Findings) -> TriggerSpec:
    kind = TRIGGERS.get(message.type)
    if kind is None:
        findings.add(f"{path}.type", f"{message.type} is not a known value" if message.type else "is required")
        return ManualTrigger()
    return trigger_of(kind, StructFields(findings, message.options, f"{path}.options", OPTIONS[kind]))


def _stage(message: pipeline_pb2.Stage, prefix: str, findings: Findings) -> StageSpec:
    return StageSpec(
        message.name,
        _jobs(message.jobs, prefix, findings),
        _approval(message.approval, f"{prefix}approval", findings) if message.HasField("approval") else None,
    )


def _jobs(messages: Iterable[pipeline_pb2.Job], prefix: str, findings: Findings) -> tuple[JobSpec, ...]:
    return tuple(_job(message, f"{prefix}jobs[{index}].", findings) for index, message in enumerate(messages))


def _job(message: pipeline_pb2.Job, prefix: str, findings: Findings) -> JobSpec:
    has = message.HasField
    selector = None
    if has("agent_selector"):
        selector = selector_from_proto(message.agent_selector, f"{prefix}agent_selector", findings)
    return JobSpec(
        name=message.name,
        steps=tuple(
            step_from_proto(step, step.name, f"{prefix}steps[{index}].", findings)
            for index, step in enumerate(message.steps)
        ),
        description=findings.text(message.description, f"{prefix}description"),
        env=dict(message.env),
        timeout_ms=findings.duration(message.timeout, f"{prefix}timeout"),
        source=_source(message.source, f"{prefix}source.", findings) if has("source") else None,
        selector=selector,
        depends_on=tuple(message.depends_on),
        when=findings.text(message.when, f"{prefix}when"),
        retry=_retry(message.retry, f"{prefix}retry.", findings) if has("retry") else None,
        priority=message.priority,
        allow_failure=message.allow_failure,
        matrix=_matrix(message.matrix, f"{prefix}matrix", findings) if has("matrix") else None,
        outputs=dict(message.outputs),
        concurrency=message.concurrency,
        concurrency_limit=message.concurrency_limit or 1,
        cancel_in_progress=message.cancel_in_progress,
        approval=_approval(message.approval, f"{prefix}approval", findings) if has("approval") else None,
        target=_target(message.target, f"{prefix}target.", findings) if has("target") else None,
        notify=_notify(message.notify, f"{prefix}notify.", findings) if has("notify") else None,
    )


def _source(message: pipeline_pb2.Source, prefix: str, findings: Findings) -> GitSource:
    if message.type != pipeline_pb2.SOURCE_TYPE_GIT:
        findings.add(f"{prefix}type", f"{message.type} is not a known value" if message.type else "is required")
    auth = None
    if message.HasField("auth"):
        auth = SourceAuth(message.auth.username, message.auth.password, message.auth.token)
    return GitSource(message.repo, message.branch, auth, message.depth, message.submodules)


def _retry(message: pipeline_pb2.Retry, prefix: str, findings: Findings) -> RetrySpec:
    delay_ms = findings.duration(message.delay, f"{prefix}delay") or 0
    return RetrySpec(message.max_attempts, delay_ms, tuple(message.on))


def _matrix(message: pipeline_pb2.Matrix, path: str, findings: Findings) -> MatrixSpec:
    axes = tuple(
        (
            axis.name,
            tuple(
                _cell_value(value, f"{path}.axes[{index}].values[{place}]", findings)
                for place, value in enumerate(axis.values)
            ),
        )
        for index, axis in enumerate(message.axes)
    )
    return MatrixSpec(
        axes, _cells(message.include, f"{path}.include", findings), _cells(message.exclude, f"{path}.exclude", findings)
    )


def _cells(structs: Iterable[struct_pb2.Struct], path: str, findings: Findings) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            key: _cell_value(value, f"{path}[{index}].{key[:80]}", findings)
            for key, value in sorted(struct.fields.items())
        }
        for index, struct in enumerate(structs)
    )


def _cell_value(value: struct_pb2.Value, path: str, findings: Findings) -> Any:
    found = plain(value)
    if isinstance(found, (str, int, float)):
        return found
    findings.add(path, "expected a text, a number, true or false")
    return ""


def _approval(message: pipeline_pb2.Approval, path: str, findings: Findings) -> ApprovalSpec | None:
    if message.type not in {pipeline_pb2.APPROVAL_TYPE_UNSPECIFIED, pipeline_pb2.APPROVAL_TYPE_MANUAL}:
        findings.add(f"{path}.type", f"{message.type} is not a known value")
    if message.plugin not in {"", "manual"}:
        findings.add(f"{path}.plugin", f"{message.plugin[:64]!r} is not known: write manual")
    gate = gate_of(StructFields(findings, message.args, f"{path}.args", GATE))
    return gate if message.required else None


def _target(message: pipeline_pb2.Target, prefix: str, findings: Findings) -> TargetSpec:
    return TargetSpec(message.type, args_from_proto(message.config, f"{prefix}config", findings))


def _notify(message: pipeline_pb2.Notify, prefix: str, findings: Findings) -> NotifySpec:
    def notification(name: str, part: pipeline_pb2.Notification) -> NotificationSpec | None:
        if not message.HasField("on_success" if name == "on_success" else "on_failure"):
            return None
        args = args_from_proto(part.args, f"{prefix}{name}.args", findings)
        return NotificationSpec(part.plugin, part.action, args)

    return NotifySpec(notification("on_success", message.on_success), notification("on_failure", message.on_failure))


def _artifact(message: AnyArtifact) -> ArtifactSpec:
    days = keeping_days(message.expire, message.expire_days)
    return ArtifactSpec(message.name, message.path, message.destination, days)
