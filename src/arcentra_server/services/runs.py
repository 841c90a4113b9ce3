"""Pipeline runs: start, stop, pause, look at; and what concerns a whole job of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.db import artifacts, new_runs, pipelines, runs
from arcentra_server.db.engine import Tx, new_id
from arcentra_server.db.execution import load_run
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.db.new_runs import SelectorIds
from arcentra_server.db.paging import Page
from arcentra_server.db.runs import RunRow
from arcentra_server.domain import rollup
from arcentra_server.domain.definition import check_env
from arcentra_server.domain.errors import (
    AlreadyExists,
    InvalidTransition,
    LimitExceeded,
    NotFound,
    NotLeased,
    ValidationError,
)
from arcentra_server.domain.execution import JobState, RunState
from arcentra_server.domain.instantiate import Trigger, instantiate
from arcentra_server.domain.ledger import NOT_LEASED, Ledger
from arcentra_server.domain.ports import DispatchEncoder
from arcentra_server.domain.states import RUN_FAILURES, RunStatus

LARGEST_RUN = 128 * 1024 * 1024  # bytes of its step runs, as they are stored for dispatch


@dataclass(frozen=True, slots=True)
class JobReport:
    """What an agent says of a whole job. Only FAILED and CANCELLED change it: its state follows from its steps."""

    agent_id: UUID
    job_id: UUID
    status: RunStatus
    error_message: str = ""
    artifact_uris: Mapping[str, str] | None = None


class RunService:
    """See the module. `encode` builds the stored wire form of a step run."""

    def __init__(self, store: ExecutionStore, encode: DispatchEncoder, selectors: SelectorIds) -> None:
        self._selectors = selectors
        self._store = store
        self._database = store.database
        self._encode = encode

    async def trigger(self, pipeline_id: UUID, trigger: Trigger) -> tuple[UUID, list[UUID]]:
        """Start a run; return its id and those of its job runs. The same `request_id` answers with the same run.

        Raises:
            NotFound: no such pipeline.
            InvalidTransition: the pipeline is disabled.
            ValidationError: a variable has a fault.
        """
        faults = check_env(trigger.variables, "variables")
        if faults:
            raise ValidationError(faults)
        try:
            return await self._trigger(pipeline_id, trigger)
        except AlreadyExists:
            # The same request was taken at the same time: now its run is there to be found.
            return await self._trigger(pipeline_id, trigger)

    async def _trigger(self, pipeline_id: UUID, trigger: Trigger) -> tuple[UUID, list[UUID]]:
        async with self._database.transaction() as tx:
            if trigger.request_id is not None:
                known = await runs.of_request(tx, pipeline_id, trigger.request_id)
                if known is not None:
                    return known, await runs.job_ids(tx, known)
            pipeline = await pipelines.count_run(tx, pipeline_id)
            if pipeline is None:
                raise NotFound(f"pipeline {str(pipeline_id)!r} not found")
            if not pipeline.enabled:
                raise InvalidTransition("the pipeline is disabled: enable it to trigger it")
            run = instantiate(
                pipeline.spec,
                trigger,
                pipeline_id=pipeline.id,
                namespace=pipeline.namespace,
                spec_version=pipeline.spec_version,
                new_id=new_id,
            )
            dispatches = {step.id: self._encode(step) for _, step in run.steps()}
            size = sum(map(len, dispatches.values()))
            if size > LARGEST_RUN:
                raise LimitExceeded(f"the run would take {size} bytes, more than {LARGEST_RUN}: use fewer variables")
            await new_runs.insert(tx, run, dispatches, self._selectors)
        self._store.announce_new_work()
        return run.id, [job.id for job in run.jobs]

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

    async def pause(self, run_id: UUID, pipeline_id: UUID | None, reason: str, actor: str) -> None:
        """Let a run start nothing new. What runs goes on. Repeating it changes nothing.

        Raises:
            NotFound: no such run, or not of this pipeline.
            InvalidTransition: the run is finished, or being stopped.
        """

        async def decide(tx: Tx, ledger: Ledger) -> None:
            run = await _locked(tx, ledger, run_id, pipeline_id)
            if run.paused:
                return
            if run.stopped:
                raise InvalidTransition("the run is being stopped")
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

    async def report_job(self, report: JobReport) -> None:
        """Take what the agent that holds a job says of it, and where its artifacts are.

        Raises:
            NotLeased: the job is unknown, or another agent's.
            InvalidTransition: the job has not ended in the way that is reported.
        """

        async def decide(tx: Tx, ledger: Ledger) -> None:
            run_id = await runs.run_of_job(tx, report.job_id)
            if run_id is None:
                raise NotLeased(NOT_LEASED)
            await load_run(tx, ledger, run_id)
            job = ledger.jobs[report.job_id]
            if job.agent_id != report.agent_id:
                raise NotLeased(NOT_LEASED)
            _take(ledger, job, report)
            await artifacts.store(tx, job.id, report.artifact_uris or {}, new_id)

        await self._store.change(decide)


def _take(ledger: Ledger, job: JobState, report: JobReport) -> None:
    if report.status is RunStatus.RUNNING or report.status is job.status:
        return
    if job.status.terminal:
        if report.status in RUN_FAILURES and rollup.blocks(job.status):
            return  # it was given up before, or failed meanwhile
        raise InvalidTransition(f"the job run finished as {job.status}")
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
