"""Definitions of pipelines between the contract and the domain, both ways.

What the contract has and this version does not carry out yet is a fault at its path, never silently left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_server.domain.definition import DEFAULT_STAGE, GitSource, JobSpec, PipelineSpec, StageSpec, StepSpec
from arcentra_server.domain.durations import format_duration
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.rpc.convert.fields import NOT_AVAILABLE, Findings

AnySelector = pipeline_pb2.AgentSelector | steprun_pb2.AgentSelector | agent_pb2.AgentSelector
"""One message, declared in each package that uses it."""

AnyExpression = pipeline_pb2.LabelExpression | steprun_pb2.LabelExpression | agent_pb2.LabelExpression

EXACT_INTEGERS = 2**53
"""Up to here every integer is a double, which is all that a Struct holds."""

NO_AUTH = "credentials of a source are not available in this version: use a repository that needs none"


def spec_from_proto(
    variables: Mapping[str, str],
    stages: Sequence[pipeline_pb2.Stage],
    jobs: Sequence[pipeline_pb2.Job],
    findings: Findings,
) -> PipelineSpec:
    """Read a definition, which has stages or jobs. That it has neither is left to `check_pipeline`."""
    if stages and jobs:
        findings.add("jobs", "give stages or jobs, not both")
    if jobs and not stages:
        return PipelineSpec((StageSpec(DEFAULT_STAGE, _jobs(jobs, "", findings)),), dict(variables), jobs_only=True)
    return PipelineSpec(
        tuple(_stage(stage, f"stages[{index}].", findings) for index, stage in enumerate(stages)), dict(variables)
    )


def check_triggers(triggers: Iterable[pipeline_pb2.Trigger], findings: Findings) -> None:
    """Note what is wrong with triggers. A manual one adds nothing: every pipeline can be triggered by a call."""
    for index, trigger in enumerate(triggers):
        path = f"triggers[{index}]"
        if trigger.type == pipeline_pb2.TRIGGER_TYPE_MANUAL:
            if trigger.options.fields:
                findings.add(f"{path}.options", "a manual trigger has none")
        elif trigger.type in (pipeline_pb2.TRIGGER_TYPE_CRON, pipeline_pb2.TRIGGER_TYPE_EVENT):
            name = pipeline_pb2.TriggerType.Name(trigger.type).removeprefix("TRIGGER_TYPE_")
            findings.add(f"{path}.type", f"{name} {NOT_AVAILABLE}")
        else:
            findings.add(f"{path}.type", f"{trigger.type} is not a known value" if trigger.type else "is required")


def step_from_proto(
    message: pipeline_pb2.Step | steprun_pb2.CreateStepRunRequest, name: str, prefix: str, findings: Findings
) -> StepSpec:
    """Read a step; `prefix` is the path of its fields, empty or with a dot at its end."""
    if message.when:
        findings.add(f"{prefix}when", NOT_AVAILABLE)
    selector = None
    if message.HasField("agent_selector"):
        selector = selector_from_proto(message.agent_selector, f"{prefix}agent_selector", findings)
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
    args = {key: _value(value) for key, value in struct.fields.items()}
    if holds_nul(args):
        findings.add(path, "args hold a NUL character")
    return args


def number(value: float) -> float | int:
    """Return an integer for a number that is one, so that `3` does not become `3.0` on its way."""
    return int(value) if value.is_integer() and abs(value) <= EXACT_INTEGERS else value


def holds_nul(value: Any) -> bool:
    """Answer whether any text in JSON data holds a NUL, which the database cannot store."""
    match value:
        case str():
            return "\0" in value
        case dict():
            return any("\0" in key or holds_nul(item) for key, item in value.items())
        case list():
            return any(holds_nul(item) for item in value)
    return False


def stages_to_proto(spec: PipelineSpec) -> list[pipeline_pb2.Stage]:
    """Return the stages of a definition that was written with stages, else nothing."""
    if spec.jobs_only:
        return []
    return [pipeline_pb2.Stage(name=stage.name, jobs=[_job_to(job) for job in stage.jobs]) for stage in spec.stages]


def jobs_to_proto(spec: PipelineSpec) -> list[pipeline_pb2.Job]:
    """Return the jobs of a definition that was written without stages, else nothing."""
    return [_job_to(job) for stage in spec.stages for job in stage.jobs] if spec.jobs_only else []


def write_selector(message: AnySelector, selector: Selector) -> None:
    """Write a selector into a message, where it is present afterwards even without terms."""
    message.SetInParent()
    for term in selector.terms:
        if term.operator is Operator.IN and len(term.values) == 1 and term.key not in message.match_labels:
            message.match_labels[term.key] = term.values[0]
        else:
            message.match_expressions.add(key=term.key, operator=term.operator.value, values=term.values)


def _stage(message: pipeline_pb2.Stage, prefix: str, findings: Findings) -> StageSpec:
    if message.approval.required:
        findings.add(f"{prefix}approval.required", NOT_AVAILABLE)
    return StageSpec(message.name, _jobs(message.jobs, prefix, findings))


def _jobs(messages: Iterable[pipeline_pb2.Job], prefix: str, findings: Findings) -> tuple[JobSpec, ...]:
    return tuple(_job(message, f"{prefix}jobs[{index}].", findings) for index, message in enumerate(messages))


def _job(message: pipeline_pb2.Job, prefix: str, findings: Findings) -> JobSpec:
    unavailable = {
        "concurrency": bool(message.concurrency),
        "approval.required": message.approval.required,
        "target": message.HasField("target"),
        "notify": message.HasField("notify"),
    }
    for name, is_set in unavailable.items():
        if is_set:
            findings.add(prefix + name, NOT_AVAILABLE)
    selector = None
    if message.HasField("agent_selector"):
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
        source=_source(message.source, f"{prefix}source.", findings) if message.HasField("source") else None,
        selector=selector,
    )


def _source(message: pipeline_pb2.Source, prefix: str, findings: Findings) -> GitSource:
    if message.type != pipeline_pb2.SOURCE_TYPE_GIT:
        findings.add(f"{prefix}type", f"{message.type} is not a known value" if message.type else "is required")
    if message.HasField("auth"):
        findings.add(f"{prefix}auth", NO_AUTH)
    return GitSource(message.repo, message.branch)


def _value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            return number(value.number_value)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return {key: _value(item) for key, item in value.struct_value.fields.items()}
        case "list_value":
            return [_value(item) for item in value.list_value.values]
    return None


def _job_to(job: JobSpec) -> pipeline_pb2.Job:
    message = pipeline_pb2.Job(
        name=job.name,
        description=job.description,
        timeout=format_duration(job.timeout_ms) if job.timeout_ms is not None else "",
        env=job.env,
        steps=[_step_to(step) for step in job.steps],
    )
    if job.source is not None:
        source = pipeline_pb2.Source(type=pipeline_pb2.SOURCE_TYPE_GIT, repo=job.source.repo, branch=job.source.branch)
        message.source.CopyFrom(source)
    if job.selector is not None:
        write_selector(message.agent_selector, job.selector)
    return message


def _step_to(step: StepSpec) -> pipeline_pb2.Step:
    message = pipeline_pb2.Step(
        name=step.name,
        uses=step.uses,
        action=step.action,
        env=step.env,
        continue_on_error=step.continue_on_error,
        timeout=format_duration(step.timeout_ms) if step.timeout_ms is not None else "",
        run_on_agent=step.run_on_agent,
    )
    if step.args:
        message.args.update(step.args)
    if step.selector is not None:
        write_selector(message.agent_selector, step.selector)
    return message
