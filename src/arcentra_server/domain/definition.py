"""The definition of a pipeline: what proto, YAML and JSON are read into, checked and stored as."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from arcentra_server.domain.errors import Fault
from arcentra_server.domain.selectors import Selector, check_selector

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
DEFAULT_NAMESPACE = "default"
DEFAULT_STAGE = "default"
SOURCE_STEP = "source"
LARGEST_PIPELINE_JOBS = 5_000
LARGEST_JOB_STEPS = 500
LARGEST_VARIABLES = 1_000
VARIABLES_BYTES = 64 * 1024
ARGS_DEPTH = 16
ARGS_KEYS = 1_000
ARGS_BYTES = 64 * 1024
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_USES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}(@[A-Za-z0-9._-]{1,64})?")


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One operation of a job. `uses` names the plugin of the agent, `action` what it does, `args` with what."""

    name: str
    uses: str
    action: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    continue_on_error: bool = False
    timeout_ms: int | None = None
    selector: Selector | None = None
    run_on_agent: bool = True


@dataclass(frozen=True, slots=True)
class GitSource:
    """Where the code of a job comes from; becomes its first step, `source`."""

    repo: str
    branch: str = ""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The smallest thing that is scheduled: its steps run in order on one agent in one workspace."""

    name: str
    steps: tuple[StepSpec, ...]
    description: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_ms: int | None = None
    source: GitSource | None = None
    selector: Selector | None = None


@dataclass(frozen=True, slots=True)
class StageSpec:
    """Jobs that run side by side, after every job of the stage before succeeded."""

    name: str
    jobs: tuple[JobSpec, ...]


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """What a run is made from. `jobs_only`: written without stages, and wrapped in one named `default`."""

    stages: tuple[StageSpec, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    jobs_only: bool = False

    def jobs(self) -> Iterator[tuple[str, JobSpec]]:
        """Yield each job with its field path, as the caller wrote it."""
        for stage_index, stage in enumerate(self.stages):
            prefix = "" if self.jobs_only else f"stages[{stage_index}]."
            for job_index, job in enumerate(stage.jobs):
                yield f"{prefix}jobs[{job_index}]", job

    def to_json(self) -> dict[str, Any]:
        """Return the stored form; `from_json` reads it back as a definition of the same digest."""
        return {
            "jobs_only": self.jobs_only,
            "variables": dict(self.variables),
            "stages": [
                {"name": stage.name, "jobs": [_job_to_json(job) for job in stage.jobs]} for stage in self.stages
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PipelineSpec:
        stages = tuple(
            StageSpec(stage["name"], tuple(_job_from_json(job) for job in stage["jobs"]))
            for stage in document["stages"]
        )
        return cls(stages, document["variables"], document["jobs_only"])

    def digest(self) -> bytes:
        """Return the SHA-256 of the stored form: equal definitions give equal digests."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).digest()


def check_pipeline(spec: PipelineSpec) -> list[Fault]:
    """Return every fault of a definition, each with its field path."""
    faults = check_env(spec.variables, "variables")
    if not any(stage.jobs for stage in spec.stages):
        faults.append(Fault("jobs" if spec.jobs_only else "stages", "at least one job is needed"))
    if not spec.jobs_only:
        faults += _check_names([stage.name for stage in spec.stages], "stages[{}].name", "stage")
        faults += [
            Fault(f"stages[{index}].jobs", "a stage needs at least one job")
            for index, stage in enumerate(spec.stages)
            if not stage.jobs
        ]
    jobs = list(spec.jobs())
    if len(jobs) > LARGEST_PIPELINE_JOBS:
        faults.append(Fault("", f"{len(jobs)} jobs, more than the {LARGEST_PIPELINE_JOBS} that a pipeline may have"))
        return faults
    names = [job.name for _, job in jobs]
    faults += _check_names(names, "{}.name", "job", [path for path, _ in jobs])
    for path, job in jobs:
        faults += _check_job(job, path)
    return faults


def check_name(name: str, path: str) -> list[Fault]:
    """Return the fault of a name that is empty or has characters or a length that names do not have."""
    if not name:
        return [Fault(path, "a name is needed")]
    if not NAME.fullmatch(name):
        return [Fault(path, f"{name[:80]!r} is not a name: 1 to 64 of A-Z a-z 0-9 . _ -")]
    return []


def check_env(variables: Mapping[str, str], path: str) -> list[Fault]:
    """Return the faults of variables: how many, their names, and NUL bytes in their values."""
    if len(variables) > LARGEST_VARIABLES:
        return [Fault(path, f"{len(variables)} entries, more than {LARGEST_VARIABLES}")]
    size = sum(len(key.encode()) + len(value.encode()) for key, value in variables.items())
    if size > VARIABLES_BYTES:
        return [Fault(path, f"{size} bytes, more than {VARIABLES_BYTES}: every step gets a copy")]
    faults = []
    for key, value in variables.items():
        if not _VARIABLE.fullmatch(key):
            faults.append(Fault(f"{path}[{key[:80]!r}]", "a name is letters, digits and _, and starts with no digit"))
        if "\0" in value:
            faults.append(Fault(f"{path}[{key[:80]!r}]", "the value holds a NUL byte"))
    return faults


