"""What is a fault of a definition: all of them at once, each with its field path.

Paths are those of a document: `stages[0].jobs[1].retry.on[0]`, `triggers[0].schedule`. What one part has to be in itself
is in `part_checks`, `step_checks`, `trigger_checks`, `field_checks`, `matrix`, `targets`, `channels` and `expressions`.
"""

from __future__ import annotations

from arcentra_server.domain.cell_selectors import check_references
from arcentra_server.domain.definition import (
    SOURCE_STEP,
    TARGET_STEP,
    JobSpec,
    PipelineSpec,
)
from arcentra_server.domain.dependency_checks import check_dependencies
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.expressions.check import check_expressions
from arcentra_server.domain.field_checks import (
    check_env,
    check_names,
    check_range,
    check_timeout,
)
from arcentra_server.domain.matrix import cells, check_matrix
from arcentra_server.domain.part_checks import (
    check_approval,
    check_concurrency,
    check_notify,
    check_retry,
    check_source,
)
from arcentra_server.domain.selectors import check_selector
from arcentra_server.domain.step_checks import check_step
from arcentra_server.domain.targets import check_target
from arcentra_server.domain.trigger_checks import check_triggers

LARGEST_PIPELINE_JOBS = 5_000
LARGEST_PIPELINE_STEPS = 50_000
LARGEST_PIPELINE_NEEDS = 50_000
LARGEST_JOB_STEPS = 500
PRIORITIES = (-100, 100)


def check_pipeline(spec: PipelineSpec) -> list[Fault]:
    """Return every fault of a definition, each with its field path."""
    faults = check_env(spec.variables, "variables") + check_timeout(spec.timeout_ms, "timeout")
    faults += check_triggers(spec.triggers)
    jobs = list(spec.jobs())
    if not jobs:
        faults.append(Fault("jobs" if spec.jobs_only else "stages", "at least one job is needed"))
    if len(jobs) > LARGEST_PIPELINE_JOBS:
        faults.append(Fault("", f"{len(jobs)} jobs, more than the {LARGEST_PIPELINE_JOBS} that a pipeline may have"))
        return faults
    if not spec.jobs_only:
        faults += _check_stages(spec)
    faults += check_names(((f"{path}.name", job.name) for path, job in jobs), "job")
    for path, job in jobs:
        faults += _check_job(job, path)
    faults += _check_order(spec) + check_expressions(spec)
    return faults or _check_size(spec)


def total_jobs(spec: PipelineSpec) -> int:
    """Return how many job runs a run has, every cell of a matrix counted."""
    return sum(_cells_of(job) for _, job in spec.jobs())


def total_steps(spec: PipelineSpec) -> int:
    """Return how many step runs a run has, those of sources and targets counted."""
    return sum(
        _cells_of(job) * (len(job.steps) + (job.source is not None) + (job.target is not None))
        for _, job in spec.jobs()
    )


def total_needs(spec: PipelineSpec) -> int:
    """Return how many times a job run of a run depends on another one, every cell of either counted."""
    cells_of = {job.name: _cells_of(job) for _, job in spec.jobs()}
    return sum(cells_of[job.name] * sum(cells_of[name] for name in job.depends_on) for _, job in spec.jobs())


def too_many_needs(spec: PipelineSpec) -> str:
    """Return what is wrong with a definition whose jobs depend on each other more often than a run may have it."""
    needs = total_needs(spec)
    if needs <= LARGEST_PIPELINE_NEEDS:
        return ""
    return (
        f"{needs} dependencies with all cells, more than the {LARGEST_PIPELINE_NEEDS} of a pipeline: "
        "divide the jobs into stages"
    )


def _cells_of(job: JobSpec) -> int:
    return len(cells(job.matrix)) if job.matrix is not None else 1


def _check_size(spec: PipelineSpec) -> list[Fault]:
    """Return whether a definition without other faults makes more than a run may have."""
    jobs, steps = total_jobs(spec), total_steps(spec)
    if jobs > LARGEST_PIPELINE_JOBS:
        return [Fault("", f"{jobs} jobs with all cells, more than the {LARGEST_PIPELINE_JOBS} of a pipeline")]
    if steps > LARGEST_PIPELINE_STEPS:
        return [Fault("", f"{steps} steps with all cells, more than the {LARGEST_PIPELINE_STEPS} of a pipeline")]
    return [Fault("", fault)] if (fault := too_many_needs(spec)) else []


def _check_stages(spec: PipelineSpec) -> list[Fault]:
    faults = check_names(((f"stages[{index}].name", stage.name) for index, stage in enumerate(spec.stages)), "stage")
    for index, stage in enumerate(spec.stages):
        if not stage.jobs:
            faults.append(Fault(f"stages[{index}].jobs", "a stage needs at least one job"))
        if stage.approval is not None:
            faults += check_approval(stage.approval, f"stages[{index}].approval")
    return faults


def _check_order(spec: PipelineSpec) -> list[Fault]:
    stage_of = {job.name: stage.name for stage in spec.stages for job in stage.jobs}
    faults = []
    placed = spec.jobs()
    for stage in spec.stages:
        jobs = [next(placed) for _ in stage.jobs]
        if any(job.depends_on for job in stage.jobs):
            faults += check_dependencies(jobs, stage_of, stage.name)
    return faults


def _check_job(job: JobSpec, path: str) -> list[Fault]:
    faults = check_env(job.env, f"{path}.env") + check_env(job.outputs, f"{path}.outputs")
    faults += check_timeout(job.timeout_ms, f"{path}.timeout")
    if job.selector is not None:
        faults += check_selector(job.selector, f"{path}.agent_selector")
    faults += check_references(job, path)
    if job.source is not None:
        faults += check_source(job.source, f"{path}.source")
    if job.target is not None:
        faults += check_target(job.target, f"{path}.target")
    if job.retry is not None:
        faults += check_retry(job.retry, f"{path}.retry")
    if job.matrix is not None:
        faults += check_matrix(job.matrix, job.name, f"{path}.matrix")
    if job.approval is not None:
        faults += check_approval(job.approval, f"{path}.approval")
    if job.notify is not None:
        faults += check_notify(job.notify, f"{path}.notify")
    faults += check_range(job.priority, *PRIORITIES, f"{path}.priority")
    return faults + check_concurrency(job, path) + _check_steps(job, path)


def _check_steps(job: JobSpec, path: str) -> list[Fault]:
    if not job.steps and job.source is None and job.target is None:
        return [Fault(f"{path}.steps", "a job needs at least one step")]
    if len(job.steps) > LARGEST_JOB_STEPS:
        return [Fault(f"{path}.steps", f"{len(job.steps)} steps, more than the {LARGEST_JOB_STEPS} of a job")]
    reserved = {}
    if job.source is not None:
        reserved[SOURCE_STEP] = "clones the source"
    if job.target is not None:
        reserved[TARGET_STEP] = "deploys to the target"
    faults = check_names(((f"{path}.steps[{index}].name", step.name) for index, step in enumerate(job.steps)), "step")
    for index, step in enumerate(job.steps):
        where = f"{path}.steps[{index}]"
        if step.name in reserved:
            what = reserved[step.name]
            faults.append(Fault(f"{where}.name", f"{step.name!r} is the name of the step that {what}"))
        faults += check_step(step, where)
    artifacts = [
        (f"{path}.steps[{index}].artifacts[{place}].name", artifact.name)
        for index, step in enumerate(job.steps)
        for place, artifact in enumerate(step.artifacts)
    ]
    return faults + check_names(artifacts, "artifact")
