"""Pipelines: create, change, find, delete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from arcentra_server.db import pipelines
from arcentra_server.db.engine import Database, Tx, new_id
from arcentra_server.db.paging import Page
from arcentra_server.db.pipelines import PipelineRow
from arcentra_server.domain.definition import DEFAULT_NAMESPACE, PipelineSpec, StageSpec, check_name, check_pipeline
from arcentra_server.domain.errors import AlreadyExists, InvalidTransition, NotFound, ValidationError
from arcentra_server.domain.states import RunStatus


@dataclass(frozen=True, slots=True)
class NewPipeline:
    """A pipeline as a caller defines it. Empty `namespace`: `default`; empty `name`: the pipeline's id."""

    spec: PipelineSpec
    namespace: str = ""
    name: str = ""
    description: str = ""
    enabled: bool = True


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


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying a definition did."""

    pipeline: PipelineRow
    created: bool
    changed: bool


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
        _check(new)
        pipeline_id = new_id()
        async with self._database.transaction() as tx:
            await _insert(tx, pipeline_id, new, created_by)
        return pipeline_id

    async def apply(self, new: NewPipeline, applied_by: str) -> Applied:
        """Create the pipeline of this name, or bring it to this definition. Repeating a call changes nothing.

        Raises:
            ValidationError: the definition has faults, or no name.
        """
        _check(new, name_needed=True)
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
            spec = PipelineSpec(
                known.spec.stages if change.stages is None else change.stages,
                known.spec.variables if change.variables is None else change.variables,
                known.spec.jobs_only if change.stages is None else change.jobs_only,
            )
            faults = check_pipeline(spec) + (check_name(change.name, "name") if change.name else [])
            if faults:
                raise ValidationError(faults)
            changed = replace(
                known,
                name=change.name or known.name,
                description=change.description or known.description,
                enabled=known.enabled if change.enabled is None else change.enabled,
            )
            await _write(tx, known, changed_by, spec, changed)

    async def get(self, pipeline_id: UUID) -> PipelineRow:
        """Return a pipeline.

        Raises:
            NotFound: no such pipeline.
        """
        async with self._database.transaction() as tx:
            return await _existing(tx, pipeline_id)

    async def find(self, namespace: str, name: str) -> PipelineRow:
        """Return the pipeline of a name.

        Raises:
            NotFound: no such pipeline.
        """
        async with self._database.transaction() as tx:
            row = await pipelines.find(tx, namespace or DEFAULT_NAMESPACE, name)
        if row is None:
            raise NotFound(f"pipeline {name!r} not found in namespace {namespace or DEFAULT_NAMESPACE!r}")
        return row

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


def _check(new: NewPipeline, *, name_needed: bool = False) -> None:
    faults = check_name(new.namespace, "namespace") if new.namespace else []
    if new.name or name_needed:
        faults += check_name(new.name, "name")
    faults += check_pipeline(new.spec)
    if faults:
        raise ValidationError(faults)


async def _existing(tx: Tx, pipeline_id: UUID, *, lock: bool = False) -> PipelineRow:
    row = await pipelines.get(tx, pipeline_id, lock=lock)
    if row is None:
        raise NotFound(f"pipeline {str(pipeline_id)!r} not found")
    return row


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


async def _write(tx: Tx, known: PipelineRow, changed_by: str, spec: PipelineSpec, changed: PipelineRow) -> bool:
    """Write what differs; True when anything did. A definition that differs becomes a new version."""
    version = known.spec_version
    if spec.digest() != known.digest:
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
    return True
