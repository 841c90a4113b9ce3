"""Pipeline runs: start, stop, pause, look at; and what concerns a whole job of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import artifacts, deployments, new_steps, pipelines, runs, step_runs
from arcentra_server.db.deployments import DeploymentFilter, DeploymentRow
from arcentra_server.db.engine import Tx, new_id
from arcentra_server.db.execution import load_run
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.db.paging import Page
from arcentra_server.db.run_starter import RunStarter, Started
from arcentra_server.db.runs import RunRow
from arcentra_server.domain import rollup
from arcentra_server.domain.errors import InvalidTransition, LeaseLost, NotFound, NotLeased
from arcentra_server.domain.execution import JobState, RunState
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.ledger import LEASE_LOST, NOT_LEASED, Ledger
from arcentra_server.domain.retries import open_needs, to_retry
from arcentra_server.domain.states import RUN_FAILURES, FailureReason, GateState, RunStatus


@dataclass(frozen=True, slots=True)
class JobReport:
    """What an agent says of a whole job. Only FAILED and CANCELLED change it: its state follows from its steps."""

    agent_id: UUID
    job_id: UUID
    status: RunStatus
    error_message: str = ""
    artifact_uris: Mapping[str, str] | None = None


class RetryScope(StrEnum):
    """What of a run is retried: everything, or what did not end well and what was skipped because of it."""

    ALL = "all"
    FAILED = "failed"


class RunService:
    """See the module."""

    def __init__(self, store: ExecutionStore, starter: RunStarter) -> None:
        self._store = store
        self._database = store.database
        self._starter = starter

    async def trigger(self, pipeline_id: UUID, trigger: Trigger) -> Started:
        """Start a run. The same `request_id` answers with the same run.

        Raises:
            NotFound: no such pipeline.
            InvalidTransition: the pipeline is disabled.
            ValidationError: a variable has a fault.
            LimitExceeded: the run would be too large.
        """
        return await self._starter.start(pipeline_id, trigger)

    async def retry(self, run_id: UUID, scope: RetryScope, actor: str = "") -> list[UUID]:
        """Run again what a run that has ended left undone, or all of it; return the job runs that run again.

        `actor` may not decide a gate of the run that separates the two; empty: nobody asked for it.

        Raises:
            NotFound: no such run.
            InvalidTransition: the run has not ended, or there is nothing to retry.
        """

        async def decide(tx: Tx, ledger: Ledger) -> list[UUID]:
            run = await _locked(tx, ledger, run_id, None)
            if not run.status.terminal:
                raise InvalidTransition("the run has not ended: stop it, or retry a job of it")
            if await pipelines.get(tx, run.pipeline_id, lock=True) is None:
                raise InvalidTransition("the pipeline is deleted")
            needs = await new_steps.needs_of_run(tx, run_id)
            jobs = to_retry(
                list(ledger.jobs.values()),
                needs,
                refused_stages=ledger.refused_stages(run_id),
                everything=scope is RetryScope.ALL,
            )
            if not jobs:
                raise InvalidTransition("every job of the run ended well: retry all of it, or trigger it again")
            attempts = await new_steps.copy_attempts(tx, [job.id for job in jobs], new_id)
            await runs.add_actor(tx, run_id, actor)
            ledger.reopen(run, jobs, attempts, open_needs(jobs, list(ledger.jobs.values()), needs))
            return [job.id for job in jobs]

        opened = await self._store.change(decide)
        crashpoint("retry_run.after_commit")
        return opened

    async def stop(self, run_id: UUID, pipeline_id: UUID | None, reason: str) -> None:
        """End a run: what waits is cancelled now, what runs is asked to end. Final. Repeating it changes nothing.

        Raises:
            NotFound: no such run, or not of this pipeline.
            InvalidTransition: the run finished otherwise.
        """

        async def decide(tx: Tx, ledger: Ledger) -> None:
            run = await _locked(tx, ledger, run_id, pipeline_id)
            if run.stopped or run.status is RunStatus.CANCELLED:
                return
            ledger.stop_run(run, reason)

        await self._store.change(decide)
        crashpoint("stop_run.after_commit")

    async def pause(self, run_id: UUID, pipeline_id: UUID | None, reason: str, actor: str) -> None:
        """Let a run start nothing new. What runs goes on. Repeating it changes nothing.

        Raises:
            NotFound: no such run, or not of this pipeline.
            InvalidTransition: the run is finished, is being stopped, or its time is over.
        """

        async def decide(tx: Tx, ledger: Ledger) -> None:
            run = await _locked(tx, ledger, run_id, pipeline_id)
            if run.paused:
                return
            if run.status.terminal:
                raise InvalidTransition("pipeline run already finished")
            if run.ending:
                raise InvalidTransition("the run is being ended")
            ledger.pause(run, reason, actor)
            await runs.hold_queue(tx, run_id, held=True)

        await self._store.change(decide)

    async def resume(self, run_id: UUID, pipeline_id: UUID | None, reason: str, actor: str) -> None:
        """Let a paused run go on. Repeating it changes nothing.

        Raises:
            NotFound: no such run, or not of this pipeline.
            InvalidTransition: the run is finished.
        """

        async def decide(tx: Tx, ledger: Ledger) -> None:
            run = await _locked(tx, ledger, run_id, pipeline_id)
            if run.status.terminal:
                raise InvalidTransition("pipeline run already finished")
            if run.paused:
                ledger.resume(run, reason, actor)
                await runs.hold_queue(tx, run_id, held=False)

        await self._store.change(decide)
        self._store.announce_new_work()

    async def get(self, run_id: UUID) -> RunRow:
        """Return a run with its jobs and steps.

        Raises:
            NotFound: no such run.
        """
        async with self._database.transaction(snapshot=True) as tx:
            row = await runs.get(tx, run_id)
        if row is None:
            raise NotFound(f"pipeline run {str(run_id)!r} not found")
        return row

    async def list_page(
        self, *, pipeline_id: UUID | None, namespace: str, status: RunStatus | None, page: Page
    ) -> tuple[list[RunRow], int]:
        """Return one page of runs, without their jobs, and how many there are."""
        async with self._database.transaction() as tx:
            return await runs.list_page(tx, pipeline_id=pipeline_id, namespace=namespace, status=status, page=page)

    async def list_deployments(self, wanted: DeploymentFilter, page: Page) -> tuple[list[DeploymentRow], int]:
        """Return one page of deployments, the newest first, and how many there are."""
        async with self._database.transaction() as tx:
            return await deployments.list_page(tx, wanted, page)

    async def cancel_job(self, job_id: UUID, reason: str) -> None:
        """End one job of a run. Repeating it changes nothing.

        Raises:
            NotFound: no such job run.
            InvalidTransition: the job finished otherwise.
        """

        async def decide(tx: Tx, ledger: Ledger) -> None:
            job = await _locked_job(tx, ledger, job_id)
            if job.status is RunStatus.CANCELLED:
                return
            if job.status.terminal:
                raise InvalidTransition("job run already finished")
            ledger.cancel_job(job, reason)

        await self._store.change(decide)
        crashpoint("cancel_job.after_commit")

    async def report_job(self, report: JobReport) -> None:
        """Take what the agent that holds a job says of it, and where its artifacts are.

        Raises:
            NotLeased: the job is unknown, or the agent ran no step of it.
            LeaseLost: the agent was lost while it ran a step of the job.
            InvalidTransition: the job has not ended in the way that is reported.
        """

        async def decide(tx: Tx, ledger: Ledger) -> None:
            run_id = await runs.run_of_job(tx, report.job_id)
            if run_id is None:
                raise NotLeased(NOT_LEASED)
            await load_run(tx, ledger, run_id)
            job = ledger.jobs[report.job_id]
            in_force = await step_runs.part_in_job(tx, job.id, report.agent_id)
            if in_force is None:
                raise NotLeased(NOT_LEASED)
            if job.failure_reason is FailureReason.AGENT_LOST and await step_runs.lost_by(tx, job.id, report.agent_id):
                raise LeaseLost(LEASE_LOST)  # it is back, and changes nothing any more
            if job.agent_id == report.agent_id:
                _take(ledger, job, report)
            # What an earlier attempt left behind is kept; of the one in force its agent has no say any more.
            await artifacts.store(tx, job.id, report.artifact_uris or {}, new_id, in_force=in_force)

        await self._store.change(decide)


def _take(ledger: Ledger, job: JobState, report: JobReport) -> None:
    if report.status is RunStatus.RUNNING or report.status is job.status:
        return
    if job.status.terminal:
        if report.status in RUN_FAILURES and rollup.blocks(job.status):
            return  # it was given up before, or failed meanwhile
        raise InvalidTransition(f"the job run finished as {job.status}")
    if job.gate is GateState.WAITING:
        return  # its steps have ended, and people decide what becomes of it
    if report.status in RUN_FAILURES:
        ledger.fail_job(job, report.error_message or "the agent gave the job up")
    elif report.status is RunStatus.CANCELLED:
        ledger.cancel_job(job, report.error_message or "cancelled by the agent")
    else:
        raise InvalidTransition("the job run has steps that are not finished")


async def _locked(tx: Tx, ledger: Ledger, run_id: UUID, pipeline_id: UUID | None) -> RunState:
    run = await load_run(tx, ledger, run_id)
    if run is None or (pipeline_id is not None and run.pipeline_id != pipeline_id):
        raise NotFound(f"pipeline run {str(run_id)!r} not found")
    return run


async def _locked_job(tx: Tx, ledger: Ledger, job_id: UUID) -> JobState:
    run_id = await runs.run_of_job(tx, job_id)
    if run_id is None:
        raise NotFound(f"job run {str(job_id)!r} not found")
    await load_run(tx, ledger, run_id)
    return ledger.jobs[job_id]
