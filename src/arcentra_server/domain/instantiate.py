"""Turn a definition into the rows of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from arcentra_server.domain.definition import SOURCE_STEP, JobSpec, PipelineSpec, StepSpec
from arcentra_server.domain.selectors import ANY_AGENT, Selector
from arcentra_server.domain.states import TriggerType


@dataclass(frozen=True, slots=True)
class Trigger:
    """What started a run, and with what."""

    type: TriggerType
    triggered_by: str
    branch: str = ""
    commit_sha: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step run to be stored. `env` is complete; `workspace` names the folder it runs in."""

    id: UUID
    run_id: UUID
    job_id: UUID
    pipeline_id: UUID
    job_name: str
    name: str
    index: int
    uses: str
    action: str
    args: Mapping[str, Any]
    env: Mapping[str, str]
    workspace: str
    timeout_ms: int | None
    selector: Selector
    own_selector: bool
    continue_on_error: bool
    run_on_agent: bool


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job run to be stored, with its steps in order."""

    id: UUID
    name: str
    stage_index: int
    index: int
    selector: Selector
    timeout_ms: int | None
    steps: tuple[NewStep, ...]


@dataclass(frozen=True, slots=True)
class NewRun:
    """A pipeline run to be stored. The first steps of the jobs of the first stage are queued, the rest is pending."""

    id: UUID
    pipeline_id: UUID
    namespace: str
    spec_version: int
    trigger: Trigger
    variables: Mapping[str, str]
    stages: tuple[tuple[str, int], ...]
    jobs: tuple[NewJob, ...]

    def steps(self) -> Iterator[tuple[NewJob, NewStep]]:
        for job in self.jobs:
            for step in job.steps:
                yield job, step


def instantiate(
    spec: PipelineSpec,
    trigger: Trigger,
    *,
    pipeline_id: UUID,
    namespace: str,
    spec_version: int,
    new_id: Callable[[], UUID],
) -> NewRun:
    """Build the run of a definition. Variables of the trigger win over those of the pipeline."""
    run_id = new_id()
    variables = {**spec.variables, **trigger.variables}
    env = run_env(variables, trigger.branch, trigger.commit_sha, namespace)
    jobs: list[NewJob] = []
    for stage_index, stage in enumerate(spec.stages):
        for job in stage.jobs:
            job_id = new_id()
            steps = tuple(
                _step(step, index, job, job_id, run_id, pipeline_id, env, new_id)
                for index, step in enumerate(_steps_of(job, trigger))
            )
            selector = job.selector or ANY_AGENT
            jobs.append(NewJob(job_id, job.name, stage_index, len(jobs), selector, job.timeout_ms, steps))
    return NewRun(
        id=run_id,
        pipeline_id=pipeline_id,
        namespace=namespace,
        spec_version=spec_version,
        trigger=trigger,
        variables=variables,
        stages=tuple((stage.name, len(stage.jobs)) for stage in spec.stages),
        jobs=tuple(jobs),
    )


def run_env(variables: Mapping[str, str], branch: str, commit_sha: str, namespace: str) -> dict[str, str]:
    """Return the environment that all steps of a run share; that of jobs and steps goes over it."""
    return {
        **variables,
        "ARCENTRA_BRANCH": branch,
        "ARCENTRA_COMMIT": commit_sha,
        "ARCENTRA_NAMESPACE": namespace,
    }


def _steps_of(job: JobSpec, trigger: Trigger) -> tuple[StepSpec, ...]:
    if job.source is None:
        return job.steps
    args = {"repo": job.source.repo, "branch": trigger.branch or job.source.branch, "commit": trigger.commit_sha}
    clone = StepSpec(SOURCE_STEP, uses="git", action="clone", args={key: text for key, text in args.items() if text})
    return (clone, *job.steps)


def _step(
    step: StepSpec,
    index: int,
    job: JobSpec,
    job_id: UUID,
    run_id: UUID,
    pipeline_id: UUID,
    env: Mapping[str, str],
    new_id: Callable[[], UUID],
) -> NewStep:
    own = step.selector is not None
    return NewStep(
        id=new_id(),
        run_id=run_id,
        job_id=job_id,
        pipeline_id=pipeline_id,
        job_name=job.name,
        name=step.name,
        index=index,
        uses=step.uses,
        action=step.action,
        args=step.args,
        env={**env, **job.env, **step.env},
        workspace=f"{job_id}-{index}" if own else str(job_id),
        timeout_ms=step.timeout_ms,
        selector=step.selector or job.selector or ANY_AGENT,
        own_selector=own,
        continue_on_error=step.continue_on_error,
        run_on_agent=step.run_on_agent,
    )
