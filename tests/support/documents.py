"""Write definitions as documents: the way back from what the server reads, in several styles."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arcentra_server.domain.definition import (
    ApprovalSpec,
    CatchUp,
    CronTrigger,
    EventTrigger,
    JobSpec,
    MatrixSpec,
    NotificationSpec,
    PipelineSpec,
    StepSpec,
    TriggerSpec,
)
from arcentra_server.domain.durations import format_duration
from arcentra_server.domain.selectors import Selector
from arcentra_server.rpc.convert.shapes import camel

_PLAIN_KEY = re.compile(r"(?!(?:null|true|false)$)[A-Za-z_][A-Za-z0-9_]*", re.IGNORECASE)
_BLOCK_TEXT = re.compile(r"(?:[!-~][ -~]*\n)+")


@dataclass(frozen=True)
class Style:
    """How a document is written. `contract`: gates and triggers as the API has them; `as_json`: JSON, else YAML."""

    camel: bool = False
    contract: bool = False
    as_json: bool = False


PLAIN = Style()
STYLES = [PLAIN, Style(camel=True), Style(contract=True), Style(as_json=True), Style(True, True, True)]


def document_of(spec: PipelineSpec, style: Style = PLAIN, *, name: str = "a") -> str:
    """Return the text of a document that is read as this definition."""
    data = data_of(spec, style, name=name)
    return json.dumps(data, indent=2) if style.as_json else yaml_of(data)


def data_of(spec: PipelineSpec, style: Style = PLAIN, *, name: str = "a") -> dict[str, Any]:
    """Return what a document holds."""
    write = _Writer(style)
    jobs = [write.job(job) for stage in spec.stages for job in stage.jobs]
    stages = [
        write.keys(
            name=stage.name, jobs=[write.job(job) for job in stage.jobs], approval=write.approval(stage.approval)
        )
        for stage in spec.stages
    ]
    return write.keys(
        name=name,
        variables=dict(spec.variables),
        timeout=duration(spec.timeout_ms),
        triggers=[write.trigger(trigger) for trigger in spec.triggers],
    ) | ({"jobs": jobs} if spec.jobs_only else {"stages": stages})


def duration(milliseconds: int | None) -> str | None:
    """Return a duration as a document has it."""
    return format_duration(milliseconds) if milliseconds else None


class _Writer:
    """Writes the parts of a definition, each without what is as by default."""

    def __init__(self, style: Style) -> None:
        self._style = style

    def keys(self, **parts: Any) -> dict[str, Any]:
        """Return a mapping in the spelling of the style, without None and empty texts and collections."""
        kept = {
            name.rstrip("_"): value for name, value in parts.items() if value is not None and value not in ("", {}, [])
        }
        return {camel(name) if self._style.camel else name: value for name, value in kept.items()}

    def job(self, job: JobSpec) -> dict[str, Any]:
        source, target, notify, retry = job.source, job.target, job.notify, job.retry
        written = self.keys(
            name=job.name,
            description=job.description,
            depends_on=list(job.depends_on),
            when=job.when,
            agent_selector_=self.selector(job.selector),
            priority=job.priority or None,
            timeout=duration(job.timeout_ms),
            allow_failure=job.allow_failure or None,
            concurrency=job.concurrency,
            concurrency_limit=None if job.concurrency_limit == 1 else job.concurrency_limit,
            cancel_in_progress=job.cancel_in_progress or None,
            env=dict(job.env),
            steps=[self.step(step) for step in job.steps],
            outputs=dict(job.outputs),
            approval=self.approval(job.approval),
        )
        if job.selector is not None:
            self._put(written, "agent_selector", self.selector(job.selector))
        if retry is not None:
            delay = duration(retry.delay_ms)
            written["retry"] = self.keys(max_attempts=retry.max_attempts, delay=delay, on=list(retry.on))
        if job.matrix is not None:
            written["matrix"] = _matrix(job.matrix)
        if source is not None:
            written["source"] = {
                **self.keys(type="git", branch=source.branch, depth=source.depth or None),
                **self.keys(submodules=source.submodules or None),
                "repo": source.repo,
            }
            if source.auth is not None:
                auth = source.auth
                written["source"]["auth"] = self.keys(username=auth.username, password=auth.password, token=auth.token)
        if target is not None:
            written["target"] = {"type": target.type, "config": dict(target.config)}
        if notify is not None:
            sent = {"on_success": notify.on_success, "on_failure": notify.on_failure}
            written["notify"] = self.keys(**{name: self.notification(one) for name, one in sent.items() if one})
        return written

    def step(self, step: StepSpec) -> dict[str, Any]:
        written = self.keys(
            name=step.name,
            uses=step.uses,
            action=step.action,
            args=dict(step.args),
            env=dict(step.env),
            secrets=_secrets(step.secrets),
            timeout=duration(step.timeout_ms),
            when=step.when,
            image=step.image,
            artifacts=[
                {
                    **self.keys(name=artifact.name, destination=artifact.destination, expire_days=artifact.expire_days),
                    "path": artifact.path,
                }
                for artifact in step.artifacts
            ],
            continue_on_error=step.continue_on_error or None,
            run_on_agent=None if step.run_on_agent else False,
        )
        if step.selector is not None:
            self._put(written, "agent_selector", self.selector(step.selector))
        return written

    def selector(self, selector: Selector | None) -> dict[str, Any] | None:
        if selector is None:
            return None
        keys = ("key", "operator", "values")
        return self.keys(match_expressions=[dict(zip(keys, term, strict=True)) for term in selector.to_json()])

    def approval(self, approval: ApprovalSpec | None) -> dict[str, Any] | None:
        if approval is None:
            return None
        rules = self.keys(
            approvers=list(approval.approvers),
            needed=approval.needed,
            separation=approval.separation or None,
            timeout=duration(approval.timeout_ms),
        )
        return {"required": True, "type": "manual", "args": rules} if self._style.contract else rules

    def notification(self, notification: NotificationSpec) -> dict[str, Any]:
        return {"plugin": notification.plugin, "action": notification.action, "args": dict(notification.args)}

    def trigger(self, trigger: TriggerSpec) -> dict[str, Any]:
        if isinstance(trigger, CronTrigger):
            options = self.keys(
                schedule=trigger.schedule,
                time_zone=trigger.time_zone,
                catch_up=None if trigger.catch_up is CatchUp.NONE else trigger.catch_up.value,
                branch=trigger.branch,
                variables=dict(trigger.variables),
            )
        elif isinstance(trigger, EventTrigger):
            options = self.keys(
                events=list(trigger.events),
                branches=list(trigger.branches),
                tags=list(trigger.tags),
                paths=list(trigger.paths),
                repos=list(trigger.repos),
                variables=dict(trigger.variables),
            )
        else:
            return {"type": "manual"}
        kind = {"type": "cron" if isinstance(trigger, CronTrigger) else "event"}
        return {**kind, "options": options} if self._style.contract else {**kind, **options}

    def _put(self, written: dict[str, Any], name: str, value: Any) -> None:
        """Write a value that means something even when it is empty."""
        written[camel(name) if self._style.camel else name] = value


def _matrix(matrix: MatrixSpec) -> dict[str, Any]:
    entries = {"include": [dict(cell) for cell in matrix.include], "exclude": [dict(cell) for cell in matrix.exclude]}
    return {name: list(values) for name, values in matrix.axes} | {name: part for name, part in entries.items() if part}


def _secrets(secrets: Mapping[str, str]) -> list[str] | dict[str, str]:
    same = all(variable == name for variable, name in secrets.items())
    return list(secrets) if same else dict(secrets)


def yaml_of(value: Any, indent: str = "") -> str:
    """Return JSON data as YAML: blocks for what has parts, quotes for texts that are not of whole lines."""
    if isinstance(value, Mapping) and value:
        return "".join(f"{indent}{_key(key)}:{_below(item, indent)}" for key, item in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{indent}-{_below(item, indent)}" for item in value)
    return f"{indent}{json.dumps(value)}\n"


def _below(value: Any, indent: str) -> str:
    if isinstance(value, (Mapping, list)) and value:
        return "\n" + yaml_of(value, indent + "  ")
    if isinstance(value, str) and _BLOCK_TEXT.fullmatch(value):
        return " |\n" + "".join(f"{indent}  {line}" for line in value.splitlines(keepends=True))
    return f" {json.dumps(value)}\n"


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else json.dumps(key)
