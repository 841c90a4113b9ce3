"""Pipelines: create, change, find, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from arcentra_server.db import agents, pipelines, triggers
from arcentra_server.db.engine import Database, Tx, new_id
from arcentra_server.db.paging import Page
from arcentra_server.db.pipelines import PipelineRow
from arcentra_server.domain.clear_secrets import secret_warnings
from arcentra_server.domain.definition import DEFAULT_NAMESPACE, PipelineSpec, StageSpec, TriggerSpec
from arcentra_server.domain.definition_checks import check_pipeline, total_jobs, total_steps
from arcentra_server.domain.definition_json import digest
from arcentra_server.domain.errors import AlreadyExists, Fault, InvalidTransition, NotFound, ValidationError
from arcentra_server.domain.expressions.check import expression_warnings
from arcentra_server.domain.field_checks import check_name
from arcentra_server.domain.fleet import AgentLabels, fleet_warnings
from arcentra_server.domain.states import RunStatus


@dataclass(frozen=True, slots=True)
class NewPipeline:
    """A pipeline as a caller defines it. Empty `namespace`: `default`; empty `name`: the pipeline's id.

    `checked`: whether its definition went through `check_pipeline` and has no fault.
    """

    spec: PipelineSpec
    namespace: str = ""
    name: str = ""
    description: str = ""
    enabled: bool = True
    checked: bool = False


@dataclass(frozen=True, slots=True)
class PipelineChange:
    """What to change of a pipeline; empty or None leaves it as it is."""

    name: str = ""
    description: str = ""
    enabled: bool | None = None
    namespace: str = ""
    variables: Mapping[str, str] | None = None
    stages: tuple[StageSpec, ...] | None = None
    jobs_only: bool = False
    timeout_ms: int | None = None
    triggers: tuple[TriggerSpec, ...] | None = None

    def apply_to(self, spec: PipelineSpec) -> PipelineSpec:
        """Return the definition with the change."""
        return PipelineSpec(
            stages=spec.stages if self.stages is None else self.stages,
            variables=spec.variables if self.variables is None else self.variables,
            jobs_only=spec.jobs_only if self.stages is None else self.jobs_only,
            timeout_ms=spec.timeout_ms if self.timeout_ms is None else self.timeout_ms,
            triggers=spec.triggers if self.triggers is None else self.triggers,
        )


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying a definition did."""

    pipeline: PipelineRow
    created: bool
    changed: bool


@dataclass(frozen=True, slots=True)
class Examined:
    """What a definition without faults makes of a run, and what may keep that from running as it is meant."""

    warnings: tuple[Fault, ...]
    total_jobs: int
    total_steps: int


