"""Step runs: add to a run, look at, change before dispatch, cancel, retry, delete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import artifacts, new_steps, pipelines, runs, step_runs
from arcentra_server.db.artifacts import ArtifactRow
from arcentra_server.db.engine import Tx, new_id
from arcentra_server.db.execution import load_run, load_steps
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.db.new_runs import SelectorIds
from arcentra_server.db.paging import Page
from arcentra_server.db.step_runs import StepFilter, StepRow
from arcentra_server.domain.definition import StepSpec
from arcentra_server.domain.errors import InvalidTransition, NotFound, ValidationError
from arcentra_server.domain.execution import JobState, RunState
from arcentra_server.domain.field_checks import check_env, check_name
from arcentra_server.domain.gated import is_behind_a_gate
from arcentra_server.domain.instantiate import new_step
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.retries import open_needs, with_dependants
from arcentra_server.domain.states import StepStatus
from arcentra_server.domain.step_checks import check_added_step, check_step


@dataclass(frozen=True, slots=True)
class AddedStep:
    """A step to be added to a run that is not finished: to a job by id or name; a new name makes a job of its own.

    One of `run_id` and `job_id` is needed.
    """

    spec: StepSpec
    run_id: UUID | None = None
    pipeline_id: UUID | None = None
    job_id: UUID | None = None
    job_name: str = ""


class StepRunService:
    """See the module."""

    def __init__(self, store: ExecutionStore, selectors: SelectorIds) -> None:
        self._selectors = selectors
        self._store = store
        self._database = store.database

    async def create(self, added: AddedStep, created_by: str) -> UUID:
        """Add a step to a run; return its id.

        Raises:
            ValidationError: the step has faults.
            NotFound: no such run, or no such job in it.
            InvalidTransition: the run or the job is finished.
        """
        faults = check_name(added.spec.name, "step_name") + check_step(added.spec, "")
        if not added.job_id:
            faults += check_name(added.job_name, "job_name")
        if faults:
            raise ValidationError(faults)

        async def decide(tx: Tx, ledger: Ledger) -> UUID:
            run_id = added.run_id or (added.job_id and await runs.run_of_job(tx, added.job_id))
            run = await load_run(tx, ledger, run_id) if run_id else None
            if run is None:
                raise NotFound(f"pipeline run {str(run_id or '')!r} not found")
            if added.pipeline_id and run.pipeline_id != added.pipeline_id:
                raise ValidationError.at("pipeline_id", "the run is of another pipeline")
            if run.status.terminal or run.ending:
                raise InvalidTransition("pipeline run already finished")
            job, is_new = await self._job_for(tx, ledger, run, added)
            await _check_not_gated(tx, ledger, job)
            return await self._add(tx, ledger, run, job, added, created_by, begin=is_new)

        step_id = await self._store.change(decide)
        self._store.announce_new_work()
        return step_id

    async def get(self, step_id: UUID) -> StepRow:
        """Return a step run.

        Raises:
            NotFound: no such step run.
        """
        async with self._database.transaction() as tx:
            return await _existing(tx, step_id)

    async def list_page(self, wanted: StepFilter, page: Page) -> tuple[list[StepRow], int]:
        """Return one page of step runs and how many there are."""
        async with self._database.transaction() as tx:
            return await step_runs.list_page(tx, wanted, page)

    async def update(self, step_id: UUID, env: Mapping[str, str], timeout_ms: int | None) -> None:
        """Set environment variables and the timeout of a step run that was not dispatched.

        Raises:
            NotFound: no such step run.
            InvalidTransition: it was dispatched, or has ended.
        """
        faults = check_env(env, "env")
        if faults:
            raise ValidationError(faults)

        async def decide(tx: Tx, ledger: Ledger) -> None:
            row = await _existing(tx, step_id)
            await load_run(tx, ledger, row.run_id)
            row = await _existing(tx, step_id)
            await _check_not_gated(tx, ledger, ledger.jobs[row.job_id])
            waiting = row.status is StepStatus.PENDING or await step_runs.lock_queued(tx, step_id)
            if not waiting:
                raise InvalidTransition("the step run was dispatched: it can be changed before that only")
            edit = self._store.form.edit
            rendered = edit(row.rendered, env, timeout_ms) if row.rendered else None
            await step_runs.set_dispatch(
                tx, step_id, edit(row.dispatch, env, timeout_ms), rendered, timeout_ms, env.keys()
            )

        await self._store.change(decide)

    async def delete(self, step_id: UUID) -> None:
        """Remove a step run that was added by hand and has ended, with its log.

        Raises:
            NotFound: no such step run.
            InvalidTransition: it has not ended, or is part of the pipeline's definition.
        """

        async def decide(tx: Tx, ledger: Ledger) -> None:
            await load_steps(tx, ledger, [step_id])
            row = await _existing(tx, step_id)
            if not row.added:
                raise InvalidTransition("the step run is part of the pipeline: only added ones can be deleted")
            if not row.status.terminal:
                raise InvalidTransition("the step run is not finished")
            ledger.remove_step(ledger.steps[step_id], superseded=row.superseded)
            await step_runs.delete(tx, step_id)

        await self._store.change(decide)

    async def cancel(self, step_id: UUID, reason: str) -> None:
        """End a step run: at once when it waits, by its agent when it runs. Repeating it changes nothing.

        Raises:
            NotFound: no such step run.
            InvalidTransition: it ended otherwise.
        """

        async def decide(tx: Tx, ledger: Ledger) -> None:
            await load_steps(tx, ledger, [step_id])
            step = ledger.steps.get(step_id)
            if step is None:
                raise NotFound(f"step run {str(step_id)!r} not found")
            if step.status is not StepStatus.CANCELLED:
                ledger.cancel_step(step, reason)
            crashpoint("cancel_step.before_commit")

        await self._store.change(decide)
        crashpoint("cancel_step.after_commit")

    async def retry(self, step_id: UUID, actor: str = "") -> UUID:
        """Run the job of a step run again, in a new workspace; return the id of the new attempt of this step.

        The steps of a job build on each other in one workspace, which is gone when the job has ended: so all of them
        get a new attempt. Jobs that were skipped because of this one get their turn again. Old attempts stay, with
        their logs. `actor` may not decide a gate of the run that separates the two; empty: nobody asked for it.

        Raises:
            NotFound: no such step run.
            InvalidTransition: its job is not finished, or the step run was retried already.
        """

        async def decide(tx: Tx, ledger: Ledger) -> UUID:
            row = await _existing(tx, step_id)
            run = await load_run(tx, ledger, row.run_id)
            job = ledger.jobs[row.job_id]
            if run is None or not job.status.terminal:
                raise InvalidTransition("the job of the step run is not finished")
            if row.superseded:
                raise InvalidTransition("the step run was retried already: retry its last attempt")
            if await pipelines.get(tx, run.pipeline_id, lock=True) is None:
                raise InvalidTransition("the pipeline is deleted")
            needs = await new_steps.needs_of_run(tx, run.id)
            refused = ledger.refused_stages(run.id)
            jobs = with_dependants([job], list(ledger.jobs.values()), needs, refused_stages=refused)
            await runs.add_actor(tx, run.id, actor)
            attempts = await new_steps.copy_attempts(tx, [one.id for one in jobs], new_id)
            ledger.reopen(run, jobs, attempts, open_needs(jobs, list(ledger.jobs.values()), needs))
            crashpoint("retry_step.before_commit")
            return next(step.id for step in attempts if (step.job_id, step.index) == (job.id, row.step_index))

        attempt = await self._store.change(decide)
        crashpoint("retry_step.after_commit")
        return attempt

    async def artifacts(self, step_id: UUID) -> list[ArtifactRow]:
        """Return the artifacts of a step run.

        Raises:
            NotFound: no such step run.
        """
        async with self._database.transaction() as tx:
            await _existing(tx, step_id)
            return await artifacts.of_step(tx, step_id)

    async def _job_for(self, tx: Tx, ledger: Ledger, run: RunState, added: AddedStep) -> tuple[JobState, bool]:
        known = added.job_id or await new_steps.job_named(tx, run.id, added.job_name)
        if known is None:
            stage_index = min(index for (run_id, index), stage in ledger.stages.items() if stage.open_jobs)
            job = await new_steps.insert_job(tx, run, new_id(), added.job_name, stage_index, self._selectors)
            ledger.add_job(job)
            return job, True
        if known not in ledger.jobs:
            raise NotFound(f"job run {str(known)!r} not found in this run")
        job = ledger.jobs[known]
        if job.status.terminal:
            raise InvalidTransition("job run already finished")
        return job, False

    async def _add(
        self, tx: Tx, ledger: Ledger, run: RunState, job: JobState, added: AddedStep, created_by: str, *, begin: bool
    ) -> UUID:
        spec, step_id = added.spec, new_id()
        index = await new_steps.next_index(tx, job.id)
        name = added.job_name or await new_steps.job_name(tx, job.id)
        place = await new_steps.place_of_job(tx, run.id, job.id)
        if faults := check_added_step(spec, place.job, place.stage, place.variables):
            raise ValidationError(faults)
        new = new_step(
            spec,
            index,
            step_id=step_id,
            job_id=job.id,
            run_id=run.id,
            pipeline_id=run.pipeline_id,
            job_name=name,
            run_variables=place.variables,
            job_env=place.job.env,
        )
        step = await new_steps.insert_step(tx, new, self._store.form.encode(new), job, created_by, self._selectors)
        ledger.add_step(step)
        if begin:
            ledger.begin_added(job)
        return step_id


async def _check_not_gated(tx: Tx, ledger: Ledger, job: JobState) -> None:
    """Refuse to change what somebody approves, or has approved.

    Raises:
        InvalidTransition: a gate stands before the job.
    """
    stages = [stage for (run_id, _), stage in ledger.stages.items() if run_id == job.run_id]
    if is_behind_a_gate(job, ledger.jobs, stages, await new_steps.needs_of_run(tx, job.run_id)):
        raise InvalidTransition("the job stands behind an approval: what is approved does not change any more")


async def _existing(tx: Tx, step_id: UUID) -> StepRow:
    row = await step_runs.get(tx, step_id)
    if row is None:
        raise NotFound(f"step run {str(step_id)!r} not found")
    return row
