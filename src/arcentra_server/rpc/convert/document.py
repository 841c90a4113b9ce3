"""A pipeline as a document, YAML or JSON: the text that people keep in their repositories, as a new pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
from arcentra_server.domain.definition_checks import check_pipeline
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.field_checks import check_name
from arcentra_server.domain.selectors import Selector, Term
from arcentra_server.rpc.convert.definition import keeping_days, label_terms
from arcentra_server.rpc.convert.document_fields import Fields
from arcentra_server.rpc.convert.document_reader import Reader
from arcentra_server.rpc.convert.part_reader import gate_of, trigger_of
from arcentra_server.rpc.convert.shapes import OPTIONS, PIPELINE
from arcentra_server.rpc.convert.yaml_nodes import FLOAT, INT, Node, PlacedFault, Scalar
from arcentra_server.rpc.convert.yaml_nodes import Sequence as List
from arcentra_server.services.pipelines import NewPipeline


@dataclass(frozen=True, slots=True)
class Document:
    """What a document says, with all its faults; `placed` answers a fault of the definition with its place."""

    new: NewPipeline
    faults: tuple[PlacedFault, ...]
    placed: Callable[[Fault], PlacedFault]


def read_pipeline(text: str) -> NewPipeline:
    """Read a document of at most 1 MiB. It is CPU work: about a second for the largest.

    Raises:
        ValidationError: the document has faults; all of them are named, each with its path, line and column.
    """
    reader = Reader(text)
    new, checked = _read(reader)
    reader.finish(checked)
    return new


def examine(text: str) -> Document:
    """Read a document, whatever its faults.

    Raises:
        ValidationError: it is not YAML, or passes a limit of documents.
    """
    reader = Reader(text)
    new, checked = _read(reader)
    return Document(new, tuple(reader.all_faults(checked)), reader.placed)


def _read(reader: Reader) -> tuple[NewPipeline, list[Fault]]:
    fields = Fields(reader, reader.root, "", PIPELINE)
    new = NewPipeline(
        spec=_spec(fields),
        namespace=fields.text("namespace"),
        name=fields.text("name"),
        description=fields.text("description"),
        enabled=fields.flag("enabled", default=True),
        checked=True,
    )
    faults = check_name(new.name, "name") + (check_name(new.namespace, "namespace") if new.namespace else [])
    return new, faults + check_pipeline(new.spec)


def _spec(fields: Fields) -> PipelineSpec:
    if "stages" in fields and "jobs" in fields:
        fields.findings.add(fields.path("jobs"), "give stages or jobs, not both")
    jobs_only = "jobs" in fields and "stages" not in fields
    stages = (StageSpec(DEFAULT_STAGE, _jobs(fields)),) if jobs_only else tuple(map(_stage, fields.each("stages")))
    return PipelineSpec(
        stages=stages,
        variables=fields.texts("variables"),
        jobs_only=jobs_only,
        timeout_ms=fields.duration("timeout"),
        triggers=tuple(map(_trigger, fields.each("triggers"))),
    )


def _stage(fields: Fields) -> StageSpec:
    return StageSpec(fields.text("name"), _jobs(fields), _approval(fields.one("approval")))


def _jobs(fields: Fields) -> tuple[JobSpec, ...]:
    return tuple(map(_job, fields.each("jobs")))


def _job(fields: Fields) -> JobSpec:
    return JobSpec(
        name=fields.text("name"),
        steps=tuple(map(_step, fields.each("steps"))),
        description=fields.text("description"),
        env=fields.texts("env"),
        timeout_ms=fields.duration("timeout"),
        source=_source(fields.one("source")),
        selector=_selector(fields.one("agent_selector")),
        depends_on=tuple(fields.list_of_text("depends_on")),
        when=fields.text("when"),
        retry=_retry(fields.one("retry")),
        priority=fields.number("priority"),
        allow_failure=fields.flag("allow_failure"),
        matrix=_matrix(fields),
        outputs=fields.texts("outputs"),
        concurrency=fields.text("concurrency"),
        concurrency_limit=fields.number("concurrency_limit", default=1),
        cancel_in_progress=fields.flag("cancel_in_progress"),
        approval=_approval(fields.one("approval")),
        target=_target(fields.one("target")),
        notify=_notify(fields.one("notify")),
    )


def _step(fields: Fields) -> StepSpec:
    return StepSpec(
        name=fields.text("name"),
        uses=fields.text("uses"),
        action=fields.text("action"),
        args=fields.data("args"),
        env=fields.texts("env"),
        continue_on_error=fields.flag("continue_on_error"),
        timeout_ms=fields.duration("timeout"),
        selector=_selector(fields.one("agent_selector")),
        run_on_agent=fields.flag("run_on_agent", default=True),
        when=fields.text("when"),
        image=fields.text("image"),
        artifacts=tuple(map(_artifact, fields.each("artifacts"))),
        secrets=_secrets(fields),
    )


def _artifact(fields: Fields) -> ArtifactSpec:
    return ArtifactSpec(
        name=fields.text("name"),
        path=fields.text("path"),
        destination=fields.text("destination"),
        expire_days=keeping_days(fields.flag("expire", default=True), fields.number("expire_days")),
    )


def _secrets(fields: Fields) -> dict[str, str]:
    """Read secrets: names, each also that of its variable, or variables with names."""
    if not isinstance(fields.node("secrets"), List):
        return fields.texts("secrets")
    secrets: dict[str, str] = {}
    for node, path in fields.items("secrets"):
        name = fields.findings.text_at(node, path)
        if name in secrets:
            fields.findings.add(path, f"{name[:80]!r} is given twice")
        secrets[name] = name
        fields.findings.visit(node, f"{fields.path('secrets')}[{name[:80]!r}]")
    return secrets


def _source(fields: Fields | None) -> GitSource | None:
    if fields is None:
        return None
    _one_of(fields, "type")
    auth = fields.one("auth")
    return GitSource(
        repo=fields.text("repo"),
        branch=fields.text("branch"),
        auth=SourceAuth(auth.text("username"), auth.text("password"), auth.text("token")) if auth else None,
        depth=fields.number("depth"),
        submodules=fields.flag("submodules"),
    )


def _selector(fields: Fields | None) -> Selector | None:
    if fields is None:
        return None
    expressions = tuple(_term(expression) for expression in fields.each("match_expressions"))
    return Selector((*expressions, *label_terms(fields.texts("match_labels"), fields.base, fields.findings)))


def _term(fields: Fields) -> Term:
    return fields.findings.term(fields.text("key"), fields.text("operator"), fields.list_of_text("values"), fields.base)


def _retry(fields: Fields | None) -> RetrySpec | None:
    if fields is None:
        return None
    return RetrySpec(
        max_attempts=fields.number("max_attempts"),
        delay_ms=fields.duration("delay") or 0,
        on=tuple(fields.list_of_text("on")),
    )


def _matrix(fields: Fields) -> MatrixSpec | None:
    """Read a matrix, whose keys are the names of its axes but for two."""
    matrix = fields.node("matrix")
    if matrix is None:
        return None
    axes: list[tuple[str, tuple[Any, ...]]] = []
    cells: dict[str, tuple[dict[str, Any], ...]] = {}
    reader, base = fields.findings, fields.path("matrix")
    for name, node in reader.free_pairs(matrix, base):
        path = f"{base}.{name[:80]}"
        reader.visit(node, path)
        if name in {"include", "exclude"}:
            cells[name] = tuple(_cell(item, where, reader) for item, where in reader.items(node, path))
        else:
            axes.append((name, tuple(_cell_value(item, where, reader) for item, where in reader.items(node, path))))
    return MatrixSpec(tuple(axes), cells.get("include", ()), cells.get("exclude", ()))


def _cell(node: Node, path: str, reader: Reader) -> dict[str, Any]:
    cell = {}
    for key, value in reader.free_pairs(node, path):
        where = f"{path}.{key[:80]}"
        reader.visit(value, where)
        cell[key] = _cell_value(value, where, reader)
    return cell


def _cell_value(node: Node, path: str, reader: Reader) -> Any:
    value = reader.value(node, path) if isinstance(node, Scalar) else None
    if value is None:
        reader.expected("a text, a number, true or false", node, path)
        return ""
    if isinstance(node, Scalar) and node.tag in {INT, FLOAT} and str(value) != node.value:
        # `3.10` is the number 3.1, and few who write it mean that.
        reader.add(path, f"{node.value[:64]!r} is read as the number {value}: write it in quotes")
    return value


def _approval(fields: Fields | None) -> ApprovalSpec | None:
    """Read a gate: its rules beside each other, or in `args` as the contract has them."""
    if fields is None:
        return None
    _one_of(fields, "type", needed=False)
    _one_of(fields, "plugin", needed=False)
    rules = fields.one("args")
    if rules is not None:
        for name in rules.shape.keys:
            if name in fields:
                fields.findings.add(fields.path(name), "stands beside `args`: write all rules in one place")
        fields.findings.move(fields.base, rules.base)
    gate = gate_of(rules or fields)
    return gate if fields.flag("required", default=True) else None


def _target(fields: Fields | None) -> TargetSpec | None:
    return TargetSpec(fields.text("type"), fields.data("config")) if fields is not None else None


def _notify(fields: Fields | None) -> NotifySpec | None:
    if fields is None:
        return None
    return NotifySpec(_notification(fields.one("on_success")), _notification(fields.one("on_failure")))


def _notification(fields: Fields | None) -> NotificationSpec | None:
    if fields is None:
        return None
    return NotificationSpec(fields.text("plugin"), fields.text("action"), fields.data("args"))


def _trigger(fields: Fields) -> TriggerSpec:
    """Read a trigger: its options beside its type, or in `options` as the contract has them."""
    kind = _one_of(fields, "type")
    if kind not in OPTIONS:
        return ManualTrigger()
    known = OPTIONS[kind]
    for name in fields.names():
        if name not in {"type", "options", *known.keys}:
            fields.findings.add(fields.path(name), f"is not for {kind} triggers")
    options = fields.one("options", known)
    if options is not None:
        for name in known.keys:
            if name in fields:
                fields.findings.add(fields.path(name), "stands beside `options`: write all of them in one place")
        fields.findings.move(fields.base, options.base)
    return trigger_of(kind, options or fields)


def _one_of(fields: Fields, name: str, *, needed: bool = True) -> str:
    """Return which of the texts that a key may have it has, written in whatever case; empty for another."""
    known = fields.shape.keys[name].one_of
    text = fields.text(name)
    if text.lower() in known:
        return text.lower()
    if (text or needed) and not fields.findings.is_replaced(fields.path(name)):
        wanted = f"write {', '.join(known[:-1])} or {known[-1]}" if len(known) > 1 else f"write {known[0]}"
        what = f"{text[:64]!r} is not known: {wanted}" if text else f"is required: {wanted}"
        fields.findings.add(fields.path(name), what)
    return ""
