"""How a definition is stored: JSON that leaves out what is as by default, so that it stays small.

The names are those of the fields. Documents of earlier versions, which wrote out every key they knew, are read too. The
digest is of this form, so equal definitions have equal digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from arcentra_server.domain.definition import (
    ApprovalSpec,
    ArtifactSpec,
    CatchUp,
    CronTrigger,
    EventTrigger,
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
from arcentra_server.domain.selectors import Selector

_SPECS = (
    ApprovalSpec,
    ArtifactSpec,
    CronTrigger,
    EventTrigger,
    GitSource,
    JobSpec,
    MatrixSpec,
    NotificationSpec,
    NotifySpec,
    PipelineSpec,
    RetrySpec,
    SourceAuth,
    StageSpec,
    StepSpec,
    TargetSpec,
)
_REQUIRED = object()
_TRIGGERS: dict[str, type[CronTrigger | EventTrigger]] = {"cron": CronTrigger, "event": EventTrigger}


def to_json(spec: PipelineSpec) -> dict[str, Any]:
    """Return the stored form; `from_json` reads it back as a definition of the same digest."""
    return _written(
        spec,
        stages=lambda stages: [_stage_to_json(stage) for stage in stages],
        triggers=lambda triggers: [trigger_to_json(trigger) for trigger in triggers],
    )


def from_json(document: Mapping[str, Any]) -> PipelineSpec:
    """Read a stored definition."""
    return PipelineSpec(
        **_read(
            document,
            stages=lambda stages: tuple(_stage_from_json(stage) for stage in stages),
            triggers=lambda triggers: tuple(trigger_from_json(trigger) for trigger in triggers),
        )
    )


def digest(spec: PipelineSpec) -> bytes:
    """Return the SHA-256 of the stored form: equal definitions give equal digests."""
    text = json.dumps(to_json(spec), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()


def job_to_json(job: JobSpec) -> dict[str, Any]:
    """Return the stored form of a job."""
    return _written(
        job,
        steps=lambda steps: [step_to_json(step) for step in steps],
        source=source_to_json,
        selector=Selector.to_json,
        depends_on=list,
        retry=retry_to_json,
        matrix=matrix_to_json,
        approval=approval_to_json,
        target=_written,
        notify=notify_to_json,
    )


def job_from_json(document: Mapping[str, Any]) -> JobSpec:
    """Read a stored job."""
    return JobSpec(
        **_read(
            document,
            steps=lambda steps: tuple(step_from_json(step) for step in steps),
            source=source_from_json,
            selector=Selector.from_json,
            depends_on=tuple,
            retry=retry_from_json,
            matrix=matrix_from_json,
            approval=approval_from_json,
            target=lambda target: TargetSpec(**target),
            notify=notify_from_json,
        )
    )


def step_to_json(step: StepSpec) -> dict[str, Any]:
    """Return the stored form of a step."""
    return _written(
        step,
        selector=Selector.to_json,
        artifacts=lambda artifacts: [_written(artifact) for artifact in artifacts],
    )


def step_from_json(document: Mapping[str, Any]) -> StepSpec:
    """Read a stored step."""
    return StepSpec(
        **_read(
            document,
            selector=Selector.from_json,
            artifacts=lambda artifacts: tuple(ArtifactSpec(**artifact) for artifact in artifacts),
        )
    )


def source_to_json(source: GitSource) -> dict[str, Any]:
    """Return the stored form of a source."""
    return _written(source, auth=_written)


def source_from_json(document: Mapping[str, Any]) -> GitSource:
    """Read a stored source."""
    return GitSource(**_read(document, auth=lambda auth: SourceAuth(**auth)))


def retry_to_json(retry: RetrySpec) -> dict[str, Any]:
    """Return the stored form of a rule for retries."""
    return _written(retry, on=list)


def retry_from_json(document: Mapping[str, Any]) -> RetrySpec:
    """Read a stored rule for retries."""
    return RetrySpec(**_read(document, on=tuple))


def matrix_to_json(matrix: MatrixSpec) -> dict[str, Any]:
    """Return the stored form of a matrix; its axes are a list, as their order matters."""
    return _written(
        matrix,
        axes=lambda axes: [[name, list(values)] for name, values in axes],
        include=lambda cells: [dict(cell) for cell in cells],
        exclude=lambda cells: [dict(cell) for cell in cells],
    )


def matrix_from_json(document: Mapping[str, Any]) -> MatrixSpec:
    """Read a stored matrix."""
    return MatrixSpec(
        **_read(
            document,
            axes=lambda axes: tuple((name, tuple(values)) for name, values in axes),
            include=tuple,
            exclude=tuple,
        )
    )


def approval_to_json(approval: ApprovalSpec) -> dict[str, Any]:
    """Return the stored form of a gate."""
    return _written(approval, approvers=list)


def approval_from_json(document: Mapping[str, Any]) -> ApprovalSpec:
    """Read a stored gate."""
    return ApprovalSpec(**_read(document, approvers=tuple))


def notify_to_json(notify: NotifySpec) -> dict[str, Any]:
    """Return the stored form of what is sent when a job ends."""
    return _written(notify, on_success=_written, on_failure=_written)


def notify_from_json(document: Mapping[str, Any]) -> NotifySpec:
    """Read what is stored to be sent when a job ends."""
    return NotifySpec(**_read(document, on_success=_notification, on_failure=_notification))


def trigger_to_json(trigger: TriggerSpec) -> dict[str, Any]:
    """Return the stored form of a trigger; its `type` is `cron`, `event` or `manual`."""
    if isinstance(trigger, ManualTrigger):
        return {"type": "manual"}
    kind = "cron" if isinstance(trigger, CronTrigger) else "event"
    return {
        "type": kind,
        **_written(trigger, catch_up=str, events=list, branches=list, tags=list, paths=list, repos=list),
    }


def trigger_from_json(document: Mapping[str, Any]) -> TriggerSpec:
    """Read a stored trigger."""
    if document["type"] == "manual":
        return ManualTrigger()
    parts = _read(document, catch_up=CatchUp, events=tuple, branches=tuple, tags=tuple, paths=tuple, repos=tuple)
    return _TRIGGERS[parts.pop("type")](**parts)


def _stage_to_json(stage: StageSpec) -> dict[str, Any]:
    return _written(stage, jobs=lambda jobs: [job_to_json(job) for job in jobs], approval=approval_to_json)


def _stage_from_json(document: Mapping[str, Any]) -> StageSpec:
    return StageSpec(
        **_read(
            document,
            jobs=lambda jobs: tuple(job_from_json(job) for job in jobs),
            approval=approval_from_json,
        )
    )


def _notification(document: Mapping[str, Any]) -> NotificationSpec:
    return NotificationSpec(**document)


def _defaults(spec: type[Any]) -> tuple[tuple[str, Any], ...]:
    """Return the fields of a dataclass with what they are when nothing is said."""
    found = []
    for part in fields(spec):
        if part.default is not MISSING:
            found.append((part.name, part.default))
        elif part.default_factory is not MISSING:
            found.append((part.name, part.default_factory()))
        else:
            found.append((part.name, _REQUIRED))
    return tuple(found)


_DEFAULTS = {spec: _defaults(spec) for spec in _SPECS}


def _written(spec: Any, **writers: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the fields that are not as by default, each through its writer if it has one."""
    document = {}
    for name, default in _DEFAULTS[type(spec)]:
        value = getattr(spec, name)
        if value != default:
            writer = writers.get(name)
            document[name] = writer(value) if writer else value
    return document


def _read(document: Mapping[str, Any], **readers: Callable[[Any], Any]) -> dict[str, Any]:
    """Return what is stored, each field through its reader if it has one; null stands for what is not there."""
    return {
        name: reader(value) if (reader := readers.get(name)) else value
        for name, value in document.items()
        if value is not None
    }
