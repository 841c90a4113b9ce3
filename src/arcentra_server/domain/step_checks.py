"""What is a fault of a step."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from arcentra_server.domain.clear_secrets import leaked
from arcentra_server.domain.definition import (
    ArtifactSpec,
    JobSpec,
    PipelineSpec,
    StageSpec,
    StepSpec,
)
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.expressions.check import check_expressions
from arcentra_server.domain.expressions.names import RUN_ENV
from arcentra_server.domain.field_checks import (
    NOT_A_VARIABLE,
    TEMPLATE,
    VARIABLE,
    check_args,
    check_env,
    check_leaks,
    check_range,
    check_timeout,
)
from arcentra_server.domain.paths import check_path
from arcentra_server.domain.selectors import check_selector

MOST_SECRETS = 100
MOST_ARTIFACTS = 100
LONGEST_KEEPING_DAYS = 3_650
_USES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}(@[A-Za-z0-9._-]{1,64})?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}")


def check_step(step: StepSpec, path: str) -> list[Fault]:
    """Return the faults of one step, its name apart; `path` empty when the step is the request itself."""
    prefix = f"{path}." if path else ""
    faults = check_env(step.env, f"{prefix}env")
    if not _USES.fullmatch(step.uses):
        wanted = "names the plugin that runs the step, for example shell or git"
        faults.append(Fault(f"{prefix}uses", f"{step.uses[:80]!r}: `uses` {wanted}"))
    if step.selector is not None:
        faults += check_selector(step.selector, f"{prefix}agent_selector")
    if step.args:
        faults += check_args(step.args, f"{prefix}args") or check_leaks(step.args, f"{prefix}args")
    faults += check_timeout(step.timeout_ms, f"{prefix}timeout")
    if step.image and not _is_image(step.image):
        faults.append(Fault(f"{prefix}image", f"{step.image[:80]!r} is not the name of an image"))
    if step.secrets:
        faults += _check_secrets(step, f"{prefix}secrets")
    if step.artifacts:
        faults += _check_artifacts(step.artifacts, f"{prefix}artifacts")
    return faults


def check_added_step(step: StepSpec, job: JobSpec, stage: StageSpec, variables: Collection[str]) -> list[Fault]:
    """Return the faults of the expressions of a step that is added to a job, behind all the steps that it has."""
    grown = replace(job, steps=(*job.steps, step))
    jobs = tuple(grown if other.name == job.name else other for other in stage.jobs)
    known = {name: "" for name in variables if name not in RUN_ENV}
    prefix = f"stages[0].jobs[{jobs.index(grown)}].steps[{len(job.steps)}]."
    faults = check_expressions(PipelineSpec((replace(stage, jobs=jobs),), known))
    return [Fault(fault.path.removeprefix(prefix), fault.message) for fault in faults if fault.path.startswith(prefix)]


def _check_secrets(step: StepSpec, path: str) -> list[Fault]:
    if len(step.secrets) > MOST_SECRETS:
        return [Fault(path, f"{len(step.secrets)} secrets, more than {MOST_SECRETS}")]
    faults = []
    for variable, name in step.secrets.items():
        where = f"{path}[{variable[:80]!r}]"
        if not VARIABLE.fullmatch(variable):
            faults.append(Fault(where, NOT_A_VARIABLE))
        elif variable in step.env:
            faults.append(Fault(where, "is also in `env`"))
        elif not VARIABLE.fullmatch(name):
            # The text is not shown: it may be the secret itself.
            faults.append(Fault(where, f"wants the name of a secret: {NOT_A_VARIABLE}"))
        elif kind := leaked(name):
            faults.append(Fault(where, kind))
    return faults


def _check_artifacts(artifacts: tuple[ArtifactSpec, ...], path: str) -> list[Fault]:
    if len(artifacts) > MOST_ARTIFACTS:
        return [Fault(path, f"{len(artifacts)} artifacts, more than {MOST_ARTIFACTS}")]
    return [
        fault for index, artifact in enumerate(artifacts) for fault in _check_artifact(artifact, f"{path}[{index}]")
    ]


def _check_artifact(artifact: ArtifactSpec, path: str) -> Iterator[Fault]:
    yield from check_path(artifact.path, f"{path}.path")
    if artifact.destination:
        yield from check_path(artifact.destination, f"{path}.destination")
    for name, text in (("path", artifact.path), ("destination", artifact.destination)):
        if TEMPLATE in text:
            yield Fault(f"{path}.{name}", "`${{ }}` is not evaluated here")
    if artifact.expire_days is not None:
        yield from check_range(artifact.expire_days, 1, LONGEST_KEEPING_DAYS, f"{path}.expire_days")


def _is_image(image: str) -> bool:
    if TEMPLATE in image:
        return image.isprintable() and not image.startswith("-")
    return _IMAGE.fullmatch(image) is not None
