"""A pipeline as a document, YAML or JSON: the text that people keep in their repositories, as a new pipeline."""

from __future__ import annotations

from arcentra_server.domain.definition import (
    DEFAULT_STAGE,
    GitSource,
    JobSpec,
    PipelineSpec,
    StageSpec,
    StepSpec,
    check_name,
    check_pipeline,
)
from arcentra_server.domain.selectors import Selector, Term
from arcentra_server.domain.states import TriggerType
from arcentra_server.rpc.convert.definition import NO_AUTH, label_terms
from arcentra_server.rpc.convert.document_reader import Fields, Reader
from arcentra_server.rpc.convert.fields import NOT_AVAILABLE
from arcentra_server.services.pipelines import NewPipeline

_PIPELINE = ("name", "description", "enabled", "namespace", "variables", "stages", "jobs", "triggers")
_STAGE = ("name", "jobs")
_STAGE_LATER = ("approval",)
_JOB = ("name", "description", "timeout", "env", "agent_selector", "source", "steps")
_JOB_LATER = ("concurrency", "approval", "target", "notify")
_STEP = (
    "name",
    "uses",
    "action",
    "args",
    "env",
    "timeout",
    "continue_on_error",
    "agent_selector",
    "run_on_agent",
)
_STEP_LATER = ("when",)
_SOURCE = ("type", "repo", "branch", "auth")
_SELECTOR = ("match_labels", "match_expressions")
_EXPRESSION = ("key", "operator", "values")
_TRIGGER = ("type", "options")


def read_pipeline(text: str) -> NewPipeline:
    """Read a document of at most 1 MiB. It is CPU work: up to some seconds for the largest.

    Raises:
        ValidationError: the document has faults; all of them are named, each with its path, line and column.
    """
    reader = Reader(text)
    fields = Fields(reader, reader.root, "", _PIPELINE)
    new = NewPipeline(
        spec=_spec(fields),
        namespace=fields.text("namespace"),
        name=fields.text("name"),
        description=fields.text("description"),
        enabled=fields.flag("enabled", default=True),
    )
    _check_triggers(fields)
    faults = check_name(new.name, "name") + (check_name(new.namespace, "namespace") if new.namespace else [])
    reader.finish(faults + check_pipeline(new.spec))
    return new


def _spec(fields: Fields) -> PipelineSpec:
    variables = fields.texts("variables")
    if "stages" in fields and "jobs" in fields:
        fields.reader.add(fields.path("jobs"), "give stages or jobs, not both")
    if "jobs" in fields and "stages" not in fields:
        return PipelineSpec((StageSpec(DEFAULT_STAGE, _jobs(fields)),), variables, jobs_only=True)
    stages = (StageSpec(stage.text("name"), _jobs(stage)) for stage in fields.each("stages", _STAGE, _STAGE_LATER))
    return PipelineSpec(tuple(stages), variables)


def _jobs(fields: Fields) -> tuple[JobSpec, ...]:
    return tuple(_job(job) for job in fields.each("jobs", _JOB, _JOB_LATER))


def _job(fields: Fields) -> JobSpec:
    return JobSpec(
        name=fields.text("name"),
        steps=tuple(_step(step) for step in fields.each("steps", _STEP, _STEP_LATER)),
        description=fields.text("description"),
        env=fields.texts("env"),
        timeout_ms=fields.duration("timeout"),
        source=_source(fields.one("source", _SOURCE)),
        selector=_selector(fields.one("agent_selector", _SELECTOR)),
    )


def _step(fields: Fields) -> StepSpec:
    return StepSpec(
        name=fields.text("name"),
        uses=fields.text("uses"),
        action=fields.text("action"),
        args=fields.data("args"),
        env=fields.texts("env"),
        continue_on_error=fields.flag("continue_on_error", default=False),
        timeout_ms=fields.duration("timeout"),
        selector=_selector(fields.one("agent_selector", _SELECTOR)),
        run_on_agent=fields.flag("run_on_agent", default=True),
    )


def _source(fields: Fields | None) -> GitSource | None:
    if fields is None:
        return None
    kind = fields.text("type")
    if kind.lower() != "git":
        fields.reader.add(fields.path("type"), _wrong_kind(kind, "git"))
    if "auth" in fields:
        fields.reader.add(fields.path("auth"), NO_AUTH)
    return GitSource(fields.text("repo"), fields.text("branch"))


def _selector(fields: Fields | None) -> Selector | None:
    if fields is None:
        return None
    expressions = tuple(_term(expression) for expression in fields.each("match_expressions", _EXPRESSION))
    return Selector((*expressions, *label_terms(fields.texts("match_labels"), fields.base, fields.reader)))


def _term(fields: Fields) -> Term:
    return fields.reader.term(fields.text("key"), fields.text("operator"), fields.list_of_text("values"), fields.base)


def _wrong_kind(kind: str, wanted: str) -> str:
    return f"{kind[:64]!r} is not known: write {wanted}" if kind else f"is required: write {wanted}"


def _check_triggers(fields: Fields) -> None:
    """A manual trigger adds nothing: every pipeline can be triggered by a call."""
    for trigger in fields.each("triggers", _TRIGGER):
        kind = trigger.text("type")
        name = kind.upper()
        if name not in TriggerType.__members__:
            trigger.reader.add(trigger.path("type"), _wrong_kind(kind, "manual"))
        elif name != TriggerType.MANUAL:
            trigger.reader.add(trigger.path("type"), f"{name} {NOT_AVAILABLE}")
        elif trigger.data("options"):
            trigger.reader.add(trigger.path("options"), "a manual trigger has none")