class PipelineService:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, new: NewPipeline, created_by: str) -> UUID:
        """Store a new pipeline.

        Raises:
            ValidationError: the definition has faults; all of them are named.
            AlreadyExists: the name is taken in the namespace.
        """
        await _check(new)
        pipeline_id = new_id()
        async with self._database.transaction() as tx:
            await _insert(tx, pipeline_id, new, created_by)
        return pipeline_id

    async def apply(self, new: NewPipeline, applied_by: str) -> Applied:
        """Create the pipeline of this name, or bring it to this definition. Repeating a call changes nothing.

        Raises:
            ValidationError: the definition has faults, or no name.
        """
        await _check(new, name_needed=True)
        try:
            return await self._apply(new, applied_by)
        except AlreadyExists:
            # Somebody else created it between our look and our insert: now it is there to be updated.
            return await self._apply(new, applied_by)

    async def _apply(self, new: NewPipeline, applied_by: str) -> Applied:
        namespace = new.namespace or DEFAULT_NAMESPACE
        async with self._database.transaction() as tx:
            known = await pipelines.find(tx, namespace, new.name, lock=True)
            if known is None:
                pipeline_id = new_id()
                await _insert(tx, pipeline_id, new, applied_by)
                changed = True
            else:
                pipeline_id = known.id
                changed = await _write(
                    tx, known, applied_by, new.spec, replace(known, description=new.description, enabled=new.enabled)
                )
            row = await pipelines.get(tx, pipeline_id)
        if row is None:
            raise NotFound("pipeline not found")
        return Applied(row, known is None, changed)

    async def examine(self, spec: PipelineSpec) -> Examined:
        """Return what there is to say about a definition that has no fault."""
        async with self._database.transaction() as tx:
            fleet = await agents.labels_of_all(tx)
        # In a thread: a large definition takes longer than the loop may stand still.
        return await asyncio.to_thread(_examine, spec, fleet)

    async def update(self, pipeline_id: UUID, change: PipelineChange, changed_by: str) -> None:
        """Change a pipeline. Runs that were started keep the definition they were started with.

        Raises:
            NotFound: no such pipeline.
            ValidationError: the new definition has faults, or the namespace would change.
            AlreadyExists: the new name is taken.
        """
        async with self._database.transaction() as tx:
            known = await _existing(tx, pipeline_id, lock=True)
            if change.namespace and change.namespace != known.namespace:
                raise ValidationError.at("namespace", f"is {known.namespace!r} and cannot be changed")
            spec = change.apply_to(known.spec)
            # A definition that stays as it is may be older than a check that it would not pass.
            faults = await asyncio.to_thread(check_pipeline, spec) if spec != known.spec else []
            faults += check_name(change.name, "name") if change.name else []
            if faults:
                raise ValidationError(faults)
            changed = replace(
                known,
                name=change.name or known.name,
                description=change.description or known.description,
                enabled=known.enabled if change.enabled is None else change.enabled,
            )
            await _write(tx, known, changed_by, spec, changed)

    async def get(self, pipeline_id: UUID, version: int = 0) -> PipelineRow:
        """Return a pipeline with a version of its definition, 0 for the one in force.

        Raises:
            NotFound: no such pipeline, or no such version of it.
        """
        async with self._database.transaction() as tx:
            return await _at_version(tx, await _existing(tx, pipeline_id), version)

    async def find(self, namespace: str, name: str, version: int = 0) -> PipelineRow:
        """Return the pipeline of a name with a version of its definition, 0 for the one in force.

        Raises:
            NotFound: no such pipeline, or no such version of it.
        """
        async with self._database.transaction() as tx:
            row = await pipelines.find(tx, namespace or DEFAULT_NAMESPACE, name)
            if row is None:
                raise NotFound(f"pipeline {name!r} not found in namespace {namespace or DEFAULT_NAMESPACE!r}")
            return await _at_version(tx, row, version)

    async def list_page(self, *, namespace: str, status: RunStatus | None, page: Page) -> tuple[list[PipelineRow], int]:
        """Return one page of pipelines and how many there are."""
        async with self._database.transaction() as tx:
            return await pipelines.list_page(tx, namespace=namespace, status=status, page=page)

    async def delete(self, pipeline_id: UUID) -> None:
        """Delete a pipeline; its runs and their logs stay.

        Raises:
            NotFound: no such pipeline.
            InvalidTransition: a run of it is not finished.
        """
        async with self._database.transaction() as tx:
            await _existing(tx, pipeline_id, lock=True)
            if await pipelines.has_active_run(tx, pipeline_id):
                raise InvalidTransition("the pipeline has a run that is not finished: stop it, or wait for its end")
            await pipelines.delete(tx, pipeline_id)
            await triggers.remove(tx, pipeline_id)


async def _check(new: NewPipeline, *, name_needed: bool = False) -> None:
    faults = check_name(new.namespace, "namespace") if new.namespace else []
    if new.name or name_needed:
        faults += check_name(new.name, "name")
    if not new.checked:
        # In a thread: a large definition takes longer than the loop may stand still.
        faults += await asyncio.to_thread(check_pipeline, new.spec)
    if faults:
        raise ValidationError(faults)


def _examine(spec: PipelineSpec, fleet: Sequence[AgentLabels]) -> Examined:
    warnings = secret_warnings(spec) + expression_warnings(spec) + fleet_warnings(spec, fleet)
    return Examined(tuple(warnings), total_jobs(spec), total_steps(spec))


async def _existing(tx: Tx, pipeline_id: UUID, *, lock: bool = False) -> PipelineRow:
    row = await pipelines.get(tx, pipeline_id, lock=lock)
    if row is None:
        raise NotFound(f"pipeline {str(pipeline_id)!r} not found")
    return row


async def _at_version(tx: Tx, row: PipelineRow, version: int) -> PipelineRow:
    if version in (0, row.spec_version):
        return row
    found = await pipelines.spec_of_version(tx, row.id, version)
    if found is None:
        raise NotFound(f"version {version} of pipeline {row.name!r} not found: it has 1 to {row.spec_version}")
    return replace(row, spec_version=version, spec=found[0], digest=found[1])


async def _insert(tx: Tx, pipeline_id: UUID, new: NewPipeline, created_by: str) -> None:
    await pipelines.insert(
        tx,
        pipeline_id,
        namespace=new.namespace or DEFAULT_NAMESPACE,
        name=new.name or str(pipeline_id),
        description=new.description,
        enabled=new.enabled,
        created_by=created_by,
        spec=new.spec,
    )
    await triggers.replace(tx, pipeline_id, new.spec, enabled=new.enabled)


async def _write(tx: Tx, known: PipelineRow, changed_by: str, spec: PipelineSpec, changed: PipelineRow) -> bool:
    """Write what differs; True when anything did. A definition that differs becomes a new version."""
    version = known.spec_version
    # What is stored may have been written by an earlier version, in another form.
    if digest(spec) != known.digest and digest(spec) != digest(known.spec):
        version += 1
        await pipelines.insert_spec(tx, known.id, version, spec, changed_by)
    elif changed == known:
        return False
    await pipelines.update(
        tx,
        known.id,
        name=changed.name,
        description=changed.description,
        enabled=changed.enabled,
        spec_version=version,
    )
    await triggers.replace(tx, known.id, spec, enabled=changed.enabled)
    return True
