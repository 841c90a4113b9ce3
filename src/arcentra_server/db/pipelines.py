"""Pipelines and the versions of their definitions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.known_specs import KnownSpecs
from arcentra_server.db.paging import Page
from arcentra_server.domain.definition import PipelineSpec
from arcentra_server.domain.definition_json import digest, from_json, to_json
from arcentra_server.domain.errors import AlreadyExists
from arcentra_server.domain.states import RunStatus

_COLUMNS = """p.id, p.namespace, p.name, p.description, p.enabled, p.spec_version, p.created_by, p.created_at,
    p.updated_at, p.total_runs, p.success_runs, p.failed_runs, p.last_status"""
_SELECT = f"""
    SELECT {_COLUMNS}, s.document, s.digest
      FROM pipelines p JOIN pipeline_specs s ON s.pipeline_id = p.id AND s.version = p.spec_version
"""
_NAMED = "SELECT id FROM pipelines WHERE namespace = $1 AND name = $2 AND deleted_at IS NULL "
_SORT = {"created_at": "p.created_at", "updated_at": "p.updated_at", "name": "p.name", "status": "p.last_status"}


@dataclass(frozen=True, slots=True)
class PipelineRow:
    """A pipeline with the definition in force."""

    id: UUID
    namespace: str
    name: str
    description: str
    enabled: bool
    spec_version: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    total_runs: int
    success_runs: int
    failed_runs: int
    last_status: RunStatus
    spec: PipelineSpec
    digest: bytes


async def get(tx: Tx, pipeline_id: UUID, *, lock: bool = False) -> PipelineRow | None:
    """Return a pipeline that is not deleted; `lock` keeps other writers away until the end of the transaction."""
    if lock:
        # A statement of its own: one that waits for the lock of a joined row still sees the definition that was in
        # force before, which the row that it gets then does not have any more, and finds nothing.
        await tx.execute("SELECT 1 FROM pipelines WHERE id = $1 FOR NO KEY UPDATE", pipeline_id)
    row = await tx.fetchrow(_SELECT + "WHERE p.id = $1 AND p.deleted_at IS NULL", pipeline_id)
    return _pipeline(row) if row else None


async def find(tx: Tx, namespace: str, name: str, *, lock: bool = False) -> PipelineRow | None:
    """Return the pipeline of a name; `lock` as for `get`."""
    if not lock:
        row = await tx.fetchrow(
            _SELECT + "WHERE p.namespace = $1 AND p.name = $2 AND p.deleted_at IS NULL", namespace, name
        )
        return _pipeline(row) if row else None
    while await tx.fetchval(_NAMED, namespace, name):
        # One that lost its name while this waited is not found any more, and another one may have it now.
        if found := await tx.fetchval(_NAMED + "FOR NO KEY UPDATE", namespace, name):
            return await get(tx, found)
    return None


async def spec_of_version(tx: Tx, pipeline_id: UUID, version: int) -> tuple[PipelineSpec, bytes] | None:
    """Return one version of a definition, and its digest."""
    row = await tx.fetchrow(
        "SELECT document, digest FROM pipeline_specs WHERE pipeline_id = $1 AND version = $2", pipeline_id, version
    )
    return (from_json(row["document"]), row["digest"]) if row else None


async def list_page(tx: Tx, *, namespace: str, status: RunStatus | None, page: Page) -> tuple[list[PipelineRow], int]:
    """Return one page of pipelines and how many there are in all."""
    where = "WHERE p.deleted_at IS NULL AND ($1 = '' OR p.namespace = $1) AND ($2::text IS NULL OR p.last_status = $2)"
    state = status.value if status else None
    clause = page.clause(_SORT).replace(", id ", ", p.id ")
    rows = await tx.fetch(_SELECT + where + clause, namespace, state)
    total = await tx.fetchval(f"SELECT count(*) FROM pipelines p {where}", namespace, state)
    return [_pipeline(row) for row in rows], total


async def insert(
    tx: Tx,
    pipeline_id: UUID,
    *,
    namespace: str,
    name: str,
    description: str,
    enabled: bool,
    created_by: str,
    spec: PipelineSpec,
) -> None:
    """Store a new pipeline with version 1 of its definition.

    Raises:
        AlreadyExists: the name is taken in the namespace.
    """
    try:
        await tx.execute(
            """INSERT INTO pipelines (id, namespace, name, description, enabled, created_by)
               VALUES ($1, $2, $3, $4, $5, $6)""",
            pipeline_id,
            namespace,
            name,
            description,
            enabled,
            created_by,
        )
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExists(f"pipeline {name!r} already exists in namespace {namespace!r}") from error
    await insert_spec(tx, pipeline_id, 1, spec, created_by)


async def insert_spec(tx: Tx, pipeline_id: UUID, version: int, spec: PipelineSpec, created_by: str) -> None:
    """Store one version of a definition."""
    await tx.execute(
        "INSERT INTO pipeline_specs (pipeline_id, version, document, digest, created_by) VALUES ($1, $2, $3, $4, $5)",
        pipeline_id,
        version,
        to_json(spec),
        digest(spec),
        created_by,
    )


async def update(tx: Tx, pipeline_id: UUID, *, name: str, description: str, enabled: bool, spec_version: int) -> None:
    """Write the changeable part of a pipeline.

    Raises:
        AlreadyExists: the new name is taken in the namespace.
    """
    try:
        await tx.execute(
            """UPDATE pipelines SET name = $2, description = $3, enabled = $4, spec_version = $5,
                      updated_at = clock_timestamp() WHERE id = $1""",
            pipeline_id,
            name,
            description,
            enabled,
            spec_version,
        )
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExists(f"pipeline {name!r} already exists in its namespace") from error


async def count_run(tx: Tx, pipeline_id: UUID, specs: KnownSpecs) -> PipelineRow | None:
    """Count a run that is being started; return the pipeline, locked, as its definition is now.

    `specs`: definitions that were read before.
    """
    # One that waited for the lock does not see the definition yet that came into force meanwhile: it has no digest then.
    row = await tx.fetchrow(
        f"""UPDATE pipelines p SET total_runs = total_runs + 1, last_status = 'PENDING'
             WHERE id = $1 AND deleted_at IS NULL
         RETURNING {_COLUMNS}, (SELECT s.digest FROM pipeline_specs s
                                 WHERE s.pipeline_id = p.id AND s.version = p.spec_version) AS digest""",
        pipeline_id,
    )
    if row is None:
        return None
    return _with_spec(row, *await specs.get(tx, pipeline_id, row["spec_version"], row["digest"]))


async def has_active_run(tx: Tx, pipeline_id: UUID) -> bool:
    """Answer whether a run of the pipeline is not finished."""
    query = "SELECT EXISTS (SELECT 1 FROM pipeline_runs WHERE pipeline_id = $1 AND finished_at IS NULL)"
    return bool(await tx.fetchval(query, pipeline_id))


async def delete(tx: Tx, pipeline_id: UUID) -> None:
    """Mark a pipeline as deleted; its name is free again, its runs stay."""
    await tx.execute("UPDATE pipelines SET deleted_at = clock_timestamp(), enabled = false WHERE id = $1", pipeline_id)


def _pipeline(row: Row) -> PipelineRow:
    return _with_spec(row, from_json(row["document"]), row["digest"])


def _with_spec(row: Row, spec: PipelineSpec, digest: bytes) -> PipelineRow:
    return PipelineRow(
        id=row["id"],
        namespace=row["namespace"],
        name=row["name"],
        description=row["description"],
        enabled=row["enabled"],
        spec_version=row["spec_version"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        total_runs=row["total_runs"],
        success_runs=row["success_runs"],
        failed_runs=row["failed_runs"],
        last_status=RunStatus(row["last_status"]),
        spec=spec,
        digest=digest,
    )
