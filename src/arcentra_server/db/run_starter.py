"""Start runs: the one way in which a call, a tick or an event becomes a run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import new_runs, pipelines, runs
from arcentra_server.db.engine import Tx, new_id
from arcentra_server.db.execution import load_run
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.db.known_fleet import KnownFleet
from arcentra_server.db.known_specs import KnownSpecs
from arcentra_server.db.new_runs import SelectorIds
from arcentra_server.db.pipelines import PipelineRow
from arcentra_server.domain.definition import PipelineSpec
from arcentra_server.domain.definition_checks import too_many_needs, total_steps
from arcentra_server.domain.errors import (
    AlreadyExists,
    Fault,
    InvalidTransition,
    LimitExceeded,
    NotFound,
    ValidationError,
)
from arcentra_server.domain.execution import StageDue
from arcentra_server.domain.field_checks import check_env
from arcentra_server.domain.instantiate import NewRun, Trigger, instantiate
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.run_variables import check_given, undeclared_warnings

LARGE_STEPS = 200
LARGEST_RUN = 128 * 1024 * 1024  # bytes of its step runs, as they are stored for dispatch
LOOK_SECONDS = 5.0  # that a run which is committed waits for its warnings: well within the deadline of a call

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Started:
    """A run that was started, or that the same request had started.

    `warnings`: what may keep it from going on; `not_cloned`: see `NewRun`.
    """

    run_id: UUID
    job_ids: list[UUID]
    warnings: Sequence[Fault] = ()
    not_cloned: str = ""


class RunStarter:
    """See the module. `job_timeout_ms`: the time limit of jobs that state none."""

    def __init__(self, store: ExecutionStore, selectors: SelectorIds, *, job_timeout_ms: int | None = None) -> None:
        self._store = store
        self._selectors = selectors
        self._job_timeout_ms = job_timeout_ms
        self._specs = KnownSpecs()
        self._fleet = KnownFleet()

    async def start(self, pipeline_id: UUID, trigger: Trigger) -> Started:
        """Start a run. The same `request_id` answers with the same run.

        Raises:
            NotFound: no such pipeline.
            InvalidTransition: the pipeline is disabled.
            ValidationError: a variable has a fault, or is one that only the definition may declare.
            LimitExceeded: the run would be too large, or the addresses of its sources take too much to evaluate.
        """
        faults = check_env(trigger.variables, "variables")
        if faults:
            raise ValidationError(faults)
        try:
            return await self._start(pipeline_id, trigger)
        except AlreadyExists:
            # The same request was taken at the same time: now its run is there to be found.
            return await self._start(pipeline_id, trigger)

    async def _start(self, pipeline_id: UUID, trigger: Trigger) -> Started:
        async def decide(tx: Tx, ledger: Ledger) -> tuple[Started, PipelineSpec | None]:
            if trigger.request_id is not None:
                known = await runs.of_request(tx, pipeline_id, trigger.request_id)
                if known is not None:
                    return Started(known, await runs.job_ids(tx, known)), None
            # Locked from here on, for all other triggers of the pipeline.
            pipeline = await self._counted(tx, pipeline_id)
            may_change = trigger.may_change
            if unfit := check_given(trigger.variables, pipeline.spec, "variables", may_change=may_change):
                raise ValidationError(unfit)
            if fault := too_many_needs(pipeline.spec):
                raise LimitExceeded(fault)  # it was stored before this was checked
            large = total_steps(pipeline.spec) > LARGE_STEPS
            # In a thread: a run of thousands of steps takes longer to build than the loop may stand still.
            build = asyncio.to_thread(self._build, pipeline, trigger) if large else None
            run, dispatches = await build if build else self._build(pipeline, trigger)
            size = sum(map(len, dispatches.values()))
            if size > LARGEST_RUN:
                raise LimitExceeded(f"the run would take {size} bytes, more than {LARGEST_RUN}: use fewer variables")
            ledger.stored_queued = await new_runs.insert(tx, run, dispatches, self._selectors)
            if not run.starts_plainly:
                await load_run(tx, ledger, run.id)
                ledger.due_stages[run.id, 0] = StageDue(run.id, 0)
            warnings = undeclared_warnings(trigger.variables, pipeline.spec)
            crashpoint("trigger.before_commit")
            return Started(run.id, [job.id for job in run.jobs], warnings, run.not_cloned), pipeline.spec

        started, spec = await self._store.change(decide, place=True)
        crashpoint("trigger.after_commit")
        # After the commit, so that no other trigger of the pipeline waits for it. An answer of before is given as it was.
        return started if spec is None else await self._with_fleet_warnings(started, spec)

    async def _with_fleet_warnings(self, started: Started, spec: PipelineSpec) -> Started:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                warnings = await self._fleet.warnings(self._store, spec)
        except Exception as error:  # noqa: BLE001 - the run is there: whatever it is, it would say that it is not
            _log.warning("fleet_not_looked_at", run_id=str(started.run_id), exc_info=error)
            return started
        return replace(started, warnings=[*started.warnings, *warnings])

    async def _counted(self, tx: Tx, pipeline_id: UUID) -> PipelineRow:
        pipeline = await pipelines.count_run(tx, pipeline_id, self._specs)
        if pipeline is None:
            raise NotFound(f"pipeline {str(pipeline_id)!r} not found")
        if not pipeline.enabled:
            raise InvalidTransition("the pipeline is disabled: enable it to trigger it")
        return pipeline

    def _build(self, pipeline: PipelineRow, trigger: Trigger) -> tuple[NewRun, dict[UUID, bytes]]:
        """Return a run to be stored, and the wire forms of its steps."""
        run = instantiate(
            pipeline.spec,
            trigger,
            pipeline_id=pipeline.id,
            namespace=pipeline.namespace,
            spec_version=pipeline.spec_version,
            new_id=new_id,
            job_timeout_ms=self._job_timeout_ms,
            pipeline_name=pipeline.name,
        )
        return run, {step.id: self._store.form.encode(step) for _, step in run.steps()}