def check_args(args: Mapping[str, Any], path: str) -> list[Fault]:
    """Return the faults of free-form arguments: depth, number of keys, size, numbers that JSON does not have."""
    keys = 0
    pending: list[tuple[Any, int]] = [(args, 1)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return [Fault(path, "args hold a number that is not finite")]
        if isinstance(value, (Mapping, list)):
            keys += len(value)
            if depth > ARGS_DEPTH or keys > ARGS_KEYS:
                return [Fault(path, "args too deep or too large")]
            children = value.values() if isinstance(value, Mapping) else value
            pending += [(child, depth + 1) for child in children]
    if len(json.dumps(args)) > ARGS_BYTES:
        return [Fault(path, "args too deep or too large")]
    return []


def _check_names(names: Sequence[str], template: str, kind: str, paths: Sequence[str] | None = None) -> list[Fault]:
    faults = []
    first: dict[str, str] = {}
    for index, name in enumerate(names):
        path = template.format(paths[index] if paths else index)
        found = check_name(name, path)
        faults += found
        if not found and name in first:
            faults.append(Fault(path, f"{kind} {name!r} is already defined at {first[name]}"))
        first.setdefault(name, path)
    return faults


def _check_job(job: JobSpec, path: str) -> list[Fault]:
    faults = check_env(job.env, f"{path}.env")
    if job.selector is not None:
        faults += check_selector(job.selector, f"{path}.agent_selector")
    if job.source is not None:
        if not job.source.repo:
            faults.append(Fault(f"{path}.source.repo", "the address of a repository is needed"))
        for name, text in (("repo", job.source.repo), ("branch", job.source.branch)):
            if text.startswith("-") or "\0" in text:
                faults.append(Fault(f"{path}.source.{name}", f"{text!r} is not a {name}"))
    if not job.steps and job.source is None:
        faults.append(Fault(f"{path}.steps", "a job needs at least one step"))
    if len(job.steps) > LARGEST_JOB_STEPS:
        faults.append(Fault(f"{path}.steps", f"{len(job.steps)} steps, more than the {LARGEST_JOB_STEPS} of a job"))
        return faults
    reserved = [SOURCE_STEP] if job.source is not None else []
    faults += _check_names([step.name for step in job.steps], f"{path}.steps[{{}}].name", "step")
    for index, step in enumerate(job.steps):
        where = f"{path}.steps[{index}]"
        if step.name in reserved:
            faults.append(Fault(f"{where}.name", f"{step.name!r} is the name of the step that clones the source"))
        faults += check_step(step, where)
    return faults


def check_step(step: StepSpec, path: str) -> list[Fault]:
    """Return the faults of one step, its name apart; `path` empty when the step is the request itself."""
    prefix = f"{path}." if path else ""
    faults = check_env(step.env, f"{prefix}env")
    if not _USES.fullmatch(step.uses):
        wanted = "names the plugin that runs the step, for example shell or git"
        faults.append(Fault(f"{prefix}uses", f"{step.uses[:80]!r}: `uses` {wanted}"))
    if step.selector is not None:
        faults += check_selector(step.selector, f"{prefix}agent_selector")
    return faults + check_args(step.args, f"{prefix}args")


def _job_to_json(job: JobSpec) -> dict[str, Any]:
    return {
        "name": job.name,
        "description": job.description,
        "env": dict(job.env),
        "timeout_ms": job.timeout_ms,
        "source": {"repo": job.source.repo, "branch": job.source.branch} if job.source else None,
        "selector": job.selector.to_json() if job.selector else None,
        "steps": [
            {
                "name": step.name,
                "uses": step.uses,
                "action": step.action,
                "args": dict(step.args),
                "env": dict(step.env),
                "continue_on_error": step.continue_on_error,
                "timeout_ms": step.timeout_ms,
                "selector": step.selector.to_json() if step.selector else None,
                "run_on_agent": step.run_on_agent,
            }
            for step in job.steps
        ],
    }


def _job_from_json(document: Mapping[str, Any]) -> JobSpec:
    steps = tuple(
        StepSpec(**{**step, "selector": Selector.from_json(step["selector"]) if step["selector"] is not None else None})
        for step in document["steps"]
    )
    return JobSpec(
        name=document["name"],
        steps=steps,
        description=document["description"],
        env=document["env"],
        timeout_ms=document["timeout_ms"],
        source=GitSource(**document["source"]) if document["source"] else None,
        selector=Selector.from_json(document["selector"]) if document["selector"] is not None else None,
    )
