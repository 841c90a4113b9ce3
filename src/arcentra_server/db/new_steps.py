"""Store step runs after their run began: steps and jobs that are added, and new attempts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import asyncpg

from arcentra_server.db.engine import Tx
from arcentra_server.db.new_runs import SelectorIds
from arcentra_server.domain.definition import JobSpec, StageSpec, StepSpec
from arcentra_server.domain.definition_json import from_json
from arcentra_server.domain.errors import AlreadyExists, NotFound
from arcentra_server.domain.execution import JobState, RunState, StepState
from arcentra_server.domain.instantiate import NewStep, run_env
from arcentra_server.domain.selectors import ANY_AGENT
from arcentra_server.domain.states import RunStatus, StepStatus


async def job_named(tx: Tx, run_id: UUID, name: str) -> UUID | None:
    """Return the job run of a name."""
    found: UUID | None = await tx.fetchval("SELECT id FROM job_runs WHERE run_id = $1 AND name = $2", run_id, name)
    return found


async def job_name(tx: Tx, job_id: UUID) -> str:
    """Return the name of a job run."""
    return str(await tx.fetchval("SELECT name FROM job_runs WHERE id = $1", job_id))


async def next_index(tx: Tx, job_id: UUID) -> int:
    """Return the place after the last step of a job."""
    return int(
        await tx.fetchval("SELECT coalesce(max(step_index) + 1, 0) FROM step_runs WHERE job_run_id = $1", job_id)
    )


async def needs_of_run(tx: Tx, run_id: UUID) -> dict[UUID, list[UUID]]:
    """Return for each job run of a run those that it depends on."""
    rows = await tx.fetch(
        """SELECT n.job_run_id, n.needed_id FROM job_needs n JOIN job_runs j ON j.id = n.job_run_id
            WHERE j.run_id = $1""",
        run_id,
    )
    needs: dict[UUID, list[UUID]] = {}
    for row in rows:
        needs.setdefault(row["job_run_id"], []).append(row["needed_id"])
    return needs


@dataclass(frozen=True, slots=True)
class JobPlace:
    """What a step is added to: the variables of the run, the stage and the job by the definition that the run keeps.

    The steps of `job` are those that its run has, of which only the names are known here.
    """

    variables: Mapping[str, str]
    stage: StageSpec
    job: JobSpec


async def place_of_job(tx: Tx, run_id: UUID, job_id: UUID) -> JobPlace:
    """Return what a step is added to."""
    row = await tx.fetchrow(
        """SELECT r.variables, r.branch, r.commit_sha, r.namespace, s.document,
                  (SELECT definition_name FROM job_runs WHERE id = $2) AS name
             FROM pipeline_runs r JOIN pipeline_specs s ON s.pipeline_id = r.pipeline_id AND s.version = r.spec_version
            WHERE r.id = $1""",
        run_id,
        job_id,
    )
    if row is None:
        raise NotFound(f"pipeline run {str(run_id)!r} not found")
    names = await tx.fetch(
        "SELECT name FROM step_runs WHERE job_run_id = $1 AND NOT superseded ORDER BY step_index", job_id
    )
    steps = tuple(StepSpec(step["name"], "") for step in names)
    env = run_env(row["variables"], row["branch"], row["commit_sha"], row["namespace"])
    for stage in from_json(row["document"]).stages:
        for job in stage.jobs:
            if job.name == row["name"]:
                return JobPlace(env, stage, replace(job, steps=steps, source=None, target=None))
    added = JobSpec("", steps)
    return JobPlace(env, StageSpec("", (added,)), added)


async def insert_job(
    tx: Tx, run: RunState, job_id: UUID, name: str, stage_index: int, selectors: SelectorIds
) -> JobState:
    """Store a job that is added to a run."""
    selector_id = (await selectors.ensure(tx, [ANY_AGENT]))[ANY_AGENT]
    await tx.execute(
        """INSERT INTO job_runs (id, run_id, pipeline_id, name, stage_index, job_index, selector_id)
           VALUES ($1, $2, $3, $4, $5, (SELECT count(*) FROM job_runs WHERE run_id = $2), $6)""",
        job_id,
        run.id,
        run.pipeline_id,
        name,
        stage_index,
        selector_id,
    )
    return JobState(job_id, run.id, stage_index, RunStatus.PENDING, selector_id, 0)


async def insert_step(
    tx: Tx, step: NewStep, dispatch: bytes, job: JobState, created_by: str, selectors: SelectorIds
) -> StepState:
    """Store a step that is added to a job, as PENDING.

    Raises:
        AlreadyExists: the job has a step of this name.
    """
    if await tx.fetchval("SELECT 1 FROM step_runs WHERE job_run_id = $1 AND name = $2", step.job_id, step.name):
        raise AlreadyExists(f"the job has a step {step.name!r} already")
    selector_id = job.selector_id
    if step.own_selector:
        selector_id = (await selectors.ensure(tx, [step.selector]))[step.selector]
    try:
        await tx.execute(
            """INSERT INTO step_runs (id, run_id, job_run_id, pipeline_id, name, step_index, selector_id, own_selector,
                                      continue_on_error, timeout_ms, dispatch, added, created_by, condition, kind,
                                      templates, secrets)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, true, $12, $13, $14, $15, $16)""",
            step.id,
            step.run_id,
            step.job_id,
            step.pipeline_id,
            step.name,
            step.index,
            selector_id,
            step.own_selector,
            step.continue_on_error,
            step.timeout_ms,
            dispatch,
            created_by,
            step.condition,
            step.kind,
            step.templates.to_json() if step.templates else None,
            dict(step.secrets),
        )
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExists("the job was changed at the same time") from error
    return StepState(
        id=step.id,
        job_id=step.job_id,
        run_id=step.run_id,
        index=step.index,
        status=StepStatus.PENDING,
        selector_id=selector_id,
        own_selector=step.own_selector,
        continue_on_error=step.continue_on_error,
        condition=step.condition,
        dynamic=step.dynamic,
        kind=step.kind,
    )


async def copy_attempts(tx: Tx, job_ids: Sequence[UUID], make_id: Callable[[], UUID]) -> list[StepState]:
    """Store a new attempt, PENDING, of every step of these jobs; the last attempts become superseded."""
    old = await tx.fetch(
        """UPDATE step_runs SET superseded = true WHERE job_run_id = ANY($1) AND NOT superseded
           RETURNING id, job_run_id, step_index""",
        job_ids,
    )
    old.sort(key=lambda row: (row["job_run_id"], row["step_index"]))
    rows = await tx.fetch(
        """INSERT INTO step_runs (id, run_id, job_run_id, pipeline_id, name, step_index, attempt, selector_id,
                                  own_selector, continue_on_error, timeout_ms, dispatch, added, created_by, condition,
                                  kind, templates, secrets)
           SELECT c.new_id, s.run_id, s.job_run_id, s.pipeline_id, s.name, s.step_index, s.attempt + 1, s.selector_id,
                  s.own_selector, s.continue_on_error, s.timeout_ms, s.dispatch, s.added, s.created_by, s.condition,
                  s.kind, s.templates, s.secrets
             FROM unnest($1::uuid[], $2::uuid[]) AS c(old_id, new_id) JOIN step_runs s ON s.id = c.old_id
           RETURNING id, job_run_id, run_id, step_index, selector_id, attempt, own_selector, continue_on_error, condition,
                     kind, templates IS NOT NULL OR secrets <> '{}' OR kind = 'source' AS dynamic""",
        [row["id"] for row in old],
        [make_id() for _ in old],
    )
    steps = [
        StepState(
            id=row["id"],
            job_id=row["job_run_id"],
            run_id=row["run_id"],
            index=row["step_index"],
            status=StepStatus.PENDING,
            selector_id=row["selector_id"],
            attempt=row["attempt"],
            own_selector=row["own_selector"],
            continue_on_error=row["continue_on_error"],
            condition=row["condition"],
            dynamic=row["dynamic"],
            kind=row["kind"],
        )
        for row in rows
    ]
    return sorted(steps, key=lambda step: (step.job_id, step.index))
